//! The monitor's control group has hardly more memory than the guest holds, and none of it can be swapped. First the kernel
//! would kill (`memory.max`), then it slows down who takes more (`memory.high`), and then it would kill again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::ensure;
use guest_tests::TestVm;
use guest_tests::noise::Cgroup;
use libtest_mimic::Trial;
use serde_json::Value;

use super::{seconds, works_through};
use crate::in_a_host_of_its_own;
use crate::memory::number;

/// Room beyond what the monitor holds with all of guest RAM: for pages that the guest swaps, packed.
const LEFT_MIB: u64 = 24;
/// The same at which it is slowed down, for a while. What the guest swaps does not fit.
const UNSLOWED_MIB: u64 = 4;

pub(super) fn trial() -> Option<Trial> {
    in_a_host_of_its_own("noisy_host::limits_memory_to_what_the_guest_holds_and_kills_nothing", limits)
}

fn limits() -> anyhow::Result<()> {
    let cgroup = Cgroup::new("limit")?;
    cgroup.limit_swap(0)?;
    let (begun, whole) = (OnceLock::new(), AtomicU64::new(0));
    let limit = |held| cgroup.limit_memory(held + LEFT_MIB);
    let begin = || {
        whole.store(cgroup.held_mib()?, Ordering::Relaxed);
        limit(whole.load(Ordering::Relaxed))
    };
    // An error is seen at the end: then nobody was slowed down.
    let change = || {
        // Not what is held now: the balloon may be up.
        let (time, held) = (begun.get_or_init(Instant::now).elapsed(), whole.load(Ordering::Relaxed));
        let _ = match time {
            _ if time > seconds() => limit(held),
            _ if time > seconds() / 2 => cgroup.slow_down_at(held + UNSLOWED_MIB),
            _ => Ok(()),
        };
    };
    let mut limited = 0;
    let settled = |vm: &TestVm| {
        let memory = vm.control.api("GET", "/memory", Value::Null)?;
        limited = number(&memory, "/faults/limited")?;
        ensure!(vm.transcript().contains("leaves no room for a huge page"), "the monitor says nothing");
        Ok(())
    };
    let worked = works_through(|spec| spec.under(cgroup.words()), begin, change, settled);
    let (hits, slowed, killed) = (cgroup.hits()?, cgroup.slowed_down()?, cgroup.killed()?);
    eprintln!(
        "memory.max was hit {hits} times, somebody was slowed down {slowed} times, and {limited} huge pages were done without"
    );
    ensure!(killed == 0, "the kernel killed {killed} processes");
    worked?;
    ensure!(slowed > 0, "nobody was slowed down");
    ensure!(limited > 0, "the monitor never kept away from a limit");
    Ok(())
}
