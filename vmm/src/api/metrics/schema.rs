//! Firecracker's names of counters, and which of ours they come from. Those that come from nothing stay 0.
//!
//! All of them grow. A line of the metrics file says how much since the line before.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Counted, Missed, Startup};

/// Counters by name, in groups by name. A name with a dot is that of a counter in a group within the group.
pub(super) type Groups = BTreeMap<String, BTreeMap<String, u64>>;

/// Names of all counters, in groups. Those of a disk and of a network card are there once.
const NAMES: &str = include_str!("firecracker.json");

/// Bytes in what we count by pages.
const PAGE: u64 = 4096;

/// A counter of Firecracker's, ours that are added up for it, and what each of ours is worth.
type Source = (&'static str, &'static [&'static str], u64);

const BALLOON: &[Source] = &[
    ("activate_fails", &["activations_refused"], 1),
    ("inflate_count", &["inflate_buffers"], 1),
    ("deflate_count", &["deflate_buffers"], 1),
    ("event_fails", &["bad_page_buffers"], 1),
    ("stats_updates_count", &["stats_updates"], 1),
    ("stats_update_fails", &["bad_stats_buffers", "timer_errors"], 1),
    ("free_page_report_count", &["reported_ranges"], 1),
    ("free_page_report_freed", &["reported_pages"], PAGE),
    ("free_page_hint_count", &["hinted_ranges"], 1),
    ("free_page_hint_freed", &["hinted_pages"], PAGE),
];

const BLOCK: &[Source] = &[
    ("activate_fails", &["activations_refused"], 1),
    ("cfg_fails", &["bad_config_writes"], 1),
    ("execute_fails", &["bad_requests"], 1),
    ("invalid_reqs_count", &["refused", "unsupported", "host_errors"], 1),
    ("flush_count", &["flushes"], 1),
    ("read_bytes", &["read_bytes"], 1),
    ("read_count", &["reads"], 1),
    ("rate_limiter_throttled_events", &["rate_limited"], 1),
    ("update_count", &["updates"], 1),
    ("write_bytes", &["written_bytes"], 1),
    ("write_count", &["writes"], 1),
];

const ENTROPY: &[Source] = &[
    ("activate_fails", &["activations_refused"], 1),
    ("entropy_event_count", &["requests"], 1),
    ("entropy_event_fails", &["bad_requests"], 1),
    ("entropy_bytes", &["bytes"], 1),
    ("entropy_rate_limiter_throttled", &["rate_limited"], 1),
    ("host_rng_fails", &["host_errors"], 1),
];

const NET: &[Source] = &[
    ("activate_fails", &["activations_refused"], 1),
    ("cfg_fails", &["bad_config_writes"], 1),
    ("no_rx_avail_buffer", &["rx_no_buffers"], 1),
    ("rx_bytes_count", &["rx_bytes"], 1),
    ("rx_count", &["rx_packets"], 1),
    ("rx_fails", &["rx_bad_chains", "rx_dropped_too_large"], 1),
    ("rx_packets_count", &["rx_packets"], 1),
    ("rx_rate_limiter_throttled", &["rx_rate_limited"], 1),
    ("tap_read_fails", &["rx_host_errors"], 1),
    ("tap_write_fails", &["tx_dropped_full", "tx_dropped_refused"], 1),
    ("tx_bytes_count", &["tx_bytes"], 1),
    ("tx_count", &["tx_packets"], 1),
    ("tx_malformed_frames", &["tx_bad_frames"], 1),
    ("tx_packets_count", &["tx_packets"], 1),
    ("tx_rate_limiter_throttled", &["tx_rate_limited"], 1),
];

const UART: &[Source] = &[
    ("error_count", &["errors"], 1),
    ("missed_write_count", &["lost_bytes"], 1),
    ("rate_limiter_dropped_bytes", &["limited_bytes"], 1),
    ("read_count", &["read_bytes"], 1),
    ("write_count", &["written_bytes"], 1),
];

const I8042: &[Source] = &[
    ("error_count", &["errors"], 1),
    ("missed_read_count", &["missed_reads"], 1),
    ("missed_write_count", &["missed_writes"], 1),
    ("read_count", &["reads"], 1),
    ("reset_count", &["resets"], 1),
    ("write_count", &["writes"], 1),
];

const VCPU: &[Source] = &[
    ("exit_io_in", &["exits_io_in"], 1),
    ("exit_io_out", &["exits_io_out"], 1),
    ("exit_mmio_read", &["exits_mmio_read"], 1),
    ("exit_mmio_write", &["exits_mmio_write"], 1),
    ("failures", &["failures"], 1),
    ("kvmclock_ctrl_fails", &["clock_errors"], 1),
];

/// Groups of which there is one, what each is of, and where its counters come from.
const GROUPS: [(&str, &str, &[Source]); 5] = [
    ("balloon", "balloon", BALLOON),
    ("entropy", "rng", ENTROPY),
    ("i8042", "keyboard", I8042),
    ("uart", "console", UART),
    ("vcpu", "vcpus", VCPU),
];

/// All counters of Firecracker's.
pub(super) fn totals(counted: &Counted<'_>) -> Groups {
    let mut groups = zeros();
    counted.requests.add_to(&mut groups);
    let config = counted.config;
    let drives = config.drives.iter().map(|drive| ("block", drive.drive_id.as_str(), BLOCK));
    let cards = config.network_interfaces.iter().map(|card| ("net", card.iface_id.as_str(), NET));
    for (all, id, sources) in drives.chain(cards) {
        let name = format!("{all}_{id}");
        let counts = device(&counted.devices, &name, sources);
        let all = groups.entry(all.to_owned()).or_default();
        let mut one = all.keys().map(|name| (name.clone(), 0)).collect();
        add(all, &counts);
        add(&mut one, &counts);
        groups.insert(name, one);
    }
    let single = GROUPS.map(|(name, ours, sources)| (name, device(&counted.devices, ours, sources)));
    for (name, counts) in single.into_iter().chain(of_all(counted)) {
        add(groups.entry(name.to_owned()).or_default(), &counts);
    }
    groups
}

/// Counters that are of no device, or of all.
fn of_all(counted: &Counted<'_>) -> [(&'static str, Vec<(&'static str, u64)>); 2] {
    let interrupts =
        counted.devices.values().filter_map(|counters| counters.get("interrupts")?.as_u64()).sum();
    let Missed { metrics, log } = counted.missed;
    [
        ("interrupts", vec![("triggers", interrupts)]),
        ("logger", vec![("missed_metrics_count", metrics), ("missed_log_count", log)]),
    ]
}

/// What has come since, as JSON.
pub(super) fn since(now: &Groups, before: &Groups) -> Map<String, Value> {
    let mut all = Map::new();
    for (group, counters) in now {
        let old = before.get(group);
        let mut grown = Map::new();
        for (name, count) in counters {
            let count = count.saturating_sub(old.and_then(|old| old.get(name)).copied().unwrap_or_default());
            match name.split_once('.') {
                None => _ = grown.insert(name.clone(), count.into()),
                Some((part, name)) => grown.entry(part).or_insert_with(|| json!({}))[name] = count.into(),
            }
        }
        all.insert(group.clone(), Value::Object(grown));
    }
    all
}

/// The group of the process's start. Its numbers stay what they are.
pub(super) fn startup(startup: Startup) -> Value {
    json!({"process_startup_time_us": startup.wall_us, "process_startup_time_cpu_us": startup.cpu_us})
}

fn zeros() -> Groups {
    // A test reads it.
    let names: BTreeMap<String, Vec<String>> = serde_json::from_str(NAMES).unwrap_or_default();
    let zero = |names: Vec<String>| names.into_iter().map(|name| (name, 0)).collect();
    names.into_iter().map(|(group, names)| (group, zero(names))).collect()
}

/// Firecracker's counters of one device of ours, and of its transport.
fn device(devices: &Map<String, Value>, name: &str, sources: &[Source]) -> Vec<(&'static str, u64)> {
    let parts = [devices.get(name), devices.get(&format!("transport_{name}"))];
    let count = |ours: &str| -> u64 {
        parts.iter().flatten().filter_map(|counters| counters.get(ours)?.as_u64()).sum()
    };
    let total = |ours: &[&str], worth: u64| ours.iter().map(|ours| count(ours)).sum::<u64>() * worth;
    sources.iter().map(|(theirs, ours, worth)| (*theirs, total(ours, *worth))).collect()
}

fn add(group: &mut BTreeMap<String, u64>, counts: &[(&str, u64)]) {
    for (name, count) in counts {
        *group.entry((*name).to_owned()).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::metrics::Requests,
        devices::{
            legacy::{ConsoleMetrics, I8042Metrics},
            virtio::{
                balloon::BalloonMetrics, blk::BlockMetrics, net::NetMetrics, rng::RngMetrics,
                transport::TransportMetrics,
            },
        },
    };

    #[test]
    fn every_source_is_a_counter_of_ours_for_one_of_firecrackers() {
        let ours = |counters: Result<Value, serde_json::Error>| counters.expect("JSON");
        let transport = ours(serde_json::to_value(TransportMetrics::default()));
        for (group, sources, device) in [
            ("balloon", BALLOON, ours(serde_json::to_value(BalloonMetrics::default()))),
            ("block", BLOCK, ours(serde_json::to_value(BlockMetrics::default()))),
            ("entropy", ENTROPY, ours(serde_json::to_value(RngMetrics::default()))),
            ("i8042", I8042, ours(serde_json::to_value(I8042Metrics::default()))),
            ("net", NET, ours(serde_json::to_value(NetMetrics::default()))),
            ("uart", UART, ours(serde_json::to_value(ConsoleMetrics::default()))),
            ("vcpu", VCPU, exits()),
        ] {
            let names = &zeros()[group];
            for (theirs, from, _) in sources {
                assert!(names.contains_key(*theirs), "{group} has no {theirs}");
                for name in *from {
                    assert!(device.get(name).or(transport.get(name)).is_some(), "nothing of ours is {name}");
                }
            }
        }
        let (mut groups, before) = (zeros(), zeros());
        for verb in ["get", "put", "patch"] {
            assert!(groups.contains_key(&format!("{verb}_api_requests")));
        }
        Requests::default().add_to(&mut groups);
        assert_eq!(groups, before, "all calls are counted under a name of Firecracker's");
    }

    /// Counters of CPUs, as the machine tells them.
    fn exits() -> Value {
        crate::vm::exits::total(std::iter::empty())
    }

    /// The manual lists those that nothing of ours is behind.
    #[test]
    fn the_description_says_which_counters_stay_0() {
        let devices = Map::new();
        let (config, requests) = (Default::default(), Requests::default());
        let counted = Counted {
            config: &config,
            devices,
            requests: &requests,
            startup: Startup::default(),
            missed: Missed::default(),
        };
        // An entry of no call is still 1.
        let mut told = zeros();
        told.values_mut().flat_map(BTreeMap::values_mut).for_each(|count| *count = 1);
        requests.add_to(&mut told);
        for counters in told.values_mut() {
            counters.retain(|_, count| *count == 0);
        }
        for (group, counters) in of_all(&counted) {
            add(told.entry(group.to_owned()).or_default(), &counters);
        }
        for (group, _, sources) in GROUPS.into_iter().chain([("block", "", BLOCK), ("net", "", NET)]) {
            add(told.entry(group.to_owned()).or_default(), &device(&counted.devices, "", sources));
        }
        let startup = startup(counted.startup);
        let mut silent: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (group, counters) in zeros() {
            let told = told.remove(&group).unwrap_or_default();
            let is_told = |name: &String| {
                told.contains_key(name) || group == "api_server" && startup.get(name).is_some()
            };
            let (loud, names): (Vec<String>, Vec<String>) = counters.into_keys().partition(is_told);
            if !names.is_empty() {
                silent.insert(group.clone(), if loud.is_empty() { vec!["all".to_owned()] } else { names });
            }
        }
        assert!(told.is_empty(), "no counters of Firecracker's: {told:?}");
        let description = include_str!("../../../tests/process/firecracker.json");
        let description: Value = serde_json::from_str(description).expect("JSON");
        let said = json!(silent);
        assert_eq!(description["silent"], said, "put it there: {said}");
    }
}
