//! A guest's life: it is paused, resumed, gets random bytes, and ends in one of three ways.

use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;
use guest_tests::{Answer, Request, TestVm, host};
use libtest_mimic::Trial;

use crate::{guest, looks, ours, scenario};

/// How long an answer may take that is waited for here.
const PATIENCE: Duration = Duration::from_secs(180);
/// What the monitor answers with its exit code after the guest's kernel panicked.
const PANIC_CODE: i32 = 3;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        scenario("life::pause_stops_the_vcpus_and_resume_lets_them_go_on", pause),
        scenario("life::answers_and_requests_pass_each_other_on_the_serial_port", serial),
        looks::shared("life::random_bytes_come_from_the_host", random),
        scenario("life::reset_ends_the_monitor_well", reset),
    ];
    trials.extend(ours("life::panic_ends_the_monitor_and_it_says_so", panic));
    trials
}

fn pause() -> anyhow::Result<()> {
    let mut vm = guest()?.cpus(2).start()?;
    vm.agent.churn_start(32, 2)?;
    vm.control.pause()?;
    // A vCPU that was on its way out of the guest may still be charged for that.
    sleep(Duration::from_millis(200));
    let before = host::cpu_times(vm.pid())?.guest;
    ensure!(!before.is_zero(), "no vCPU thread found: {:?}", host::threads(vm.pid())?);
    let ping = vm.agent.send(Request::Ping)?;
    ensure!(!vm.agent.answers_within(ping, Duration::from_millis(500)), "a paused guest answered");
    let after = host::cpu_times(vm.pid())?.guest;
    ensure!(
        after - before < Duration::from_millis(20),
        "the vCPUs ran for {:?} while paused",
        after - before
    );

    vm.control.resume()?;
    let so_far = vm.agent.churn_status()?.pages;
    let goes_on = guest_tests::testvm::wait_until(|| Ok(vm.agent.churn_status()?.pages > so_far))?;
    ensure!(goes_on, "the guest's threads stand still after resume");
    let churn = vm.agent.churn_stop()?;
    ensure!(churn.errors == 0, "{} of {} counters were lost", churn.errors, churn.pages);
    vm.shut_down()
}

/// Requests come in while a long answer goes out, and threads on both CPUs keep the rest of the guest busy.
fn serial() -> anyhow::Result<()> {
    const LOG: u32 = 4 << 10;
    let mut vm = guest()?.cpus(2).start()?;
    vm.agent.churn_start(32, 2)?;
    for _ in 0..2 {
        let log = vm.agent.send(Request::KernelLog { bytes: LOG })?;
        let pings = (0..16).map(|_| vm.agent.send(Request::Ping)).collect::<anyhow::Result<Vec<_>>>()?;
        let answer = vm.agent.reply(log, PATIENCE)?;
        ensure!(matches!(&answer, Answer::Text(log) if log.len() > 1000), "not a log: {answer:?}");
        for ping in pings {
            vm.agent.reply(ping, PATIENCE)?;
        }
    }
    let churn = vm.agent.churn_stop()?;
    ensure!(churn.errors == 0, "{} of {} counters were lost", churn.errors, churn.pages);
    vm.shut_down()
}

fn random(vm: &mut TestVm) -> anyhow::Result<()> {
    let source = vm.agent.read_file("/sys/class/misc/hw_random/rng_current")?;
    ensure!(source.starts_with("virtio"), "random numbers come from {source:?}");
    let (first, second) = (vm.agent.random(64)?, vm.agent.random(64)?);
    ensure!(first.len() == 128 && first != second, "twice the same bytes: {first}");
    ensure!(first.bytes().any(|digit| digit != b'0'), "all bytes are 0");
    Ok(())
}

fn reset() -> anyhow::Result<()> {
    let mut vm = guest()?.start()?;
    vm.agent.reboot()?;
    let status = vm.wait_exit()?;
    ensure!(status.success(), "the monitor ended with {status}:\n{}", vm.transcript());
    Ok(())
}

fn panic() -> anyhow::Result<()> {
    let mut vm = guest()?.start()?;
    vm.agent.panic()?;
    let status = vm.wait_exit()?;
    let transcript = vm.transcript();
    ensure!(status.code() == Some(PANIC_CODE), "the monitor ended with {status}:\n{transcript}");
    ensure!(transcript.contains("Kernel panic"), "the guest's last words are lost:\n{transcript}");
    ensure!(transcript.contains("guest's kernel panicked"), "the monitor does not say so:\n{transcript}");
    Ok(())
}
