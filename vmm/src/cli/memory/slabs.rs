//! `aerostat memory slabs`: the caches, and how much of their frames is waste.

use memsvc::{
    core::units::FRAME_SIZE,
    stats::{CacheInfo, SlabInfo},
};

use super::super::table::{self, Column, grouped};

/// What `GET /memory/slabs` says.
pub(super) fn human(info: &SlabInfo) -> String {
    if info.caches.is_empty() {
        return "No slab cache was ever used.\n".to_owned();
    }
    let mut header =
        ["active", "total", "size", "per slab", "frames per slab", "slabs", "of reserve", "waste"]
            .map(Column::Right)
            .to_vec();
    header.insert(0, Column::Left("name"));
    let rows: Vec<_> = info.caches.iter().map(row).collect();
    table::columns(&header, &rows)
}

fn row(cache: &CacheInfo) -> Vec<String> {
    let counts = [
        cache.active_objects,
        cache.objects,
        cache.object_size.into(),
        cache.objects_per_slab.into(),
        cache.frames_per_slab.into(),
        cache.slabs,
        cache.reserve_slabs,
    ];
    let mut row = vec![cache.name.clone()];
    row.extend(counts.map(grouped));
    row.push(waste(cache));
    row
}

/// What the frames hold beyond what was asked for: free places, rounding, headers.
fn waste(cache: &CacheInfo) -> String {
    let held = cache.slabs as f64 * f64::from(cache.frames_per_slab) * FRAME_SIZE as f64;
    if held == 0.0 {
        return "-".to_owned();
    }
    format!("{:.1} %", 100.0 * (1.0 - cache.requested_bytes as f64 / held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waste_is_what_nobody_asked_for() {
        let cache = CacheInfo {
            name: "kmem-1536".to_owned(),
            object_size: 1536,
            active_objects: 8000,
            objects: 8192,
            objects_per_slab: 8,
            frames_per_slab: 3,
            slabs: 1024,
            reserve_slabs: 1,
            requested_bytes: 8000 * 1500,
        };
        let unused = CacheInfo { name: "movable-96".to_owned(), object_size: 96, ..CacheInfo::default() };
        let text = human(&SlabInfo { caches: vec![cache, unused] });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "name        active  total   size  per slab  frames per slab  slabs  of reserve  waste"
        );
        assert_eq!(
            lines[1],
            "kmem-1536    8,000  8,192  1,536         8                3  1,024           1  4.6 %"
        );
        assert!(lines[2].ends_with("0           0      -"), "{text}");
    }
}
