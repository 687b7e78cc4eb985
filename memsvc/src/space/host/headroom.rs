//! Memory that the control groups of this process let it still have.
//!
//! The files are not read each time: what was left at the last look is used up first, half of it at the most, and not for
//! long.

use std::time::{Duration, Instant};

use super::cgroup::Groups;
use super::{Host, UNLIMITED};
use crate::core::sync::{Mutex, lock};

/// Bytes that may be taken before the next look, at the most.
const STEP: i64 = 32 << 20;
/// The same where there is no limit: one may be set at any time.
const UNLIMITED_STEP: i64 = 256 << 20;
/// After so long the next one looks in any case: others take memory, too, and do not say so.
const EXPIRES: Duration = Duration::from_millis(100);
/// Bytes that stay for the kernel's page tables and the monitor's own heap.
const SPARE: i64 = 4 << 20;

/// Memory that this process may still take.
#[derive(Debug)]
pub(crate) struct Headroom {
    host: Host,
    groups: Groups,
    last: Mutex<Look>,
}

/// The room that was seen, less the bytes taken since.
#[derive(Debug)]
struct Look {
    left: i64,
    until: Instant,
}

impl Headroom {
    /// Of this process, on this host, in the control groups that it is in now.
    pub(crate) fn here() -> Self {
        Self::new(Host::here())
    }

    fn new(host: Host) -> Self {
        let last = Mutex::new(Look { left: 0, until: Instant::now() });
        Self { groups: host.groups(), host, last }
    }

    /// True when so many bytes more leave room below the limits; then they count as taken. Memory of files that the kernel
    /// can drop counts as room.
    pub(crate) fn take(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let mut last = lock(&self.last);
        let now = Instant::now();
        if last.left < bytes || now >= last.until {
            let room = self.host.headroom(&self.groups);
            let left = match room {
                None => UNLIMITED_STEP,
                // What others have been told that they may take may not have been taken yet.
                Some(room) => {
                    ((room - SPARE) / 2).min(STEP).max(if room >= bytes + SPARE { bytes } else { 0 })
                }
            };
            *last = Look { left, until: now + EXPIRES };
        }
        let has_room = last.left >= bytes;
        if has_room {
            last.left -= bytes;
        }
        has_room
    }
}

impl Host {
    /// Bytes to the nearest limit of all these control groups; none where there is no limit. At `memory.high` the kernel
    /// slows down who takes more, whatever locks they hold.
    fn headroom(&self, groups: &Groups) -> Option<i64> {
        let (limits, usage) = match groups.is_old {
            true => (&["memory.limit_in_bytes"][..], "memory.usage_in_bytes"),
            false => (&["memory.max", "memory.high"][..], "memory.current"),
        };
        let room_of = |directory: &String| {
            let limits = limits.iter().filter_map(|name| self.read_number(&format!("{directory}/{name}")));
            let limit = limits.min().filter(|limit| *limit < UNLIMITED)?;
            let used = self.read_number(&format!("{directory}/{usage}"))?;
            let used = used.saturating_sub(self.file_bytes(directory));
            Some(i64::try_from(limit).ok()?.saturating_sub_unsigned(used))
        };
        groups.directories.iter().filter_map(room_of).min()
    }

    /// Memory of files in a group, which the kernel drops where room is wanted.
    fn file_bytes(&self, directory: &str) -> u64 {
        let text = self.read(&format!("{directory}/memory.stat")).unwrap_or_default();
        let is_file = |name: &str| matches!(name, "active_file" | "inactive_file");
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| is_file(name))
            .filter_map(|(_, bytes)| bytes.trim().parse::<u64>().ok())
            .sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    const MIB: usize = 1 << 20;

    /// A process in the group /a/b, of which both are limited.
    fn host(inner: &str, outer: &str, used: usize, files: usize) -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/cgroup", "0::/a/b\n");
        write("proc/self/mountinfo", "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        for (group, max) in [("a", outer), ("a/b", inner)] {
            write(&format!("sys/fs/cgroup/{group}/memory.max"), &format!("{max}\n"));
            write(&format!("sys/fs/cgroup/{group}/memory.current"), &format!("{}\n", used + files));
            let stat =
                format!("anon {used}\nactive_file {}\ninactive_file {}\n", files / 4, files - files / 4);
            write(&format!("sys/fs/cgroup/{group}/memory.stat"), &stat);
        }
        let host = Host { root: directory.path().to_owned(), ..Host::here() };
        (directory, host)
    }

    #[test]
    fn the_nearest_limit_counts_and_memory_of_files_does_not() {
        let (_directory, host) = host("104857600", "83886080", 60 * MIB, 20 * MIB);
        assert_eq!(host.headroom(&host.groups()), Some(20 * MIB as i64));
    }

    #[test]
    fn a_limit_at_which_the_kernel_slows_down_counts_as_one() {
        let (directory, host) = host("104857600", "max", 60 * MIB, 0);
        let high = directory.path().join("sys/fs/cgroup/a/memory.high");
        fs::write(&high, "73400320\n").unwrap();
        assert_eq!(host.headroom(&host.groups()), Some(10 * MIB as i64));
        fs::write(&high, "max\n").unwrap();
        assert_eq!(host.headroom(&host.groups()), Some(40 * MIB as i64));
    }

    #[test]
    fn without_a_limit_there_is_always_room() {
        let (_directory, host) = host("max", "max", 60 * MIB, 0);
        assert_eq!(host.headroom(&host.groups()), None);
        let headroom = Headroom::new(host);
        assert!((0..10_000).all(|_| headroom.take(2 * MIB)));
    }

    #[test]
    fn what_is_taken_leaves_room_below_the_limit() {
        let (directory, host) = host("104857600", "max", 0, 0);
        let headroom = Headroom::new(host);
        let mut used = 0;
        while headroom.take(2 * MIB) {
            used += 2 * MIB;
            fs::write(directory.path().join("sys/fs/cgroup/a/b/memory.current"), format!("{used}\n"))
                .unwrap();
        }
        assert!((94 * MIB..=96 * MIB).contains(&used), "{used}");
        // Others take what is left, and then something is freed.
        std::thread::sleep(EXPIRES);
        fs::write(directory.path().join("sys/fs/cgroup/a/b/memory.current"), "104857600\n").unwrap();
        assert!(!headroom.take(4096));
        std::thread::sleep(EXPIRES);
        fs::write(directory.path().join("sys/fs/cgroup/a/b/memory.current"), "0\n").unwrap();
        assert!(headroom.take(2 * MIB));
    }
}
