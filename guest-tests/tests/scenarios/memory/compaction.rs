//! Memory that a guest gives up page by page comes back as whole blocks, when the host asks for it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use guest_tests::{Pages, Request, TestVm};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{ensure_huge, number, tables::memory_command};
use crate::{SPARE_MIB, guest, meanwhile, ours};

/// The pattern of pages that stay in the guest while their neighbours come and go.
const KEPT: u64 = 42;
/// That of their neighbours once they have come back.
const BETWEEN: u64 = 5;
/// Half of what other scenarios have: each page given up is a fault when it is touched again.
const RAM_MIB: u64 = 256;
/// Longest time for a write to all of that.
const PATIENCE: Duration = Duration::from_secs(180);
/// Memory in which threads write and check while the host takes pages back.
const CHURN_MIB: u64 = 4;

pub(super) fn trials() -> Vec<Trial> {
    let name = "memory::every_second_page_comes_back_whole_when_asked_and_the_guest_is_huge_again";
    let mut trials: Vec<_> = ours(name, every_second_page).into_iter().collect();
    let name = "memory::nothing_changes_while_pages_move_and_disk_and_balloon_are_busy";
    trials.extend(ours(name, all_at_once));
    trials
}

/// Resident bytes behind guest RAM and arena.
fn resident(vm: &TestVm) -> anyhow::Result<u64> {
    let memory = vm.control.api("GET", "/memory", Value::Null)?;
    Ok(number(&memory, "/host/guest_resident_bytes")? + number(&memory, "/host/arena_resident_bytes")?)
}

fn every_second_page() -> anyhow::Result<()> {
    let mut vm = guest()?.memory_mib(RAM_MIB).cpus(2).argument("--compaction").argument("off").start()?;
    let size = vm.agent.fill("comb", SPARE_MIB, Pages::Base)?;
    vm.agent.write("comb", KEPT)?;
    vm.agent.punch("comb", 2, 0)?;
    let before = resident(&vm)?;
    let given = size / 2 - 2 * SPARE_MIB;
    vm.balloon(given)?;
    let held = before.saturating_sub(resident(&vm)?) >> 20;
    ensure!(held < given / 2, "{held} of {given} MiB came back by themselves: the pages are not scattered");

    // On, but for what is asked only.
    vm.control.api("PUT", "/memory/compaction", json!({ "policy": "occupancy", "proactiveness": 0 }))?;
    let config = vm.control.api("GET", "/vm/config", Value::Null)?;
    let asked = json!({ "policy": "occupancy", "proactiveness": 0 });
    ensure!(config["memory"]["compaction"] == asked, "the configuration is {config}");
    vm.agent.churn_start(CHURN_MIB, 2)?;
    let reclaimed = vm.control.api("PUT", "/memory/reclaim", json!({ "mib": given }))?;
    let churn = vm.agent.churn_stop()?;
    ensure!(churn.pages > 0 && churn.errors == 0, "{} of {} counters were lost", churn.errors, churn.pages);
    let back = before.saturating_sub(resident(&vm)?);
    let least = (given << 20) / 100 * 95;
    ensure!(back >= least, "{back} of {} bytes are the host's again: {reclaimed}", given << 20);
    vm.agent.verify("comb", KEPT)?;

    // Off, so that the guest's blocks stay split until somebody asks.
    vm.control.api("PUT", "/memory/compaction", json!({ "policy": "off" }))?;
    vm.balloon(0)?;
    vm.agent.verify("comb", KEPT)?;
    vm.agent.fill("between", SPARE_MIB, Pages::Base)?;
    // The guest writes while its blocks become whole.
    let writing = vm.agent.send(Request::Write { name: "between".to_owned(), seed: BETWEEN })?;
    memory_command(&vm, &["compaction", "--policy", "occupancy"])?;
    let compacted: Value = serde_json::from_str(&memory_command(&vm, &["compact", "--json"])?)?;
    vm.agent.reply(writing, PATIENCE)?;
    ensure!(compacted["complete"] == true, "compaction stopped: {compacted}");
    ensure!(number(&compacted, "/promoted_blocks")? > 0, "no block of the guest became whole: {compacted}");
    let memory = vm.control.api("GET", "/memory", Value::Null)?;
    let (bytes, huge) =
        (number(&memory, "/host/guest_resident_bytes")?, number(&memory, "/host/guest_huge_bytes")?);
    // In a guest so small two blocks are 1.6 %, and what the guest has not filled is not made whole.
    ensure!(huge * 100 >= bytes * 98, "{huge} of {bytes} bytes are huge after {compacted}: {memory}");
    ensure_huge(&vm, "with all RAM touched again and compacted")?;

    vm.agent.verify("between", BETWEEN)?;
    vm.agent.verify("comb", KEPT)?;
    let table = memory_command(&vm, &["compaction"])?;
    ensure!(
        table.contains("reclaim ") && table.contains("explicit "),
        "what was asked for is not said: {table}"
    );
    vm.shut_down()
}

/// How long everything happens at once, in seconds; `ci/soak` sets it to minutes.
const SECONDS: &str = "AEROSTAT_COMPACTION_SECONDS";

/// Both vCPUs count in memory of their own, the disk is written and read, a comb of live pages is verified,
/// the balloon goes up and down, and the host compacts as fast as it can.
fn all_at_once() -> anyhow::Result<()> {
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    std::fs::File::create(&disk)?.set_len(32 << 20)?;
    let mut vm = guest()?.memory_mib(RAM_MIB).cpus(2).disk(&disk).start()?;
    let size = vm.agent.fill("comb", 3 * SPARE_MIB, Pages::Base)?;
    vm.agent.write("comb", KEPT)?;
    vm.agent.punch("comb", 2, 0)?;
    vm.agent.churn_start(CHURN_MIB, 2)?;
    meanwhile::all_at_once(&mut vm, size / 3, || (), |vm| check_until(vm, Duration::from_secs(seconds)))?;
    let churn = vm.agent.churn_stop()?;
    ensure!(churn.pages > 0 && churn.errors == 0, "{} of {} counters were lost", churn.errors, churn.pages);
    vm.balloon(0)?;
    vm.agent.verify("comb", KEPT)?;
    let memory = vm.control.api("GET", "/memory", Value::Null)?;
    let moved = number(&memory, "/mover/migrated_frames")? + number(&memory, "/mover/promoted_blocks")?;
    ensure!(moved > 0, "nothing was moved: {memory}");
    ensure!(number(&memory, "/moves/poison_lost")? == 0, "somebody wrote to a free frame: {memory}");
    vm.shut_down()
}

fn check_until(vm: &mut TestVm, time: Duration) -> anyhow::Result<()> {
    const MIB: u64 = 1 << 20;
    let start = Instant::now();
    let mut seed = 0;
    while start.elapsed() < time || seed == 0 {
        seed += 1;
        vm.agent.disk_write("vda", 0, 2 * MIB, seed)?;
        vm.agent.disk_verify("vda", 0, 2 * MIB, seed)?;
        vm.agent.verify("comb", KEPT)?;
    }
    Ok(())
}
