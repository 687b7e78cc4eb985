//! The host merges pages that hold the same, as fast as it can. The starter of the monitor has opened all of
//! its memory to that (systemd's `MemoryKSM=`). A merged page cannot be moved: none of the monitor's may be.

use anyhow::ensure;
use guest_tests::noise::Ksm;
use libtest_mimic::Trial;

use super::works_through;
use crate::in_a_host_of_its_own;

pub(super) fn trial() -> Option<Trial> {
    in_a_host_of_its_own("noisy_host::merges_pages_and_none_of_the_monitors", merges)
}

fn merges() -> anyhow::Result<()> {
    let ksm = Ksm::at_full_speed()?;
    let before = ksm.scans()?;
    works_through(
        |spec| spec.under(Ksm::WORDS),
        || Ok(()),
        || (),
        |vm| {
            let (merged, scans) = (ksm.merged(vm.pid())?, ksm.scans()?.saturating_sub(before));
            eprintln!("KSM: {merged:?}, {scans} scans");
            ensure!(scans > 1, "KSM was not at work: {scans} scans");
            ensure!(merged.merged == 0, "pages of the monitor are merged: {merged:?}");
            Ok(())
        },
    )
}
