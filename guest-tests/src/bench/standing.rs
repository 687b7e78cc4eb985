//! The host's memory that a guest's monitor and the host itself have, once nothing changes any more.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::host::{self, HostFree, Split};
use crate::kvm_host;
use crate::testvm::TestVm;

/// Nothing has changed for so long: the monitor and the host have done what they do.
pub(super) const QUIET: Duration = Duration::from_secs(3);
/// Longest wait for that.
const PATIENCE: Duration = Duration::from_secs(240);
const INTERVAL: Duration = Duration::from_millis(250);

/// What the host has at one point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Resident memory of the monitor's process.
    pub(super) resident: Split,
    /// What the host has left.
    pub(super) free: HostFree,
}

impl Standing {
    /// Once nothing changes any more.
    pub(super) fn settled(vm: &TestVm) -> anyhow::Result<Self> {
        let start = Instant::now();
        let mut last = (host::split(vm.pid())?.ram, Instant::now());
        while last.1.elapsed() < QUIET && start.elapsed() < PATIENCE {
            sleep(INTERVAL);
            let now = host::split(vm.pid())?.ram;
            let same = |one: f64, other: f64| (one - other).abs() < 1.0;
            if !same(now.mib, last.0.mib) || !same(now.huge_mib, last.0.huge_mib) {
                last = (now, Instant::now());
            }
        }
        Ok(Self { resident: host::split(vm.pid())?, free: host::free()? })
    }

    /// All of the monitor's process, in MiB: guest memory, arena and the monitor's own.
    pub(super) fn mib(&self) -> f64 {
        self.resident.ram.mib + self.resident.rest.mib
    }

    /// MiB of free 2 MiB blocks that the host has more than it had `before`.
    #[allow(clippy::cast_precision_loss, reason = "numbers of blocks in one host")]
    pub(super) fn whole_since(&self, before: &Self) -> f64 {
        2.0 * (self.free.huge_blocks as f64 - before.free.huge_blocks as f64)
    }
}

/// The per-CPU lists of the nested host's kernel keep free 2 MiB blocks, which /proc/buddyinfo does not show.
/// There they may be made small; a machine that is used for more is left as it is.
///
/// # Errors
/// The nested host refuses.
pub(super) fn show_free_blocks() -> anyhow::Result<()> {
    if kvm_host::kind() != "nested" {
        return Ok(());
    }
    std::fs::write("/proc/sys/vm/percpu_pagelist_high_fraction", "100000")
        .context("the nested host's per-CPU lists cannot be made small")
}

/// Takes memory for the benchmark's own heap, now: while a guest gives blocks back, the kernel hands out pages of those
/// that came last, and one page of ours keeps such a block from being whole.
pub(super) fn take_heap() {
    const PIECES: usize = 96;
    const PIECE: usize = 64 << 10;
    let pieces = vec![vec![1_u8; PIECE]; PIECES];
    // The heap does not shrink below what is still in use.
    std::mem::forget(std::hint::black_box(Box::new([1_u8; PIECE])));
    drop(std::hint::black_box(pieces));
}
