//! The monitor's control group has hardly more memory than the guest holds, and none of it can be swapped.

use anyhow::ensure;
use guest_tests::TestVm;
use guest_tests::noise::Cgroup;
use libtest_mimic::Trial;
use serde_json::Value;

use super::works_through;
use crate::in_a_host_of_its_own;
use crate::memory::number;

/// Room beyond what the monitor holds with all of guest RAM: for pages that the guest swaps, packed.
const LEFT_MIB: u64 = 24;

pub(super) fn trial() -> Option<Trial> {
    in_a_host_of_its_own("noisy_host::limits_memory_to_what_the_guest_holds_and_kills_nothing", limits)
}

fn limits() -> anyhow::Result<()> {
    let cgroup = Cgroup::new("limit")?;
    cgroup.limit_swap(0)?;
    let limit = || cgroup.limit_memory(cgroup.held_mib()? + LEFT_MIB);
    let mut limited = 0;
    let settled = |vm: &TestVm| {
        let memory = vm.control.api("GET", "/memory", Value::Null)?;
        limited = number(&memory, "/faults/limited")?;
        Ok(())
    };
    let worked = works_through(|spec| spec.under(cgroup.words()), limit, || (), settled);
    let (hits, killed) = (cgroup.hits()?, cgroup.killed()?);
    eprintln!("memory.max was hit {hits} times, and kept away from {limited} times");
    ensure!(killed == 0, "the kernel killed {killed} processes");
    worked?;
    ensure!(hits > 0 || limited > 0, "the limit was never near");
    Ok(())
}
