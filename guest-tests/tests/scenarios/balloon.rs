//! The balloon takes memory and gives it back, and no byte of the guest changes.

use std::process::Command;

use anyhow::{Context, ensure};
use guest_tests::{Balloon, Pages, TestVm, paths};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::memory::number;
use crate::{RAM_MIB, SPARE_MIB, guest, looks, ours, scenario};

/// The pattern that stays in the guest from the first step to the last.
const KEPT: u64 = 42;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        scenario("balloon::inflate_takes_what_was_asked_and_deflate_gives_it_back", there_and_back),
        scenario("balloon::takes_scattered_pages_and_changes_no_other", scattered),
        scenario("balloon::moves_while_threads_write_and_check", under_churn),
        scenario("balloon::deflate_on_oom_saves_a_process", deflate_on_oom),
        scenario("balloon::without_deflate_on_oom_the_process_dies", no_deflate_on_oom),
        scenario("balloon::reporting_returns_freed_memory_without_a_balloon", reporting),
    ];
    trials.extend(ours("balloon::set_before_start_is_inflated_by_the_driver", set_before_start));
    trials.extend(ours("balloon::what_was_given_up_in_pieces_is_back_at_the_host", back_at_the_host));
    trials.extend(looks::ours("balloon::statistics_move", statistics));
    trials.extend(ours("balloon::hinting_starts_acknowledges_and_stops", hinting));
    trials.extend(looks::ours("balloon::more_than_ram_is_refused", too_much));
    trials
}

/// Fills the guest so that all of its RAM is behind it, keeps a pattern in 64 MiB, and frees the rest.
fn touched(vm: &mut TestVm) -> anyhow::Result<()> {
    vm.agent.allocate("kept", 64, Pages::Any)?;
    vm.agent.write("kept", KEPT)?;
    fill_and_verify(vm)
}

fn fill_and_verify(vm: &mut TestVm) -> anyhow::Result<()> {
    vm.agent.fill("all", SPARE_MIB, Pages::Any)?;
    vm.agent.write("all", 1)?;
    vm.agent.verify("all", 1)?;
    vm.agent.free("all")?;
    vm.agent.verify("kept", KEPT)?;
    Ok(())
}

fn there_and_back() -> anyhow::Result<()> {
    const ASKED: u64 = 256;
    let mut vm = guest()?.cpus(2).start()?;
    touched(&mut vm)?;
    let (free, resident) = (vm.agent.memory()?.free, vm.resident()?.mib);

    vm.balloon(ASKED)?;
    let taken = free.saturating_sub(vm.agent.memory()?.free);
    ensure!(taken.abs_diff(ASKED) <= 12, "MemFree fell by {taken} MiB, asked for {ASKED}");
    vm.wait_resident_below(resident - 0.9 * ASKED as f64).context("after inflating 256 MiB")?;
    vm.agent.verify("kept", KEPT)?;

    vm.balloon(0)?;
    let back = vm.agent.memory()?.free;
    ensure!(free.abs_diff(back) <= 12, "MemFree was {free} MiB before and is {back} after");
    fill_and_verify(&mut vm)?;
    let most = resident + 16.0;
    ensure!(vm.resident()?.mib <= most, "the guest holds more than before: {:.0} MiB", vm.resident()?.mib);
    vm.shut_down()
}

fn scattered() -> anyhow::Result<()> {
    let mut vm = guest()?.cpus(2).start()?;
    let size = vm.agent.fill("comb", SPARE_MIB, Pages::Base)?;
    vm.agent.write("comb", KEPT)?;
    vm.agent.punch("comb", 2, 0)?;

    let asked = size / 4;
    for _ in 0..2 {
        vm.balloon(asked)?;
        vm.agent.verify("comb", KEPT)?;
        vm.balloon(0)?;
        vm.agent.verify("comb", KEPT)?;
    }
    // What was given back is good memory, and the comb's own pages are not among it.
    vm.agent.fill("between", SPARE_MIB, Pages::Base)?;
    vm.agent.write("between", 5)?;
    vm.agent.verify("between", 5)?;
    vm.agent.verify("comb", KEPT)?;
    vm.shut_down()
}

/// The host has it seconds after the guest has given it up, and who waits for the host waits for that.
fn back_at_the_host() -> anyhow::Result<()> {
    guest()?.run(|vm| {
        let asked = vm.agent.fill("comb", SPARE_MIB, Pages::Base)? / 4;
        vm.agent.write("comb", KEPT)?;
        vm.agent.punch("comb", 2, 0)?;
        let before = vm.resident()?.mib;
        let mut command = Command::new(paths::aerostat());
        command.args(["balloon", "set", &asked.to_string(), "--wait=host", "--json", "--api-sock"]);
        let output = command.arg(vm.control.socket()?).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout)?;
        let number = |told: &Value, name: &str| {
            told.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} in {told}"))
        };
        let freed = number(&told, "host_freed_mib")?;
        ensure!(number(&told, "actual_mib")? == asked && freed <= asked, "{told}");
        ensure!(freed * 10 >= asked * 9, "the host has {freed} of {asked} MiB back");
        let fell = before - vm.resident()?.mib;
        ensure!(fell > 0.95 * freed as f64, "{freed} MiB are back, but resident are only {fell:.0} MiB less");
        let statistics = vm.control.api("GET", "/balloon/statistics", Value::Null)?;
        ensure!(number(&statistics, "host_freed_mib")?.abs_diff(freed) <= 1, "{told}, {statistics}");
        vm.agent.verify("comb", KEPT)?;
        vm.balloon(0)?;
        let statistics = vm.control.api("GET", "/balloon/statistics", Value::Null)?;
        ensure!(number(&statistics, "host_freed_mib")? == 0, "{statistics}");
        Ok(())
    })
}

fn under_churn() -> anyhow::Result<()> {
    guest()?.cpus(2).run(|vm| {
        let churn = up_and_down(vm)?;
        ensure!(churn.pages > 0, "the threads did nothing");
        ensure!(churn.errors == 0, "{} of {} counters were lost", churn.errors, churn.pages);
        Ok(())
    })
}

/// The balloon goes up and down while two threads count in 128 MiB.
fn up_and_down(vm: &mut TestVm) -> anyhow::Result<guest_tests::Churn> {
    vm.agent.churn_start(128, 2)?;
    for _ in 0..2 {
        vm.balloon(192)?;
        vm.balloon(32)?;
    }
    vm.balloon(0)?;
    vm.agent.churn_stop()
}

fn set_before_start() -> anyhow::Result<()> {
    let balloon = Balloon { mib: 128, statistics_s: 1, ..Balloon::default() };
    let mut vm = guest()?.balloon(balloon).start()?;
    vm.wait_balloon(128)?;
    let free = vm.agent.memory()?.free;
    ensure!(free < RAM_MIB - 128, "{free} MiB are free though 128 of {RAM_MIB} are in the balloon");
    vm.shut_down()
}

/// A process touches 96 MiB more than there is beside a balloon of half the RAM; whether it lives.
fn process_short_of_memory(deflate_on_oom: bool) -> anyhow::Result<bool> {
    let balloon = Balloon { deflate_on_oom, statistics_s: 1, ..Balloon::default() };
    let mut vm = guest()?.balloon(balloon).start()?;
    vm.balloon(RAM_MIB / 2)?;
    let free = vm.agent.memory()?.free;
    let survived = vm.agent.consume(free + 96)?;
    if deflate_on_oom {
        let actual = vm.control.balloon_actual()?;
        ensure!(actual < RAM_MIB / 2, "the balloon still holds {actual} MiB");
    }
    vm.shut_down()?;
    Ok(survived)
}

fn deflate_on_oom() -> anyhow::Result<()> {
    ensure!(process_short_of_memory(true)?, "the process died beside a balloon that could have deflated");
    Ok(())
}

fn no_deflate_on_oom() -> anyhow::Result<()> {
    ensure!(!process_short_of_memory(false)?, "the process lived: it did not need the balloon's memory");
    Ok(())
}

fn reporting() -> anyhow::Result<()> {
    const FREED: u64 = 256;
    let balloon = Balloon { reporting: true, statistics_s: 1, ..Balloon::default() };
    let mut vm = guest()?.balloon(balloon).start()?;
    vm.agent.allocate("kept", 64, Pages::Any)?;
    vm.agent.write("kept", KEPT)?;
    vm.agent.allocate("freed", FREED, Pages::Any)?;
    let resident = vm.resident()?.mib;

    vm.agent.free("freed")?;
    vm.wait_resident_below(resident - 0.8 * FREED as f64).context("after the guest freed 256 MiB")?;
    fill_and_verify(&mut vm)?;
    vm.shut_down()
}

fn statistics(vm: &mut TestVm) -> anyhow::Result<()> {
    let free_mib = |vm: &TestVm| -> anyhow::Result<u64> {
        let statistics = vm.control.api("GET", "/balloon/statistics", Value::Null)?;
        Ok(statistics.get("free_memory").and_then(Value::as_u64).unwrap_or(0) >> 20)
    };
    let agrees = |vm: &mut TestVm, what: &str| -> anyhow::Result<()> {
        let free = vm.agent.memory()?.free;
        let told = guest_tests::testvm::wait_until(|| Ok(free_mib(vm)?.abs_diff(free) <= 16))?;
        ensure!(told, "{what}: the statistics say {} MiB free, the guest {free}", free_mib(vm)?);
        Ok(())
    };
    agrees(vm, "at first")?;
    vm.agent.allocate("a", 200, Pages::Any)?;
    agrees(vm, "with 200 MiB allocated")?;
    // Asked for now, and not what was told before.
    vm.agent.allocate("b", 64, Pages::Any)?;
    let fresh = vm.control.api("GET", "/balloon/statistics?fresh=true", Value::Null)?;
    let (told, free) = (number(&fresh, "/free_memory")? >> 20, vm.agent.memory()?.free);
    ensure!(told.abs_diff(free) <= 16, "fresh statistics say {told} MiB free, the guest {free}");
    vm.agent.free("b")?;

    vm.balloon(64)?;
    let statistics = vm.control.api("GET", "/balloon/statistics", Value::Null)?;
    for (name, expected) in
        [("target_mib", 64), ("actual_mib", 64), ("target_pages", 64 << 8), ("actual_pages", 64 << 8)]
    {
        let value = statistics.get(name).and_then(Value::as_u64);
        ensure!(value == Some(expected), "{name} is {value:?}, expected {expected}");
    }
    for name in ["total_memory", "available_memory", "disk_caches", "major_faults", "minor_faults"] {
        ensure!(statistics.get(name).is_some_and(Value::is_u64), "the statistics lack {name}: {statistics}");
    }
    vm.agent.free("a")?;
    vm.balloon(0)?;
    Ok(())
}

fn hinting() -> anyhow::Result<()> {
    let balloon = Balloon { hinting: true, statistics_s: 1, ..Balloon::default() };
    let mut vm = guest()?.balloon(balloon).start()?;
    vm.agent.allocate("kept", 64, Pages::Any)?;
    vm.agent.write("kept", KEPT)?;
    vm.agent.allocate("freed", 256, Pages::Any)?;
    let resident = vm.resident()?.mib;
    vm.agent.free("freed")?;

    vm.control.api("PATCH", "/balloon/hinting/start", json!({ "acknowledge_on_stop": true }))?;
    vm.wait_resident_below(resident - 200.0).context("after the guest hinted 256 MiB")?;
    vm.agent.verify("kept", KEPT)?;
    vm.control.api("PATCH", "/balloon/hinting/stop", Value::Null)?;
    let status = vm.control.api("GET", "/balloon/hinting/status", Value::Null)?;
    ensure!(status.get("host_cmd").is_some_and(Value::is_u64), "status says {status}");
    fill_and_verify(&mut vm)?;
    vm.shut_down()
}

fn too_much(vm: &mut TestVm) -> anyhow::Result<()> {
    let answer = vm.control.api_response("PATCH", "/balloon", json!({ "amount_mib": RAM_MIB + 1 }))?;
    ensure!(answer.status == 400, "status {}: {}", answer.status, answer.body);
    let message = answer.body.get("fault_message").and_then(Value::as_str).unwrap_or_default();
    ensure!(!message.is_empty(), "no fault_message in {}", answer.body);
    Ok(())
}
