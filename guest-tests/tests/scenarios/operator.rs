//! The operator's calls are answered whatever the guest does, and a monitor of which a thread fails ends and says so.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use guest_agent::NetRequest;
use guest_tests::agent_client::Herd;
use guest_tests::tap::Tap;
use guest_tests::{Content, Flood, Pages, Request, SwapLink, TestVm, host, interrupted, threads};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{guest, ours};

const RAM_MIB: u64 = 128;
/// The least for so much RAM, so that what swap takes is missing when the balloon comes back.
const LIMIT: &str = "136M";
const BALLOON_MIB: u64 = 32;
/// More than there is room for.
const SWAP: &str = "256M,memory=128M";
const RANDOM: Content = Content { zero_percent: 0, ratio: 1 };
/// The host, as the guest's network card sees it, and the guest.
const HOST: &str = "198.18.0.1";
const GUEST: &str = "198.18.0.2/24";

const PATIENCE: Duration = Duration::from_secs(180);
/// A guest that says nothing for so long stands still.
const SILENCE: Duration = Duration::from_secs(10);
/// Promised is a second. Where CPU and host are emulated this says only that nothing was waited for.
const ANSWER: Duration = Duration::from_secs(15);

/// Threads that wait in a system call, which can be made to fail from outside, and what the monitor says then.
const FAILING: [(&str, &str); 5] = [
    ("devices", "devices are not served any more"),
    ("reclaim", "devices are not served any more"),
    ("fault", "guest memory cannot be provided any more"),
    ("api", "the API does not answer any more"),
    ("signals", "no signal could end this process any more"),
];

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(ours("operator::calls_are_answered_when_the_guest_has_wedged_its_devices", wedged));
    trials.extend(ours("operator::a_thread_that_fails_ends_the_monitor", failing));
    trials
}

/// The guest gives memory up, swap takes it for pages that do not compress, and the guest takes it back: it waits for memory
/// then that nobody frees, and so does its network card, which fills buffers in it.
fn wedged() -> anyhow::Result<()> {
    let tap = Tap::create(&format!("{HOST}/24"))?;
    let link = SwapLink::inside(SWAP.to_owned());
    let mut spec = link.attach(guest()?.memory_mib(RAM_MIB).tap(tap.name()));
    for argument in ["--memory-limit", LIMIT, "--min-free", "0"] {
        spec = spec.argument(argument);
    }
    let mut vm = spec.start()?;
    wedge(&mut vm, &link).map_err(|error| vm.explain(&error))?;
    answer(&vm).map_err(|error| vm.explain(&error))?;
    let pid = i32::try_from(vm.pid()).ok().and_then(Pid::from_raw).context("no process has that number")?;
    kill_process(pid, Signal::TERM).context("the monitor is gone")?;
    let status = vm.wait_exit()?;
    ensure!(status.success(), "the monitor ended with {status}:\n{}", vm.transcript());
    Ok(())
}

fn wedge(vm: &mut TestVm, link: &SwapLink) -> anyhow::Result<()> {
    for (interface, address) in [("eth1", "169.254.83.2/30"), ("eth0", GUEST)] {
        let up = NetRequest::Up { interface: Some(interface.to_owned()), address: address.to_owned() };
        vm.agent.call(Request::Net(up))?;
    }
    link.swap_on(vm, 2)?;
    vm.balloon(BALLOON_MIB)?;
    let mib = vm.agent.memory()?.available + BALLOON_MIB;
    vm.agent.flood_start(Flood::Icmp(HOST.to_owned()), 1400)?;
    vm.agent.hogs_send(Herd { processes: 2, mib: mib / 2, seed: 5, content: RANDOM })?;
    let start = Instant::now();
    let mut is_back = false;
    loop {
        let ping = vm.agent.send(Request::Ping)?;
        if !vm.agent.answers_within(ping, SILENCE) {
            break;
        }
        ensure!(start.elapsed() < PATIENCE, "the guest goes on: {}", memory(vm)?);
        // Swap has most of what the balloon gave up, and the guest wants it back.
        let swapped = vm.control.api("GET", "/swap", Value::Null)?;
        let stored =
            swapped.pointer("/store/stored_bytes").and_then(Value::as_u64).context("stored_bytes")?;
        if !is_back && stored >> 20 >= BALLOON_MIB * 3 / 4 {
            // It may stand still before it has all of it.
            vm.control.set_balloon(0)?;
            vm.agent.send(Request::Touch { mib: BALLOON_MIB * 7 / 8, pages: Pages::Any })?;
            is_back = true;
        }
        sleep(Duration::from_millis(500));
    }
    let report = threads::report(vm.pid())?;
    ensure!(is_back, "the guest stands still before it should:\n{report}{}", memory(vm)?);
    eprintln!("the guest stands still after {:?}:\n{report}{}", start.elapsed(), memory(vm)?);
    ensure!(report.contains("handle_userfault"), "nobody waits for memory:\n{report}");
    Ok(())
}

fn memory(vm: &TestVm) -> anyhow::Result<Value> {
    vm.control.api("GET", "/memory/zone", Value::Null)
}

/// Each call of a running guest that changes nothing for good.
fn answer(vm: &TestVm) -> anyhow::Result<()> {
    let is_asked = |method: &str, path: &str, body: Value| -> anyhow::Result<u16> {
        let start = Instant::now();
        let status = vm.control.api_response(method, path, body)?.status;
        let took = start.elapsed();
        eprintln!("{method} {path}: {status} in {took:?}");
        ensure!(took < ANSWER, "{method} {path} took {took:?}");
        Ok(status)
    };
    let reads = [
        "/",
        "/version",
        "/vm/config",
        "/machine-config",
        "/memory",
        "/memory/buddy",
        "/memory/types",
        "/memory/zone",
        "/memory/slabs",
        "/memory/compaction",
        "/swap",
        "/balloon",
        "/balloon/statistics",
    ];
    let ends = [
        ("PATCH", "/vm", json!({"state": "Paused"})),
        ("PATCH", "/vm", json!({"state": "Resumed"})),
        ("PATCH", "/balloon", json!({"amount_mib": 1})),
        ("PATCH", "/balloon/statistics", json!({"stats_polling_interval_s": 2})),
        (
            "PATCH",
            "/network-interfaces/net0",
            json!({"iface_id": "net0", "rx_rate_limiter": {"ops": {"size": 1000, "refill_time": 100}}}),
        ),
        ("PUT", "/memory/compaction", json!({"proactiveness": 1})),
        ("PUT", "/actions", json!({"action_type": "SendCtrlAltDel"})),
    ];
    // The second round is after all that could have been kept waiting.
    for _ in 0..2 {
        for path in reads {
            let status = is_asked("GET", path, Value::Null)?;
            ensure!(status == 200, "GET {path}: status {status}");
        }
        guest_tests::http::text(vm.control.socket()?, "/metrics")?;
        for (method, path, body) in &ends {
            let status = is_asked(method, path, body.clone())?;
            // A guest that stands still may not listen to its keyboard.
            let may_refuse = *path == "/actions";
            ensure!(
                matches!(status, 204 | 503) || may_refuse && status == 400,
                "{method} {path}: status {status}"
            );
        }
    }
    Ok(())
}

/// Each of these threads has its system call fail once, in a monitor of its own.
fn failing() -> anyhow::Result<()> {
    for (name, said) in FAILING {
        let mut vm = guest()?.memory_mib(RAM_MIB).start()?;
        let threads = host::threads(vm.pid())?;
        let Some(thread) = threads.iter().find(|thread| thread.name == name) else {
            bail!("no thread is called {name}: {threads:?}");
        };
        interrupted::fail(thread.id, libc::EBADF).with_context(|| format!("{name} cannot be interrupted"))?;
        let status = vm.wait_exit().with_context(|| format!("{name} failed"))?;
        let transcript = vm.transcript();
        ensure!(
            status.code() == Some(1),
            "{name} failed, and the monitor ended with {status}:\n{transcript}"
        );
        ensure!(
            transcript.contains(said) && transcript.contains(&format!("\"{name}\"")),
            "{name} failed, and the monitor does not say so:\n{transcript}"
        );
    }
    Ok(())
}
