//! A real guest fragments itself, is ballooned by half, takes it back and uses it. The figures are the host's
//! whole 2 MiB pages of that, and the guest's.
//!
//! | point | what was done |
//! | --- | --- |
//! | `filled` | the guest has written all of its memory, page by page, and given every second page back to itself |
//! | `ballooned` | half of its RAM, less what it needs, is in the balloon, and nothing changes any more |
//! | `used again` | deflated, and all of it written again; nothing changes any more |
//!
//! Each monitor is left to what it does by itself. Pages that the guest kept are verified at each point.

use std::time::Instant;

use anyhow::Context;
use guest_agent::Pages;

use super::standing::{QUIET, Standing, show_free_blocks};
use super::{Run, SUBJECTS, Samples};
use crate::kernels::Kernel;
use crate::progress::Progress;
use crate::report::Ratio;
use crate::subject::{Spec, Subject};
use crate::testvm::TestVm;

const RAM_MIB: u64 = 1024;
/// What the guest keeps for itself while its memory is filled.
const SPARE_MIB: u64 = 24;
/// Of what the guest has given back to itself, the balloon takes this part: the rest is what the guest's
/// kernel needs to hold back.
const TAKEN: (u64, u64) = (9, 10);
/// Pattern of the pages that the guest keeps.
const SEED: u64 = 23;

const CASE: &str = "half ballooned, every second page";
const WON: &str = "of what was given: free 2 MiB blocks rose by";
const HUGE: &str = "RAM in huge pages after use again";

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// A guest failed, held a wrong page, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    let kernel = Kernel::any()?;
    show_free_blocks()?;
    let mut samples = Samples::default();
    for round in 1..=run.rounds {
        for subject in SUBJECTS {
            let progress = Progress::start(&format!("round {round} of {}, {}", run.rounds, subject.name()));
            let spec = Spec::new(subject, kernel).memory_mib(RAM_MIB).cpus(2);
            samples.take(subject, |samples| spec.run(|vm| measure(vm, subject, samples)))?;
            progress.done("");
        }
    }
    let ours = |metric| {
        let value = samples.median(CASE, Subject::Aerostat.name(), metric);
        value.map(|value| value / 100.0).with_context(|| format!("nothing was measured for {metric}"))
    };
    let theirs = |metric| {
        let value = samples.best_qemu(CASE, metric, f64::max);
        value.map(|value| value / 100.0).with_context(|| format!("nothing was measured for {metric}"))
    };
    let ratio = |name: &str, value| Ratio { name: name.to_owned(), value };
    let ratios = vec![
        ratio("won_back_whole", ours(WON)?),
        ratio("huge_after", ours(HUGE)?),
        ratio("qemu_won_back_whole", theirs(WON)?),
        ratio("qemu_huge_after", theirs(HUGE)?),
    ];
    run.publish("hugepages-guest", &samples, ratios)
}

#[allow(clippy::cast_precision_loss, reason = "MiB of one guest")]
fn measure(vm: &mut TestVm, subject: Subject, samples: &mut Samples) -> anyhow::Result<()> {
    let filled = vm.agent.fill("all", SPARE_MIB, Pages::Base)?;
    vm.agent.write("all", SEED)?;
    vm.agent.punch("all", 2, 0)?;
    let given = filled / 2 * TAKEN.0 / TAKEN.1;
    let mut add = |metric, unit, value| samples.add(CASE, subject.name(), metric, unit, value);
    let part = |of: f64| 100.0 * of / given as f64;

    let before = Standing::settled(vm)?;
    add("RAM in huge pages, filled", "%", huge(&before));
    let start = Instant::now();
    vm.balloon(given)?;
    let ballooned = Standing::settled(vm)?;
    add("given to the balloon", "MiB", given as f64);
    add("until nothing changes", "s", (start.elapsed() - QUIET).as_secs_f64());
    add(
        "of what was given: resident fell by",
        "%",
        part(before.resident.ram.mib - ballooned.resident.ram.mib),
    );
    add("of what was given: MemFree rose by", "%", part(ballooned.free.mib - before.free.mib));
    add(WON, "%", part(ballooned.whole_since(&before)));
    add("RAM in huge pages, ballooned", "%", huge(&ballooned));
    vm.agent.verify("all", SEED)?;

    vm.balloon(0)?;
    vm.agent.fill("again", SPARE_MIB, Pages::Base)?;
    vm.agent.write("again", SEED)?;
    let again = Standing::settled(vm)?;
    add(HUGE, "%", huge(&again));
    vm.agent.verify("all", SEED)?;
    vm.agent.verify("again", SEED)?;
    Ok(())
}

fn huge(standing: &Standing) -> f64 {
    100.0 * standing.resident.ram.huge_mib / standing.resident.ram.mib.max(1.0)
}
