//! Counts of Firecracker's calls: how often each was made, and how often it was refused.

use super::schema::Groups;
use crate::devices::virtio::Counter;

/// Verb, first part of the path, and name of each call that Firecracker counts.
const CALLS: [(&str, &str, &str); 24] = [
    ("GET", "", "instance_info"),
    ("GET", "hotplug", "hotplug_memory"),
    ("GET", "machine-config", "machine_cfg"),
    ("GET", "mmds", "mmds"),
    ("GET", "version", "vmm_version"),
    ("PATCH", "drives", "drive"),
    ("PATCH", "hotplug", "hotplug_memory"),
    ("PATCH", "machine-config", "machine_cfg"),
    ("PATCH", "mmds", "mmds"),
    ("PATCH", "network-interfaces", "network"),
    ("PATCH", "pmem", "pmem"),
    ("PUT", "actions", "actions"),
    ("PUT", "boot-source", "boot_source"),
    ("PUT", "cpu-config", "cpu_cfg"),
    ("PUT", "drives", "drive"),
    ("PUT", "hotplug", "hotplug_memory"),
    ("PUT", "logger", "logger"),
    ("PUT", "machine-config", "machine_cfg"),
    ("PUT", "metrics", "metrics"),
    ("PUT", "mmds", "mmds"),
    ("PUT", "network-interfaces", "network"),
    ("PUT", "pmem", "pmem"),
    ("PUT", "serial", "serial"),
    ("PUT", "vsock", "vsock"),
];

/// A tally for each call that Firecracker counts.
#[derive(Debug, Default)]
pub struct Requests([Tally; CALLS.len()]);

/// How often a call was made.
#[derive(Debug, Default)]
pub(in crate::api) struct Tally {
    count: Counter,
    /// How often it was refused.
    pub(in crate::api) fails: Counter,
}

impl Requests {
    /// Counts a call; where it is tallied, if it is.
    pub(in crate::api) fn count(&self, verb: &str, path: &str) -> Option<&Tally> {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let at = CALLS.iter().position(|(of, part, _)| (*of, *part) == (verb, first))?;
        self.0[at].count.inc();
        Some(&self.0[at])
    }

    /// Puts the tallies into the groups that have them.
    pub(super) fn add_to(&self, groups: &mut Groups) {
        for ((verb, _, name), tally) in CALLS.iter().zip(&self.0) {
            let group = groups.entry(format!("{}_api_requests", verb.to_ascii_lowercase())).or_default();
            group.insert(format!("{name}_count"), tally.count.get());
            // Calls that read have no counter of fails.
            if let Some(fails) = group.get_mut(&format!("{name}_fails")) {
                *fails = tally.fails.get();
            }
        }
    }
}
