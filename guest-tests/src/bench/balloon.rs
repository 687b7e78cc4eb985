//! Benchmark of the balloon: how fast it takes and gives back, its cost for the host, and the host's gain.
//!
//! Two cases. *fresh*: the guest has touched all of its memory once and freed it, so free memory lies in
//! large pieces. *scattered*: the guest holds every second page of it. What the host has is measured
//! three ways, as they differ: resident memory of the monitor, MemFree, and free 2 MiB blocks.

use std::thread::sleep;
use std::time::Duration;

use guest_agent::Pages;

use super::{Run, SUBJECTS, Samples};
use crate::host::{self, CpuTimes, HostFree, Resident};
use crate::kernels::Kernel;
use crate::progress::Progress;
use crate::subject::Spec;
use crate::testvm::TestVm;

const RAM_MIB: u64 = 512;
/// What the guest keeps for itself while its memory is filled.
const SPARE_MIB: u64 = 12;
/// Pattern of the pages that the guest keeps.
const SEED: u64 = 11;
/// Before the host's free memory is read: what is freed late has this long.
const SETTLE: Duration = Duration::from_millis(500);

const FRESH: &str = "fresh";
const SCATTERED: &str = "scattered";
const INFLATE: &str = "inflate";
const DEFLATE: &str = "deflate";
/// Some monitors serve the queue in a thread, some on a vCPU: what counts is all that is not the guest.
const INFLATE_CPU: &str = "inflate, by host CPU time";

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// A guest failed, held a wrong page, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    let (kernel, rounds) = (Kernel::any()?, run.rounds);
    let mut samples = Samples::default();
    for round in 1..=rounds {
        for case in [FRESH, SCATTERED] {
            for subject in SUBJECTS {
                let progress =
                    Progress::start(&format!("round {round} of {rounds}, {case}, {}", subject.name()));
                let spec = Spec::new(subject, kernel).memory_mib(RAM_MIB);
                samples.take(subject, |samples| spec.run(|vm| measure(vm, &spec, case, samples)))?;
                progress.done("");
            }
        }
    }
    let ratios = vec![
        samples.ratio("inflate_fresh_vs_qemu", FRESH, INFLATE, f64::max)?,
        samples.ratio("inflate_scattered_vs_qemu", SCATTERED, INFLATE, f64::max)?,
        samples.ratio("deflate_vs_qemu", FRESH, DEFLATE, f64::max)?,
        samples.ratio("inflate_cpu_vs_qemu", FRESH, INFLATE_CPU, f64::max)?,
    ];
    run.publish("balloon", &samples, ratios)
}

/// The host before or after a step.
struct Standing {
    resident: Resident,
    free: HostFree,
}

impl Standing {
    fn read(vm: &TestVm) -> anyhow::Result<Self> {
        sleep(SETTLE);
        Ok(Self { resident: vm.resident()?, free: host::free()? })
    }
}

#[allow(clippy::cast_precision_loss, reason = "numbers of blocks in one host")]
fn measure(vm: &mut TestVm, spec: &Spec, case: &'static str, samples: &mut Samples) -> anyhow::Result<()> {
    let free = vm.agent.fill("all", SPARE_MIB, Pages::Base)?;
    vm.agent.write("all", SEED)?;
    let asked = if case == FRESH {
        vm.agent.free("all")?;
        free / 2
    } else {
        vm.agent.punch("all", 2, 0)?;
        free * 2 / 5
    };
    let mut add = |metric, unit, value| samples.add(case, spec.subject.name(), metric, unit, value);

    let before = Standing::read(vm)?;
    let inflate = timed(vm, asked)?;
    let inflated = Standing::read(vm)?;
    let deflate = timed(vm, 0)?;
    add(INFLATE, "MiB/s", asked as f64 / inflate.time.as_secs_f64());
    add(DEFLATE, "MiB/s", asked as f64 / deflate.time.as_secs_f64());
    add(INFLATE_CPU, "MiB/CPU s", asked as f64 / inflate.cpu.host().as_secs_f64());
    add("inflate: vCPUs out of the guest", "ms/GiB", per_gib(inflate.cpu.vcpus, asked));
    add("inflate: other threads", "ms/GiB", per_gib(inflate.cpu.others, asked));
    add("inflate: vCPUs in the guest", "ms/GiB", per_gib(inflate.cpu.guest, asked));
    add("deflate: host CPU", "ms/GiB", per_gib(deflate.cpu.host(), asked));
    let won = |before: f64, after: f64| 100.0 * (after - before) / asked as f64;
    add("of what was asked: resident fell by", "%", won(inflated.resident.mib, before.resident.mib));
    add("of what was asked: MemFree rose by", "%", won(before.free.mib, inflated.free.mib));
    let whole = 2.0 * (inflated.free.huge_blocks as f64 - before.free.huge_blocks as f64);
    add("of what was asked: free 2 MiB blocks rose by", "%", won(0.0, whole));

    // All of it is used again; how much of the guest's RAM is in huge pages then.
    if case == SCATTERED {
        vm.agent.verify("all", SEED)?;
    }
    vm.agent.fill("again", SPARE_MIB, Pages::Base)?;
    let ram = host::split(vm.pid())?.ram;
    add("RAM in huge pages after use again", "%", 100.0 * ram.huge_mib / ram.mib.max(1.0));
    Ok(())
}

fn per_gib(time: Duration, mib: u64) -> f64 {
    time.as_secs_f64() * 1000.0 * 1024.0 / Duration::from_secs(mib.max(1)).as_secs_f64()
}

/// What one change of the balloon took.
struct Taken {
    time: Duration,
    cpu: CpuTimes,
}

fn timed(vm: &mut TestVm, target: u64) -> anyhow::Result<Taken> {
    let before = host::cpu_times(vm.pid())?;
    let time = vm.balloon(target)?;
    Ok(Taken { time, cpu: host::cpu_times(vm.pid())? - before })
}
