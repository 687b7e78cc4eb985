//! The demonstration: a stock Debian guest gives half of its memory up and gets it back.
//!
//! ```text
//! boot ─▶ touch all ─▶ inflate to half ─▶ deflate ─▶ touch all again ─▶ power off
//!           └─ a pattern in a part of the memory is checked after every step ─┘
//! ```

use std::time::Duration;

use anyhow::{Context, bail};
use guest_agent::Pages;

use crate::kernels::Kernel;
use crate::progress::Progress;
use crate::report::{self, Demo, Step};
use crate::subject::{Spec, Subject};
use crate::testvm::TestVm;
use crate::{kvm_host, paths};

/// RAM that the guest's kernel and agent keep while the rest is touched.
const SPARE_MIB: u64 = 12;
/// The part of the memory whose pattern stays from the first step to the last.
const KEPT_MIB: u64 = 64;
const KEPT_SEED: u64 = 1;
/// How close the balloon has to come before a resident figure is read: the guest frees blocks lazily.
const SETTLE: Duration = Duration::from_millis(200);

/// Runs it, prints the table and writes `target/demo/report.json`, also after a failed check.
///
/// # Errors
/// Something did not work, or a page of the guest held something else than was written.
pub fn run(memory_mib: u64, cpus: u32) -> anyhow::Result<()> {
    if memory_mib < 256 {
        bail!("--memory {memory_mib}: the demonstration needs a guest of at least 256 MiB");
    }
    let kernel = Kernel::any()?;
    println!(
        "A stock Debian guest under Aerostat: {memory_mib} MiB, {cpus} vCPUs, {} KVM.\n",
        kvm_host::kind()
    );
    let progress = Progress::start("boot until the agent in the guest answers");
    let vm = Spec::new(Subject::Aerostat, kernel).memory_mib(memory_mib).cpus(cpus).start()?;
    progress.done(&format!("Linux {}", vm.ready.kernel));
    let report = Demo {
        kvm: kvm_host::kind(),
        guest_kernel: vm.ready.kernel.clone(),
        boot_ms: u64::try_from(vm.boot.as_millis()).unwrap_or(u64::MAX),
        integrity: "not checked to the end".to_owned(),
        steps: Vec::new(),
    };
    let boot = vm.boot;
    let mut play = Play { vm, report };
    let outcome = play.record("boot", boot).and_then(|()| play.steps(memory_mib));
    if let Err(error) = &outcome {
        play.report.integrity = format!("failed: {error:#}");
    } else {
        "ok".clone_into(&mut play.report.integrity);
    }
    let path = paths::target().join("demo/report.json");
    report::write(&path, &play.report)?;
    println!("\n{}", table(&play.report));
    outcome?;
    play.vm.shut_down().context("the guest was to power off")?;
    println!("Every page that the guest wrote was right. Report: {}", path.display());
    Ok(())
}

struct Play {
    vm: TestVm,
    report: Demo,
}

impl Play {
    fn steps(&mut self, memory_mib: u64) -> anyhow::Result<()> {
        let half = memory_mib / 2;
        self.vm.agent.allocate("kept", KEPT_MIB, Pages::Any)?;
        self.vm.agent.write("kept", KEPT_SEED)?;
        self.touch_all("guest touches all of its memory", 2)?;
        self.balloon(&format!("inflate to {half} MiB"), 0, half)?;
        self.balloon("deflate to 0 MiB", half, 0)?;
        self.touch_all("guest touches all of its memory again", 3)
    }

    fn touch_all(&mut self, name: &str, seed: u64) -> anyhow::Result<()> {
        let progress = Progress::start(name);
        let agent = &mut self.vm.agent;
        let mib = agent.fill("all", SPARE_MIB, Pages::Any)?;
        agent.write("all", seed)?;
        agent.verify("all", seed)?;
        agent.verify("kept", KEPT_SEED)?;
        let taken = progress.done(&format!("{mib} MiB written and checked"));
        // Recorded while the guest holds it all.
        self.record(name, taken)?;
        self.vm.agent.free("all")
    }

    fn balloon(&mut self, name: &str, from: u64, to: u64) -> anyhow::Result<()> {
        let progress = Progress::start(name);
        self.vm.control.set_balloon(to)?;
        let arrived = crate::testvm::wait_until(|| {
            let actual = self.vm.control.balloon_actual()?;
            progress.at(actual.abs_diff(from), to.abs_diff(from));
            Ok(actual == to)
        })?;
        if !arrived {
            bail!("the balloon does not get to {to} MiB");
        }
        let taken = progress.done("through the API socket");
        std::thread::sleep(SETTLE);
        self.vm.agent.verify("kept", KEPT_SEED)?;
        self.record(name, taken)
    }

    fn record(&mut self, name: &str, taken: Duration) -> anyhow::Result<()> {
        let guest = self.vm.agent.memory()?;
        let host = self.vm.resident()?;
        self.report.steps.push(Step {
            name: name.to_owned(),
            seconds: thousandths(taken.as_secs_f64()),
            guest_total_mib: guest.total,
            guest_free_mib: guest.free,
            balloon_actual_mib: self.vm.control.balloon_actual()?,
            host_resident_mib: thousandths(host.mib),
            host_huge_mib: thousandths(host.huge_mib),
        });
        Ok(())
    }
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn table(report: &Demo) -> String {
    let head =
        ["after step", "seconds", "guest total", "guest free", "balloon", "host resident", "in huge pages"];
    let row = |step: &Step| {
        vec![
            step.name.clone(),
            format!("{:.2}", step.seconds),
            step.guest_total_mib.to_string(),
            step.guest_free_mib.to_string(),
            step.balloon_actual_mib.to_string(),
            format!("{:.0}", step.host_resident_mib),
            format!("{:.0}", step.host_huge_mib),
        ]
    };
    let rows: Vec<Vec<String>> = report.steps.iter().map(row).collect();
    report::table(&head, &rows)
        + "\n  Sizes in MiB. Host: resident memory of the aerostat process, guest RAM included.\n"
}
