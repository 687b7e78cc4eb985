//! The host swaps out what the monitor holds, guest RAM and arena, while pages move.

use anyhow::ensure;
use guest_tests::noise::{Cgroup, Zram};
use libtest_mimic::Trial;

use super::{RAM_MIB, works_through};
use crate::in_a_host_of_its_own;

/// The host takes so much at a time, while the monitor holds more than this: with less left, an emulated host does nothing
/// but swap.
const TAKEN_MIB: u64 = 8;
const HELD_MIB: u64 = RAM_MIB * 3 / 4;

pub(super) fn trial() -> Option<Trial> {
    in_a_host_of_its_own("noisy_host::swaps_and_every_page_is_right", swaps)
}

fn swaps() -> anyhow::Result<()> {
    let zram = Zram::on(2 * RAM_MIB)?;
    let cgroup = Cgroup::new("swapping")?;
    let before = zram.traffic()?;
    works_through(
        |spec| spec.under(cgroup.words()).argument("--allow-host-swap"),
        || Ok(()),
        || {
            // It may find less than that.
            let _ = cgroup.held_mib().is_ok_and(|held| held > HELD_MIB) && cgroup.reclaim(TAKEN_MIB);
        },
        |_| Ok(()),
    )?;
    let after = zram.traffic()?;
    let (out, back) = (after.pages_out - before.pages_out, after.pages_in - before.pages_in);
    eprintln!("the host has swapped {out} pages out and {back} in");
    // Once through half of guest RAM.
    ensure!(out > RAM_MIB << 7 && back > 0, "the host swapped {out} pages out and {back} in");
    Ok(())
}
