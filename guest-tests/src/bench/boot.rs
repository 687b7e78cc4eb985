//! Benchmark of the start: time until a guest is ready, and the monitor's cost beside the guest's RAM.

use anyhow::Context;
use serde_json::Value;

use super::{Run, SUBJECTS, Samples};
use crate::host;
use crate::kernels::Kernel;
use crate::progress::Progress;
use crate::report::Ratio;
use crate::subject::{Image, Spec, Subject};

/// RAM of the guests.
const RAM_MIB: u64 = 512;
/// Names of cases and metrics.
const BZIMAGE: &str = "bzImage";
const VMLINUX: &str = "vmlinux";
const READY: &str = "time to agent ready";
const MONITOR: &str = "monitor memory";

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// A guest did not come up, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    let (kernel, rounds) = (Kernel::any()?, run.rounds);
    let mut samples = Samples::default();
    for round in 1..=rounds {
        for (case, image) in [(BZIMAGE, Image::BzImage), (VMLINUX, Image::Elf)] {
            for subject in SUBJECTS {
                let progress =
                    Progress::start(&format!("round {round} of {rounds}, {case}, {}", subject.name()));
                let spec = Spec::new(subject, kernel).memory_mib(RAM_MIB).image(image);
                samples.take(subject, |samples| measure(&spec, case, samples))?;
                progress.done("");
            }
        }
    }
    let overhead =
        samples.median(BZIMAGE, Subject::Aerostat.name(), MONITOR).context("no memory was measured")?;
    let ratios = vec![
        samples.ratio("boot_vs_best_qemu", BZIMAGE, READY, f64::min)?,
        samples.ratio("boot_vmlinux_vs_best_qemu", VMLINUX, READY, f64::min)?,
        Ratio { name: "overhead_mib".to_owned(), value: overhead },
    ];
    run.publish("boot", &samples, ratios)
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds and bytes of one guest")]
fn measure(spec: &Spec, case: &'static str, samples: &mut Samples) -> anyhow::Result<()> {
    let vm = spec.start()?;
    let mut add = |metric, unit, value| samples.add(case, spec.subject.name(), metric, unit, value);
    add(READY, "ms", vm.boot.as_secs_f64() * 1000.0);
    add("guest's own share of it", "ms", vm.ready.uptime_ms as f64);
    add(MONITOR, "MiB", host::split(vm.pid())?.rest.mib);
    add("resident in all", "MiB", vm.resident()?.mib);
    if spec.subject == Subject::Aerostat {
        // Zeroed blocks that wait for the guest's next fault: neither guest RAM yet nor monitor.
        let memory = vm.control.api("GET", "/memory", Value::Null)?;
        let bytes = memory.pointer("/host/arena_resident_bytes").and_then(Value::as_u64);
        let bytes = bytes.context("GET /memory has no host.arena_resident_bytes")?;
        add("stash of zeroed blocks", "MiB", bytes as f64 / f64::from(1 << 20));
    }
    vm.shut_down()
}
