//! The text, read as Prometheus reads it.

use std::collections::{BTreeMap, BTreeSet};

use memsvc::stats::{LatencyBucket, LatencyStats};
use memsvc::swap::{RemoteStats, StoreStats, TierStats};
use serde_json::json;

use super::*;
use crate::api::{
    controller::VERSION,
    fake,
    types::{BalloonProgress, InstanceState},
};

/// Fields that are labels, or that the text says in another way or place; and the frames by type of
/// `TypeInfo`, which are those of `MemoryStats`.
const NOT_SAID_AS_THEY_ARE: [&str; 31] = [
    "/memory/guest/blocks",
    "/memory/arena/blocks",
    "/memory/mover/stalls/count",
    "/memory/mover/stalls/total_us",
    "/memory/mover/stalls/max_us",
    "/memory/mover/stalls/buckets/0/below_us",
    "/buddy/orders/0/order",
    "/types/charges/0/owner",
    "/types/charges/0/charged",
    "/types/charges/0/frames/buddy",
    "/zone/metadata_millibytes_per_frame",
    "/zone/reserve/waited_us",
    "/zone/cpus/0/cpu",
    "/slabs/caches/0/objects",
    "/slabs/caches/0/frames_per_slab",
    "/compaction/proactiveness",
    "/compaction/holes",
    "/compaction/promoted_blocks",
    "/compaction/background_cpu_us",
    "/swap/uptime_us",
    "/swap/store/stored_pages",
    "/swap/store/ratio_thousandths",
    "/swap/latency/reads/count",
    "/swap/latency/reads/total_us",
    "/swap/latency/reads/max_us",
    "/swap/latency/reads_from_tiers/count",
    "/swap/latency/reads_from_tiers/total_us",
    "/swap/latency/reads_from_tiers/max_us",
    "/swap/latency/writes/count",
    "/swap/latency/writes/total_us",
    "/swap/latency/writes/max_us",
];

/// A guest whose every number is another one, and where each is.
fn scrape() -> (Scrape, BTreeMap<String, u64>) {
    let types = json!({"buddy": 0, "stash": 0, "guest": 0, "balloon": 0, "return": 0, "kmem": 0, "slab": 0, "movable_slab": 0});
    let mut all = json!({
        "memory": MemoryReport {
            balloon_device: Some(BalloonProgress { target_mib: 0.into(), actual_mib: 0.into(), host_freed_mib: 0.into() }),
            memory: Default::default(),
        },
        "buddy": BuddyInfo { orders: vec![Default::default()], ..Default::default() },
        "types": TypeInfo::default(),
        "zone": ZoneInfo { cpus: vec![Default::default()], ..Default::default() },
        "slabs": SlabInfo { caches: vec![Default::default()] },
        "compaction": CompactionInfo::default(),
        "swap": SwapStats {
            store: StoreStats {
                tiers: vec![TierStats { remote: Some(RemoteStats::default()), ..TierStats::default() }],
                ..StoreStats::default()
            },
            ..SwapStats::default()
        },
        "devices": {"block_root": {"reads": 0}, "transport_block_root": {"resets": 0}, "balloon": {"resets": 0}},
    });
    all["types"]["migrate_types"] = json!([{"migrate_type": "movable", "blocks": 0, "free_chunks": [0, 0]}]);
    all["types"]["charges"] = json!([{"owner": 1, "frames": types, "charged": 0, "limit": 0, "refused": 0}]);
    all["compaction"]["triggers"] = json!([{"trigger": "reclaim", "runs": 0, "sources": 0, "blocks": 0,
        "migrated_frames": 0, "failed_frames": 0, "split_blocks": 0}]);
    let mut numbers = BTreeMap::new();
    number("", &mut all, &mut numbers);
    let mut take = |name: &str| all[name].take();
    let running = Running {
        memory: serde_json::from_value(take("memory")).expect("memory"),
        guest: GuestStats { free_memory: Some(1 << 20), ..GuestStats::default() },
        buddy: serde_json::from_value(take("buddy")).expect("buddy"),
        types: serde_json::from_value(take("types")).expect("types"),
        zone: serde_json::from_value(take("zone")).expect("zone"),
        slabs: serde_json::from_value(take("slabs")).expect("slabs"),
        swap: serde_json::from_value(take("swap")).expect("swap"),
        compaction: serde_json::from_value(take("compaction")).expect("compaction"),
        devices: serde_json::from_value(take("devices")).expect("devices"),
    };
    let info = InstanceInfo {
        id: "a".to_owned(),
        state: InstanceState::Paused,
        vmm_version: VERSION.to_owned(),
        app_name: "Aerostat".to_owned(),
    };
    (Scrape { info, running: Some(running) }, numbers)
}

/// Gives every number below `value` one of its own, and writes down which.
fn number(path: &str, value: &mut Value, numbers: &mut BTreeMap<String, u64>) {
    match value {
        Value::Number(_)
            if NOT_SAID_AS_THEY_ARE.contains(&path) || path.starts_with("/types/frames_by_type/") => {}
        Value::Number(_) => {
            let count = 1001 + numbers.len() as u64;
            *value = count.into();
            numbers.insert(path.to_owned(), count);
        }
        Value::Object(fields) => {
            fields.iter_mut().for_each(|(name, field)| number(&format!("{path}/{name}"), field, numbers));
        }
        Value::Array(items) => {
            items
                .iter_mut()
                .enumerate()
                .for_each(|(at, item)| number(&format!("{path}/{at}"), item, numbers));
        }
        _ => {}
    }
}

/// Reads the text by the rules of OpenMetrics: samples, with labels, by name.
fn samples(text: &str) -> Vec<(String, f64)> {
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    let (mut family, mut kind) = ("", "");
    let (mut families, mut samples) = (BTreeSet::new(), Vec::new());
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a name and a text");
            assert!(families.insert(name), "{name} comes twice");
            assert!(name.starts_with("aerostat") && !name.ends_with("_total") && help.len() > 3, "{line}");
            (family, kind) = (name, "");
        } else if let Some(said) = line.strip_prefix("# TYPE ") {
            let (name, said) = said.split_once(' ').expect("a name and a type");
            assert_eq!((name, kind), (family, ""), "a type belongs to the help above");
            kind = said;
        } else {
            let (labelled, value) = line.rsplit_once(' ').expect("a sample");
            let name = labelled.split('{').next().expect("a name");
            let suffix = match kind {
                "gauge" => "",
                "counter" => "_total",
                "info" => "_info",
                "histogram" => {
                    let suffix = name.strip_prefix(family).expect("the family's name");
                    assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}");
                    suffix
                }
                _ => panic!("{line} has no type"),
            };
            assert_eq!(name.strip_prefix(family), Some(suffix), "{line} belongs to {family}");
            samples.push((labelled.to_owned(), value.parse().expect("a number")));
        }
    }
    let names: BTreeSet<_> = samples.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), samples.len(), "no sample comes twice");
    samples
}

#[test]
fn everything_that_is_known_is_said_once() {
    let (scrape, numbers) = scrape();
    let text = scrape.into_text().expect("text");
    let samples = samples(&text);
    assert!(numbers.len() > 100, "{numbers:?}");
    for (path, count) in numbers {
        // The balloon is said in bytes.
        let said = match path.as_str() {
            path if path.starts_with("/memory/balloon_device/") => count << 20,
            _ => count,
        };
        let times = samples.iter().filter(|(_, value)| *value == said as f64).count();
        assert_eq!(times, 1, "{path} is {count} in\n{text}");
    }
}

#[test]
fn names_and_labels_are_as_documented() {
    let (mut scrape, _) = scrape();
    let running = scrape.running.as_mut().expect("running");
    running.zone.frames = 1000;
    running.zone.metadata_millibytes_per_frame = 7125;
    running.zone.reserve.waited_us = 1_500_000;
    running.buddy.orders[0].extfrag_index = -1000;
    running.compaction.tuning.proactiveness = 33;
    running.compaction.running = true;
    running.compaction.background_cpu_us = 2_500_000;
    let cache = &mut running.slabs.caches[0];
    (cache.objects, cache.active_objects) = (80, 50);
    (cache.slabs, cache.frames_per_slab) = (10, 3);
    let swap = running.swap.as_mut().expect("swap");
    swap.store.ratio_thousandths = 2_750;
    swap.store.tiers[0].name = "/mnt/ssd".to_owned();
    swap.store.tiers[0].stored_pages = 77;
    swap.latency.reads = LatencyStats {
        count: 9,
        total_us: 1_250_000,
        max_us: 900_000,
        buckets: vec![
            LatencyBucket { below_us: 64, count: 6 },
            LatencyBucket { below_us: 1 << 20, count: 2 },
            LatencyBucket { below_us: 1 << 24, count: 1 },
        ],
    };
    let text = scrape.into_text().expect("text");
    let samples: BTreeMap<_, _> = samples(&text).into_iter().collect();
    let info = format!("aerostat_info{{version=\"{VERSION}\",id=\"a\",state=\"Paused\"}}");
    for (name, value) in [
        (info.as_str(), 1.0),
        ("aerostat_memory_metadata_bytes", 7125.0),
        ("aerostat_memory_throttle_waited_seconds_total", 1.5),
        ("aerostat_memory_extfrag_index{order=\"0\"}", -1000.0),
        ("aerostat_memory_compaction_policy{policy=\"occupancy\"}", 1.0),
        ("aerostat_memory_compaction_policy{policy=\"off\"}", 0.0),
        ("aerostat_memory_compaction_proactiveness", 33.0),
        ("aerostat_memory_compaction_running", 1.0),
        ("aerostat_memory_compaction_cpu_seconds_total", 2.5),
        ("aerostat_memory_slab_objects{cache=\"\",state=\"free\"}", 30.0),
        ("aerostat_memory_slab_frames{cache=\"\"}", 30.0),
        ("aerostat_guest_free_bytes", 1_048_576.0),
        ("aerostat_swap_ratio", 2.75),
        ("aerostat_swap_tier_stored_pages{tier=\"0\",name=\"/mnt/ssd\"}", 77.0),
        ("aerostat_swap_latency_seconds_bucket{le=\"0.000032\",request=\"read\"}", 0.0),
        ("aerostat_swap_latency_seconds_bucket{le=\"0.000064\",request=\"read\"}", 6.0),
        ("aerostat_swap_latency_seconds_bucket{le=\"8.388608\",request=\"read\"}", 8.0),
        ("aerostat_swap_latency_seconds_bucket{le=\"+Inf\",request=\"read\"}", 9.0),
        ("aerostat_swap_latency_seconds_count{request=\"read\"}", 9.0),
        ("aerostat_swap_latency_seconds_sum{request=\"read\"}", 1.25),
        ("aerostat_swap_latency_max_seconds{request=\"read\"}", 0.9),
        ("aerostat_swap_latency_seconds_count{request=\"write\"}", 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name} in\n{text}");
    }
    for name in [
        "aerostat_memory_migrate_type_free_chunks{migrate_type=\"movable\",order=\"1\"}",
        "aerostat_memory_charged_frames{owner=\"guest\",page_type=\"kmem\"}",
        "aerostat_memory_cpu_list_frames{cpu=\"0\",state=\"freed\"}",
        "aerostat_memory_slab_objects{cache=\"\",state=\"active\"}",
        "aerostat_memory_compaction_won_blocks_total{trigger=\"reclaim\"}",
        "aerostat_device_resets_total{device=\"transport_block_root\"}",
    ] {
        assert!(samples.contains_key(name), "{name} in\n{text}");
    }
}

#[test]
fn frames_by_type_add_up_to_the_arena() {
    let (mut controller, _) = fake::controller();
    let dir = tempfile::tempdir().expect("temporary directory");
    let kernel = fake::kernel(dir.path());
    let config = json!({"boot-source": {"kernel_image_path": kernel}});
    controller.load(serde_json::from_value(config).expect("configuration")).expect("loads");
    controller.start().expect("starts");
    let text = controller.scrape().into_text().expect("text");
    let samples = samples(&text);
    let sum = |family: &str| -> f64 {
        samples
            .iter()
            .filter(|(name, _)| name.split('{').next() == Some(family))
            .map(|(_, value)| value)
            .sum()
    };
    assert_eq!((sum("aerostat_memory_frames"), sum("aerostat_memory_arena_frames")), (1536.0, 1536.0));
    assert_eq!(sum("aerostat_memory_arena_blocks"), 3.0);
    assert!(!text.contains("aerostat_balloon"), "it has none");
}
