//! A host that can harm guests: it swaps, limits, counts, merges. The monitor says so, and refuses what it must.
//!
//! These change the whole host, so they run in the nested one only. No guest has to boot for them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, ensure};
use guest_tests::noise::{Cgroup, Ksm, Zram};
use guest_tests::testvm::wait_until;
use guest_tests::{Kernel, http, paths};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::in_a_host_of_its_own;

/// The kernel says that it is a Linux 2.6, and Debian's name for it something else: nobody knows what is in it.
const UNKNOWN: [&str; 3] = ["setarch", "x86_64", "--uname-2.6"];
/// The sentence about such a kernel.
const MAY_LACK: &str = "does not tell whether it has the fixes c50f8e60 and 0ea148a7";
const OVERCOMMIT: &str = "/proc/sys/vm/overcommit_memory";

pub(crate) fn trials() -> Vec<Trial> {
    let scenarios = [
        in_a_host_of_its_own(
            "host::swap_takes_a_kernel_that_is_known_to_be_fixed_or_the_operators_word",
            swap,
        ),
        in_a_host_of_its_own("host::limits_of_a_control_group_are_shown_and_warned_of", limits),
        in_a_host_of_its_own("host::a_kernel_that_counts_what_is_mapped_is_named", overcommit),
        in_a_host_of_its_own("host::samepage_merging_is_shown_and_left_to_others", merging),
    ];
    scenarios.into_iter().flatten().collect()
}

fn swap() -> anyhow::Result<()> {
    let _swap = Zram::on(64)?;
    let known = check(&[])?.found("host_swap")?;
    ensure!(known["ok"] == true && said(&known).contains("/dev/zram0"), "{known}");

    let group = Cgroup::new("aerostat-swap")?;
    group.limit_swap(0)?;
    let words = group.words();
    let words: Vec<&str> = words.iter().map(String::as_str).chain(UNKNOWN).collect();
    let forbidden = check(&words)?.found("host_swap")?;
    ensure!(said(&forbidden).contains("aerostat-swap/memory.swap.max keeps the host from"), "{forbidden}");

    let unknown = check(&UNKNOWN)?;
    ensure!(unknown.code == Some(1), "no guest can be started there");
    let finding = unknown.found("host_swap")?;
    ensure!(finding["required"] == true && said(&finding).contains(MAY_LACK), "{finding}");

    let (kernel, directory) = (Kernel::any()?.vmlinuz(), tempfile::tempdir()?);
    let file = directory.path().join("vm.json");
    fs::write(&file, json!({"boot-source": {"kernel_image_path": &kernel}}).to_string())?;
    let (kernel, file) = (kernel.display().to_string(), file.display().to_string());
    for arguments in [&["run", "--kernel", &kernel][..], &["--no-api", "--config-file", &file]] {
        let output = aerostat(&UNKNOWN).args(arguments).output()?;
        let refused = output.status.code() == Some(1) && text(&output.stderr).contains(MAY_LACK);
        ensure!(refused, "{arguments:?}: {output:?}");
    }
    let monitor = Monitor::serve(&UNKNOWN)?;
    let refused = monitor.start(128)?;
    ensure!(refused.status == 400 && refused.body.to_string().contains(MAY_LACK), "{refused:?}");
    monitor.put("/memory/limits", &json!({"allow_host_swap": true}))?.success()?;
    monitor.start(128)?.success()?;
    ensure!(monitor.log()?.contains("the operator says that it has them"), "no warning: {}", monitor.log()?);
    Monitor::serve(&[])?.start(128)?.success()?;
    Ok(())
}

fn limits() -> anyhow::Result<()> {
    let group = Cgroup::new("aerostat-limits")?;
    group.limit_memory(400)?;
    let own = Path::new("/sys/fs/cgroup/aerostat-limits");
    fs::write(own.join("memory.high"), "300M")?;
    fs::write(own.join("memory.oom.group"), "1")?;
    let words = group.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();

    let checked = check(&words)?;
    ensure!(checked.code == Some(0), "guests run there");
    let max = checked.found("memory_max")?;
    ensure!(said(&max).contains("aerostat-limits/memory.max is 400 MiB") && max["ok"] == false, "{max}");
    let high = checked.found("memory_high")?;
    ensure!(said(&high).contains("aerostat-limits/memory.high is 300 MiB") && high["ok"] == false, "{high}");
    // The group is the monitor's alone.
    ensure!(checked.found("oom_group")?["ok"] == true, "{checked:?}");

    let monitor = Monitor::serve(&words)?;
    ensure!(check(&words)?.found("oom_group")?["ok"] == false, "two are in the group");
    monitor.start(512)?.success()?;
    let log = monitor.log()?;
    let warned = |name: &str| {
        log.contains(&format!("aerostat-limits/{name}")) && log.contains("this guest can come to")
    };
    ensure!(warned("memory.max is 400 MiB") && warned("memory.high is 300 MiB"), "{log}");
    let fits = Monitor::serve(&words)?;
    fits.start(128)?.success()?;
    ensure!(!fits.log()?.contains("this guest can come to"), "{}", fits.log()?);
    Ok(())
}

fn overcommit() -> anyhow::Result<()> {
    ensure!(check(&[])?.found("overcommit")?["ok"] == true, "the nested host does not count");
    let _counting = Setting::new(OVERCOMMIT, "2")?;
    let checked = check(&[])?;
    ensure!(checked.code == Some(0), "guests run there");
    let finding = checked.found("overcommit")?;
    ensure!(finding["ok"] == false && said(&finding).starts_with("vm.overcommit_memory is 2"), "{finding}");
    let monitor = Monitor::serve(&[])?;
    // All of the host's memory, which is mapped twice: more than half of that is not allowed.
    let refused = monitor.start(8 << 10)?;
    ensure!(refused.status == 400, "{refused:?}");
    ensure!(refused.body.to_string().contains("vm.overcommit_memory is 2, which lets"), "{refused:?}");
    monitor.start(128)?.success()?;
    ensure!(monitor.log()?.contains("vm.overcommit_memory is 2"), "no warning: {}", monitor.log()?);
    Ok(())
}

fn merging() -> anyhow::Result<()> {
    let ksm = Ksm::at_full_speed()?;
    let finding = check(&Ksm::WORDS)?.found("ksm")?;
    ensure!(finding["ok"] == true && said(&finding).contains("but none of Aerostat's"), "{finding}");
    let monitor = Monitor::serve(&Ksm::WORDS)?;
    monitor.start(128)?.success()?;
    let scans = ksm.scans()?;
    ensure!(wait_until(|| Ok(ksm.scans()? > scans + 1))?, "it does not go on");
    let merged = ksm.merged(monitor.process.0.id())?;
    ensure!((merged.looked_at, merged.merged) == (0, 0), "{merged:?}");
    Ok(())
}

/// The monitor's program behind these words.
fn aerostat(under: &[&str]) -> Command {
    let program = paths::aerostat();
    let Some((first, rest)) = under.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What `aerostat check` found.
#[derive(Debug)]
struct Checked {
    code: Option<i32>,
    report: Value,
}

fn check(under: &[&str]) -> anyhow::Result<Checked> {
    let output: Output = aerostat(under).args(["check", "--json"]).output()?;
    let report = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok(Checked { code: output.status.code(), report })
}

impl Checked {
    fn found(&self, name: &str) -> anyhow::Result<Value> {
        let all = self.report["checks"].as_array().context("no checks")?;
        let found = all.iter().find(|check| check["name"] == name);
        found.cloned().with_context(|| format!("nothing of {name}: {}", self.report))
    }
}

/// The finding, in words.
fn said(finding: &Value) -> &str {
    finding["detail"].as_str().unwrap_or_default()
}

/// A setting of the kernel; dropping it sets it back.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    fn new(path: &'static str, value: &str) -> anyhow::Result<Self> {
        let before = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        fs::write(path, value).with_context(|| format!("cannot write {value} to {path}"))?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, self.before.trim()) {
            eprintln!("cannot set {} back: {error}", self.path);
        }
    }
}

/// A process that ends with its value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A monitor that serves its API and has no guest yet.
struct Monitor {
    process: Ended,
    socket: PathBuf,
    log: PathBuf,
    _directory: TempDir,
}

impl Monitor {
    fn serve(under: &[&str]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let (socket, log) = (directory.path().join("socket"), directory.path().join("log"));
        let mut command = aerostat(under);
        command.env("AEROSTAT_RUNTIME_DIR", directory.path());
        command.arg("--api-sock").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(File::create(&log)?).spawn().context("cannot run aerostat")?;
        let process = Ended(process);
        let monitor = Self { process, socket, log, _directory: directory };
        let is_up = wait_until(|| Ok(http::request(&monitor.socket, "GET", "/", None).is_ok()))?;
        ensure!(is_up, "the API is not served: {}", monitor.log()?);
        Ok(monitor)
    }

    fn put(&self, path: &str, body: &Value) -> anyhow::Result<http::Response> {
        http::request(&self.socket, "PUT", path, Some(body))
    }

    /// Starts a guest with so much memory.
    fn start(&self, mib: u64) -> anyhow::Result<http::Response> {
        let kernel = Kernel::any()?.vmlinuz();
        self.put("/boot-source", &json!({"kernel_image_path": kernel}))?.success()?;
        self.put("/machine-config", &json!({"vcpu_count": 1, "mem_size_mib": mib}))?.success()?;
        self.put("/actions", &json!({"action_type": "InstanceStart"}))
    }

    /// Its words on standard error.
    fn log(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}
