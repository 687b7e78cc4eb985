//! The monitor's control group has hardly more memory than the guest holds, and none of it can be swapped. First the kernel
//! would kill (`memory.max`), and then it would slow down who takes more (`memory.high`).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// The same at which it is slowed down. What the guest swaps does not fit.
const UNSLOWED_MIB: u64 = 4;

pub(super) fn trial() -> Option<Trial> {
    in_a_host_of_its_own("noisy_host::limits_memory_to_what_the_guest_holds_and_kills_nothing", limits)
}

fn limits() -> anyhow::Result<()> {
    let cgroup = Cgroup::new("limit")?;
    cgroup.limit_swap(0)?;
    let limit = || cgroup.limit_memory(cgroup.held_mib()? + LEFT_MIB);
    let (begun, is_slowed) = (OnceLock::new(), AtomicBool::new(false));
    let slow_down = || {
        let time = begun.get_or_init(Instant::now).elapsed();
        if time > seconds() / 2 && !is_slowed.load(Ordering::Relaxed) {
            let done = cgroup.held_mib().and_then(|held| cgroup.slow_down_at(held + UNSLOWED_MIB));
            is_slowed.store(done.is_ok(), Ordering::Relaxed);
        }
    };
    let mut limited = 0;
    let settled = |vm: &TestVm| {
        let memory = vm.control.api("GET", "/memory", Value::Null)?;
        limited = number(&memory, "/faults/limited")?;
        ensure!(vm.transcript().contains("leaves no room for a huge page"), "the monitor says nothing");
        Ok(())
    };
    let worked = works_through(|spec| spec.under(cgroup.words()), limit, slow_down, settled);
    let (hits, slowed, killed) = (cgroup.hits()?, cgroup.slowed_down()?, cgroup.killed()?);
    eprintln!(
        "memory.max was hit {hits} times, somebody was slowed down {slowed} times, and {limited} huge pages were done without"
    );
    ensure!(killed == 0, "the kernel killed {killed} processes");
    worked?;
    ensure!(is_slowed.into_inner(), "memory.high was not set");
    ensure!(limited > 0, "the monitor never kept away from a limit");
    Ok(())
}
