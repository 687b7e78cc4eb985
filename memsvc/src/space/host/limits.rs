//! Limits of control groups that hurt a guest: it is killed at `memory.max`, and slowed down at `memory.high`.

use super::cgroup::Limit;
use super::{Advice, Finding, Host, mib};

/// The monitor itself, without anything that grows with the guest.
const OWN: u64 = 16 << 20;
/// Tables of monitor and kernel are a hundredth of the arena at most: 6.3 bytes a frame for the allocator, 2.3 KiB for a
/// block that is split, 24 bytes a frame for page tables of arena, guest space and KVM.
const TABLES: u64 = 100;

/// The most memory of a monitor with such an arena.
fn needed(arena_bytes: u64) -> u64 {
    arena_bytes + arena_bytes / TABLES + OWN
}

impl Host {
    /// Warnings for a guest whose arena is so large.
    pub(super) fn tight_limits(&self, arena_bytes: u64) -> Vec<Advice> {
        let needed = needed(arena_bytes);
        let too_low = |name| self.limit(name).filter(|limit| limit.bytes < needed);
        let of = |Limit { file, bytes }: Limit, then: &str| Advice {
            what: format!(
                "{file} is {} MiB, and this guest can come to {} MiB: {then}",
                mib(bytes),
                mib(needed)
            ),
            remedy: "raise it, or give the guest less memory".to_owned(),
        };
        let killed = too_low("memory.max").map(|limit| of(limit, "the kernel may kill it then"));
        let slowed = too_low("memory.high").map(|limit| of(limit, "the kernel slows it down then"));
        killed.into_iter().chain(slowed).collect()
    }

    pub(super) fn memory_max(&self) -> Finding {
        let Some(Limit { file, bytes }) = self.limit("memory.max") else {
            return Finding::Good("no control group limits memory".to_owned());
        };
        let most = bytes.saturating_sub(OWN) / (TABLES + 1) * TABLES;
        Finding::Poor(Advice {
            what: format!("{file} is {} MiB, and the kernel kills what needs more", mib(bytes)),
            remedy: format!(
                "give guests here {} MiB at most, swap in memory included, or raise it",
                mib(most)
            ),
        })
    }

    pub(super) fn memory_high(&self) -> Finding {
        let Some(Limit { file, bytes }) = self.limit("memory.high") else {
            return Finding::Good("no control group slows down who uses much memory".to_owned());
        };
        Finding::Poor(Advice {
            what: format!("{file} is {} MiB, and the kernel slows down what uses more", mib(bytes)),
            remedy: "write max to it, and limit guests by memory.max or --memory-limit instead".to_owned(),
        })
    }

    pub(super) fn oom_group(&self) -> Finding {
        let Some(file) = self.shared_oom_group() else {
            return Finding::Good("a guest for which there is no memory dies alone".to_owned());
        };
        Finding::Poor(Advice {
            what: format!("{file} is 1, and the kernel kills all guests there where one has no memory"),
            remedy: "write 0 to it, or give each guest a control group of its own".to_owned(),
        })
    }
}
