//! Guest RAM is the memory service's: absent until touched, and huge where it is there.

mod compaction;
mod tables;

use anyhow::{Context, ensure};
use guest_tests::{Pages, TestVm, host};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{SPARE_MIB, guest, looks, ours};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(ours("memory::resident_ram_is_huge_and_stays_so_through_inflate_and_deflate", huge));
    trials.extend(ours("memory::untouched_ram_is_absent", absent));
    trials.extend(looks::ours("memory::frames_by_type_add_up", adds_up));
    trials.extend(tables::trials());
    trials.extend(compaction::trials());
    trials
}

fn ensure_huge(vm: &TestVm, when: &str) -> anyhow::Result<()> {
    let ram = host::split(vm.pid())?.ram;
    ensure!(ram.mib > 100.0, "{when}: no guest RAM found, {:.0} MiB resident", ram.mib);
    let share = ram.huge_mib / ram.mib;
    ensure!(share >= 0.99, "{when}: {:.1} of {:.1} MiB are in huge pages", ram.huge_mib, ram.mib);
    Ok(())
}

fn huge() -> anyhow::Result<()> {
    let mut vm = guest()?.cpus(2).start()?;
    ensure_huge(&vm, "after boot")?;
    vm.agent.fill("all", SPARE_MIB, Pages::Any)?;
    ensure_huge(&vm, "with all RAM touched")?;
    vm.agent.free("all")?;
    vm.balloon(256)?;
    ensure_huge(&vm, "with 256 MiB in the balloon")?;
    vm.balloon(0)?;
    vm.agent.fill("all", SPARE_MIB, Pages::Any)?;
    ensure_huge(&vm, "after deflate, with all RAM touched again")?;
    vm.shut_down()
}

fn absent() -> anyhow::Result<()> {
    let vm = guest()?.memory_mib(2048).start()?;
    let resident = vm.resident()?.mib;
    ensure!(resident < 700.0, "{resident:.0} of 2048 MiB are resident after boot");
    vm.shut_down()
}

fn adds_up(vm: &mut TestVm) -> anyhow::Result<()> {
    vm.balloon(100)?;
    let memory = vm.control.api("GET", "/memory", Value::Null)?;
    let number = |path: &str| number(&memory, path);
    let frames = number("/arena/frames")?;
    let sum = sum(&memory, "/arena/frames_by_type")?;
    ensure!(sum == frames, "frames by type add up to {sum}, the arena has {frames}");
    let blocks =
        number("/guest/absent_blocks")? + number("/guest/huge_blocks")? + number("/guest/split_blocks")?;
    ensure!(blocks == number("/guest/blocks")?, "blocks by state add up to {blocks}");
    ensure!(number("/guest/ballooned_frames")? == 100 << 8, "the ledger holds {memory}");
    ensure!(number("/refusals/outside_ram")? == 0, "a well-behaved guest was refused: {memory}");
    vm.balloon(0)?;
    Ok(())
}

/// The number at this place of an answer.
pub(crate) fn number(answer: &Value, path: &str) -> anyhow::Result<u64> {
    answer.pointer(path).and_then(Value::as_u64).with_context(|| format!("no {path} in {answer}"))
}

/// The sum of the numbers in an object at this place of an answer.
fn sum(answer: &Value, path: &str) -> anyhow::Result<u64> {
    let numbers = answer.pointer(path).and_then(Value::as_object);
    let numbers = numbers.with_context(|| format!("no {path} in {answer}"))?;
    Ok(numbers.values().filter_map(Value::as_u64).sum())
}
