//! A guest wedges its devices, and every call of the API is answered.
//!
//! ```text
//!   guest    gives pages to the balloon │ host: no memory left │ takes them back, and reads a file into them
//!   devices                                                      writes to them, and waits for memory: the disk is locked
//!   API      every call, twice
//! ```
//! There is a limit on memory, and swap has no room in it then, and no tier. The monitor is one that uses its memory up when it is
//! told (`aerostat-occupied`). A vCPU that touches such a page stands still, too, but does not show it: a thread of the host's
//! kernel waits in its place (`async_pf_execute`), and each timer interrupt has it try again.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use guest_agent::NetRequest;
use guest_tests::agent_client::OVERDUE;
use guest_tests::tap::Tap;
use guest_tests::testvm::wait_until;
use guest_tests::{Balloon, Pages, Request, SwapLink, TestVm, kvm_host, threads};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::memory::number;
use crate::{SPARE_MIB, guest, ours};

const RAM_MIB: u64 = 128;
/// The least for so much RAM.
const LIMIT: &str = "136M";
const BALLOON: Balloon =
    Balloon { mib: 0, deflate_on_oom: false, statistics_s: 1, reporting: false, hinting: true };
const BALLOON_MIB: u64 = 32;
/// Debian's kernels zero every page that they hand out: then no device ever comes to a page first.
const UNZEROED: &str = "init_on_alloc=0";
/// Half of it is given back to the guest's kernel.
const COMB_MIB: u64 = 12;
/// Bytes that the guest reads: more than it has left of memory that was not in the balloon.
const READ: u64 = 24 << 20;
/// It has no room once memory is used up.
const SWAP: &str = "256M,memory=128M";
/// The host, as the guest's network card sees it, and the guest.
const HOST: &str = "198.18.0.1";
const GUEST: &str = "198.18.0.2/24";

/// A guest that says nothing for so long stands still.
const SILENCE: Duration = Duration::from_secs(5);

pub(super) fn trial() -> Option<Trial> {
    ours("operator::calls_are_answered_when_the_guest_has_wedged_its_devices", answers)
}

/// A second is promised. Where CPU and host are emulated an answer takes longer, whoever waits.
fn bound() -> Duration {
    Duration::from_secs(if kvm_host::kind() == "nested" { 10 } else { 1 })
}

fn answers() -> anyhow::Result<()> {
    let tap = Tap::create(&format!("{HOST}/24"))?;
    let link = SwapLink::inside(SWAP.to_owned());
    let directory = tempfile::tempdir()?;
    let occupied = directory.path().join("occupied");
    let disk = directory.path().join("disk");
    fs::File::create(&disk)?.set_len(READ)?;
    let spec = guest()?.memory_mib(RAM_MIB).append(UNZEROED).tap(tap.name()).balloon(BALLOON).disk(&disk);
    let mut spec = link.attach(spec);
    for argument in ["--memory-limit", LIMIT, "--min-free", "0"] {
        spec = spec.argument(argument);
    }
    let mut vm = spec.occupied_when(&occupied).start()?;
    let wedged = wedge(&mut vm, &link, || fs::write(&occupied, "")).and_then(|()| every_call(&vm));
    wedged.map_err(|error| vm.explain(&error))?;
    let pid = i32::try_from(vm.pid()).ok().and_then(Pid::from_raw).context("no process has that number")?;
    kill_process(pid, Signal::TERM).context("the monitor is gone")?;
    let status = vm.wait_exit()?;
    ensure!(status.success(), "the monitor ended with {status}:\n{}", vm.transcript());
    Ok(())
}

/// On return a device waits for memory that nobody frees.
fn wedge(
    vm: &mut TestVm,
    link: &SwapLink,
    occupy: impl FnOnce() -> std::io::Result<()>,
) -> anyhow::Result<()> {
    for (interface, address) in [("eth1", "169.254.83.2/30"), ("eth0", GUEST)] {
        let up = NetRequest::Up { interface: Some(interface.to_owned()), address: address.to_owned() };
        vm.agent.call(Request::Net(up))?;
    }
    link.swap_on(vm, 2)?;
    // What the agent needs for this is there then.
    vm.agent.disk_verify("vda", 0, READ, 0).ok();
    vm.agent.allocate("comb", COMB_MIB, Pages::Base)?;
    vm.balloon(BALLOON_MIB)?;
    vm.agent.fill("all", SPARE_MIB, Pages::Any)?;
    occupy()?;
    let is_used_up = wait_until(|| Ok(number(&memory(vm)?, "/free")? < 64))?;
    ensure!(is_used_up, "memory is not used up: {}", memory(vm)?);
    vm.balloon(0)?;
    // Linux uses first what was freed last: what it needs itself for reading is there.
    vm.agent.punch("comb", 2, 0)?;
    vm.agent.send(Request::BlockVerify { device: "vda".to_owned(), offset: 0, bytes: READ, seed: 0 })?;
    let mut report = String::new();
    let waits = wait_until(|| {
        report = threads::report(vm.pid())?;
        let mut lines = report.lines().map(str::trim_start);
        Ok(lines.any(|line| line.starts_with("devices ") && line.contains("handle_userfault")))
    })?;
    ensure!(waits, "the guest's devices go on:\n{report}{}", memory(vm)?);
    let ping = vm.agent.send(Request::Ping)?;
    ensure!(!vm.agent.answers_within(ping, SILENCE), "the guest goes on:\n{report}{}", memory(vm)?);
    Ok(())
}

fn memory(vm: &TestVm) -> anyhow::Result<Value> {
    vm.control.api("GET", "/memory/zone", Value::Null)
}

/// Every call that a running guest's operator may make, and that leaves it as it is.
fn every_call(vm: &TestVm) -> anyhow::Result<()> {
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
        "/balloon/statistics?fresh=true",
        "/balloon/hinting/status",
    ];
    let changes = [
        ("PATCH", "/vm", json!({"state": "Paused"})),
        ("PATCH", "/vm", json!({"state": "Resumed"})),
        ("PATCH", "/balloon", json!({"amount_mib": 1})),
        ("PATCH", "/balloon/statistics", json!({"stats_polling_interval_s": 2})),
        ("PATCH", "/balloon/hinting/start", Value::Null),
        ("PATCH", "/balloon/hinting/stop", Value::Null),
        (
            "PATCH",
            "/network-interfaces/net0",
            json!({"iface_id": "net0", "rx_rate_limiter": {"ops": {"size": 1000, "refill_time": 100}}}),
        ),
        ("PUT", "/memory/compaction", json!({"proactiveness": 1})),
        ("PUT", "/memory/compact", Value::Null),
        ("PUT", "/memory/reclaim", json!({"mib": 1})),
    ];
    let reads = reads.into_iter().map(|path| ("GET", path, Value::Null));
    let calls: Vec<_> = reads.chain(changes).collect();
    // The second round is after all that could have been kept waiting.
    for _ in 0..2 {
        for (method, path, body) in &calls {
            let start = Instant::now();
            let answer = vm.control.api_response(method, path, body.clone())?;
            let took = start.elapsed();
            eprintln!("{method} {path}: {} in {took:?}", answer.status);
            // Whole blocks are made as long as there is something to make them of.
            let takes_long = matches!(*path, "/memory/compact" | "/memory/reclaim");
            ensure!(takes_long || took < bound(), "{method} {path} {OVERDUE}: {took:?}");
            // A guest that stands still does not end a run of hinting.
            let may_refuse = *path == "/balloon/hinting/start";
            let is_answered = matches!(answer.status, 200 | 204 | 503) || may_refuse && answer.status == 400;
            ensure!(is_answered, "{method} {path}: {answer:?}");
        }
        let start = Instant::now();
        guest_tests::http::text(vm.control.socket()?, "/metrics")?;
        ensure!(start.elapsed() < bound(), "GET /metrics {OVERDUE}: {:?}", start.elapsed());
    }
    Ok(())
}
