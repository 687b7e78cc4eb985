//! Memory of the host fails under a guest: the monitor ends, and says why.

use anyhow::ensure;
use guest_tests::{Pages, host};
use libtest_mimic::Trial;

use crate::{guest, in_a_host_of_its_own};

const RAM_MIB: u64 = 128;
/// Memory that the guest reads again: some of the pages that fail are among it.
const READ_MIB: u64 = 48;
/// One page of so many of guest RAM fails.
const EVERY: usize = 4096;

pub(super) fn trial() -> Option<Trial> {
    in_a_host_of_its_own("noisy_host::fails_and_the_monitor_says_so", fails)
}

fn fails() -> anyhow::Result<()> {
    let mut vm = guest()?.memory_mib(RAM_MIB).start()?;
    vm.agent.allocate("read", READ_MIB, Pages::Any)?;
    vm.agent.write("read", 5)?;
    let pages = host::physical_pages(vm.pid())?;
    ensure!(pages.len() > 2 * EVERY, "numbers of pages are not shown: {} pages", pages.len());
    pages.iter().step_by(EVERY).try_for_each(|&page| host::fail_page(page))?;
    // The guest, or its kernel, comes to one of them; it may not answer any more.
    let _ = vm.agent.verify("read", 5);
    let status = vm.wait_exit()?;
    let transcript = vm.transcript();
    ensure!(status.code() == Some(1), "the monitor ended with {status}:\n{transcript}");
    ensure!(transcript.contains("Memory of the host failed"), "the monitor does not say so:\n{transcript}");
    Ok(())
}
