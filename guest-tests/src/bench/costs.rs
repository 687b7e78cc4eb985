//! Benchmark of what a guest costs: host memory after the start and when the guest has touched all, by size of the guest.

use anyhow::Context;

use super::{Run, SUBJECTS, Samples};
use crate::Pages;
use crate::host;
use crate::kernels::Kernel;
use crate::progress::Progress;
use crate::report::Ratio;
use crate::subject::{Spec, Subject};

/// RAM of the guests.
const SIZES_MIB: [u64; 4] = [128, 512, 1024, 4096];
/// RAM that the guest needs for itself while it touches the rest.
const SPARE_MIB: u64 = 24;
/// The largest tells what grows with a guest.
const RATIO: &str = "4096 MiB";
const MONITOR: &str = "monitor's share, all touched";

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// A guest did not come up, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    let (kernel, rounds) = (Kernel::any()?, run.rounds);
    let mut samples = Samples::default();
    for round in 1..=rounds {
        for mib in SIZES_MIB {
            for subject in SUBJECTS {
                let progress =
                    Progress::start(&format!("round {round} of {rounds}, {mib} MiB, {}", subject.name()));
                let spec = Spec::new(subject, kernel).memory_mib(mib);
                samples.take(subject, |samples| measure(&spec, &format!("{mib} MiB"), samples))?;
                progress.done("");
            }
        }
    }
    let share = samples.median(RATIO, Subject::Aerostat.name(), MONITOR).context("no memory was measured")?;
    let ratios = vec![
        samples.ratio("share_vs_best_qemu", RATIO, MONITOR, f64::min)?,
        Ratio { name: "share_mib".to_owned(), value: share },
    ];
    run.publish("costs", &samples, ratios)
}

fn measure(spec: &Spec, case: &str, samples: &mut Samples) -> anyhow::Result<()> {
    let mut vm = spec.start()?;
    let mut add = |metric, value| samples.add(case, spec.subject.name(), metric, "MiB", value);
    add("host memory after the start", vm.resident()?.mib);
    vm.agent.fill("all", SPARE_MIB, Pages::Any)?;
    add("host memory, all touched", vm.resident()?.mib);
    add(MONITOR, host::split(vm.pid())?.rest.mib);
    add("page tables, all touched", host::page_tables(vm.pid())?);
    vm.shut_down()
}
