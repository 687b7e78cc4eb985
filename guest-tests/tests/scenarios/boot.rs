//! Stock kernels come up.

use anyhow::{Context, ensure};
use guest_tests::{Image, Kernel, Pages, Spec, Subject, TestVm};
use libtest_mimic::Trial;

use crate::{guest, looks, of_devices, scenario};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = Kernel::present()
        .flat_map(|kernel| [(kernel, Image::BzImage, 1), (kernel, Image::Elf, 4)])
        .map(|(kernel, image, cpus)| {
            let form = if image == Image::Elf { "vmlinux" } else { "bzimage" };
            scenario(&format!("boot::{kernel}_as_{form}_with_{cpus}_vcpus"), move || {
                boots(kernel, image, cpus)
            })
        })
        .collect();
    trials.push(scenario("boot::more_than_4_gib", more_than_4_gib));
    trials.extend(looks::ours("boot::drivers_read_registers_without_an_exit", registers));
    trials.extend(looks::ours("boot::cpus_promise_nothing_that_does_not_work", cpuid));
    trials
}

fn boots(kernel: Kernel, image: Image, cpus: u32) -> anyhow::Result<()> {
    let spec = Spec::new(Subject::from_environment(), kernel).image(image).cpus(cpus).memory_mib(384);
    let mut vm = spec.start()?;

    ensure!(vm.ready.kernel == kernel.release()?, "booted {}", vm.ready.kernel);
    ensure!(vm.ready.failed.is_empty(), "modules that did not load: {:?}", vm.ready.failed);
    ensure!(vm.agent.cpus()? == cpus, "{} CPUs online", vm.agent.cpus()?);
    let memory = vm.agent.memory()?;
    ensure!((300..=384).contains(&memory.total), "the guest sees {} MiB", memory.total);

    vm.agent.allocate("a", 64, Pages::Any)?;
    vm.agent.write("a", 1)?;
    vm.agent.verify("a", 1)?;
    vm.shut_down()
}

fn more_than_4_gib() -> anyhow::Result<()> {
    let mut vm = guest()?.memory_mib(6 << 10).start()?;
    let memory = vm.agent.memory()?;
    ensure!(memory.total > 5700, "the guest sees {} MiB", memory.total);

    // Linux hands out memory above 4 GiB first.
    vm.agent.allocate("high", 256, Pages::Any)?;
    vm.agent.write("high", 7)?;
    vm.agent.verify("high", 7)?;
    let zones = vm.agent.read_file("/proc/zoneinfo")?;
    ensure!(zones.contains("zone   Normal"), "no memory above 4 GiB");

    let resident = vm.resident()?.mib;
    ensure!(
        resident < 1500.0,
        "{resident:.0} MiB are resident, though the guest touched a fraction of its RAM"
    );
    vm.shut_down()
}

fn registers(vm: &mut TestVm) -> anyhow::Result<()> {
    let (live, reads) = (of_devices(vm, "activations")?, of_devices(vm, "register_reads")?);
    ensure!(live.contains(&1), "no device is live: {live:?}");
    ensure!(reads.len() == live.len() && reads.iter().all(|reads| *reads == 0), "reads by exit: {reads:?}");
    Ok(())
}

/// Guests of a guest are not offered, nor are AMX and performance counters, which want more than CPUID.
fn cpuid(vm: &mut TestVm) -> anyhow::Result<()> {
    let cpus = vm.agent.read_file("/proc/cpuinfo")?;
    let flags = cpus.lines().find(|line| line.starts_with("flags")).context("no flags in /proc/cpuinfo")?;
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    ensure!(has("hypervisor") && has("lm"), "{flags}");
    let hidden = ["vmx", "svm", "amx_tile", "amx_bf16", "amx_int8", "arch_perfmon", "perfctr_core"];
    let shown: Vec<&str> = hidden.into_iter().filter(|flag| has(flag)).collect();
    ensure!(shown.is_empty(), "the guest sees {shown:?}: {flags}");
    Ok(())
}
