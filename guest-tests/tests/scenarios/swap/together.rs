//! Balloon, swap and compaction together: a guest shrinks to what it uses, and everything is right when it wants all of
//! it back. `ci/bench loop` measures the same in large.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;
use guest_tests::agent_client::Herd;
use guest_tests::{Content, Pages, Subject, SwapLink, TestVm};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{PATIENCE, Told};
use crate::{SPARE_MIB, guest, ours};

const RAM_MIB: u64 = 256;
/// What is used all the while, and its pattern.
const HOT: (&str, u64, u64) = ("hot", 40, 53);
/// What nobody reads until the end.
const COLD: Herd = Herd { processes: 1, mib: 64, seed: 59, content: Content { zero_percent: 0, ratio: 3 } };
/// What is left is the hot data's, the kernel's, and no room for the cold data.
const TAKEN_MIB: u64 = 128;
/// Where the guest's kernel can use huge pages, it keeps more free.
const MIN_FREE: (&str, &str) = ("/proc/sys/vm/min_free_kbytes", "4096");

pub(super) fn trials() -> Vec<Trial> {
    ours("swap::with_balloon_and_compaction_memory_comes_back_and_no_page_is_lost", together)
        .into_iter()
        .collect()
}

fn together() -> anyhow::Result<()> {
    let link = SwapLink::new(Subject::Aerostat, RAM_MIB)?;
    link.attach(guest()?.memory_mib(RAM_MIB)).run(|vm| {
        vm.agent.fill("all", SPARE_MIB, Pages::Base)?;
        vm.agent.free("all")?;
        link.check(vm)?;
        let device = link.swap_on(vm, 2)?;
        vm.agent.write_file(MIN_FREE.0, MIN_FREE.1)?;
        vm.agent.hogs_start(COLD, PATIENCE)?;
        vm.agent.allocate(HOT.0, HOT.1, Pages::Base)?;
        vm.agent.write(HOT.0, HOT.2)?;
        let used = vm.resident()?.mib;

        shrink(vm)?;
        vm.control.api("PUT", "/memory/compact", Value::Null)?;
        let compaction = vm.control.api("GET", "/memory/compaction", Value::Null)?;
        let triggers = compaction.pointer("/triggers").and_then(Value::as_array).into_iter().flatten();
        let won: u64 = triggers.filter_map(|trigger| trigger["blocks"].as_u64()).sum();
        ensure!(won > 0 && compaction["score"] == 0, "blocks are still in pieces: {compaction}");
        let shrunk = vm.resident()?.mib;
        let told = Told::by(vm)?;
        told.ensure_some(&["/store/stored_pages"])?;
        // Swapped pages take a third of what they took; a tenth of what the balloon took may be somebody's still.
        let swapped = f64::from(u32::try_from(told.number("/store/stored_pages")?)?) / 256.0;
        let expected = used - 0.9 * TAKEN_MIB as f64 + 0.5 * swapped;
        ensure!(shrunk < expected, "{used:.0} MiB became {shrunk:.0}, of which {swapped:.0} are swapped");

        vm.balloon(0)?;
        vm.agent.hogs_read()?;
        let hogs = vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > 0)?;
        ensure!(hogs.verified >= COLD.pages() && hogs.page_in.count > 0, "{hogs:?}");
        vm.agent.verify(HOT.0, HOT.2)?;
        vm.agent.hogs_stop()?;
        Told::by(vm)?.ensure_none(&["/store/lost", "/store/no_room", "/nbd/errors"])?;
        link.swap_off(vm, &device)
    })
}

/// Inflates the balloon while the hot data is used.
fn shrink(vm: &mut TestVm) -> anyhow::Result<()> {
    let start = Instant::now();
    vm.control.set_balloon(TAKEN_MIB)?;
    loop {
        let actual = vm.control.balloon_actual()?;
        vm.agent.verify(HOT.0, HOT.2)?;
        if actual == TAKEN_MIB {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "the balloon is at {actual} MiB and does not get to {TAKEN_MIB}");
        sleep(Duration::from_secs(1));
    }
}
