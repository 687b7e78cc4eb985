//! `aerostat memory buddy`: free chunks by order, and what a request of each order can hope for.

use std::fmt::Write;

use memsvc::stats::{BuddyInfo, OrderInfo};

use super::{
    super::table::{self, Column, grouped},
    amount::frames,
};

/// Up to this index (thousandths) a request fails for lack of memory, above it because of
/// fragmentation (`sysctl_extfrag_threshold`, mm/compaction.c).
const EXTFRAG_THRESHOLD: i32 = 500;

/// What `GET /memory/buddy` says.
pub(super) fn human(info: &BuddyInfo) -> String {
    let counts: Vec<_> = info.orders.iter().map(|order| grouped(order.free_chunks)).collect();
    let mut text = format!(
        "Free     {} frames, {}, without what per-CPU lists hold\nBy order {}\n\n",
        grouped(info.free_frames),
        frames(info.free_frames),
        counts.iter().map(|count| format!(" {count:>5}")).collect::<String>()
    );
    let header = [
        Column::Right("order"),
        Column::Right("chunk"),
        Column::Right("free chunks"),
        Column::Right("unusable"),
        Column::Right("extfrag"),
        Column::Left("a request"),
    ];
    let rows: Vec<_> = info.orders.iter().map(row).collect();
    // Writing to a string does not fail.
    let _ = write!(text, "{}", table::columns(&header, &rows));
    text
}

fn row(info: &OrderInfo) -> Vec<String> {
    let thousandths = |index: f64| format!("{:.3}", index / 1000.0);
    vec![
        info.order.to_string(),
        chunk(info.order),
        grouped(info.free_chunks),
        thousandths(info.unusable_free_index.into()),
        thousandths(info.extfrag_index.into()),
        outlook(info.extfrag_index).to_owned(),
    ]
}

/// Size of a chunk.
fn chunk(order: u8) -> String {
    match 4_u64.checked_shl(order.into()) {
        Some(kib) if kib < 1024 => format!("{kib} KiB"),
        Some(kib) => format!("{} MiB", kib / 1024),
        None => String::new(),
    }
}

/// What the index says of a request.
fn outlook(extfrag_index: i32) -> &'static str {
    match extfrag_index {
        ..0 => "would succeed",
        0..=EXTFRAG_THRESHOLD => "would fail: lack of memory",
        _ => "would fail: fragmented",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_counts_stand_apart() {
        let orders = (0..2).map(|order| OrderInfo { order, free_chunks: 1_234_567, ..OrderInfo::default() });
        let text = human(&BuddyInfo { free_frames: 3 * 1_234_567, orders: orders.collect() });
        assert_eq!(text.lines().nth(1), Some("By order  1,234,567 1,234,567"));
    }

    #[test]
    fn each_order_says_what_a_request_can_hope_for() {
        let order = |order, free_chunks, unusable_free_index, extfrag_index| OrderInfo {
            order,
            free_chunks,
            unusable_free_index,
            extfrag_index,
        };
        let orders =
            vec![order(0, 1234, 0, -1000), order(1, 0, 998, 500), order(9, 0, 1000, 501), order(3, 1, 0, 0)];
        let text = human(&BuddyInfo { free_frames: 2002, orders });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "Free     2,002 frames, 7.8 MiB, without what per-CPU lists hold");
        assert_eq!(lines[1], "By order  1,234     0     0     1");
        assert_eq!(lines[3], "order   chunk  free chunks  unusable  extfrag  a request");
        assert_eq!(lines[4], "    0   4 KiB        1,234     0.000   -1.000  would succeed");
        assert_eq!(lines[5], "    1   8 KiB            0     0.998    0.500  would fail: lack of memory");
        assert_eq!(lines[6], "    9   2 MiB            0     1.000    0.501  would fail: fragmented");
        assert!(lines[7].ends_with("0.000    0.000  would fail: lack of memory"), "{text}");
    }
}
