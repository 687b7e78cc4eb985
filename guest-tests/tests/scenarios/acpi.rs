//! A kernel that does not read ACPI.

use std::fs::File;
use std::time::Duration;

use anyhow::ensure;
use guest_tests::tap::Tap;
use guest_tests::{Kernel, Spec, Subject, initramfs};
use libtest_mimic::Trial;

use crate::{RAM_MIB, ours};

const MIB: u64 = 1 << 20;
const HOST: &str = "198.18.0.1";
const GUEST: &str = "198.18.0.2/24";
const PINGS: u32 = 5;

pub(crate) fn trials() -> Vec<Trial> {
    let without = || finds("acpi=off");
    let with = || finds("");
    let trials = [
        ours("acpi::a_kernel_without_it_finds_cpus_disk_and_network", without),
        ours("acpi::a_kernel_with_it_finds_all_once_though_it_knows_the_words", with),
    ];
    trials.into_iter().flatten().collect()
}

/// With a driver that knows words on the command line, and `acpi=off` as Kata and firectl say it, or without.
fn finds(acpi: &str) -> anyhow::Result<()> {
    let kernel = Kernel::Generic6_12;
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    File::create(&disk)?.set_len(16 * MIB)?;
    let initrd = initramfs::with_module(kernel, &Kernel::virtio_mmio_by_words(), directory.path())?;
    let tap = Tap::create(&format!("{HOST}/24"))?;
    let spec = Spec::new(Subject::Aerostat, kernel).memory_mib(RAM_MIB).cpus(2).initrd(&initrd);
    let mut vm = spec.disk(&disk).tap(tap.name()).append(&format!("{acpi} reboot=k pci=off")).start()?;

    ensure!(vm.ready.failed.is_empty(), "modules that did not load: {:?}", vm.ready.failed);
    let has_acpi = vm.agent.read_file("/proc/iomem")?.contains("LNRO0005");
    ensure!(has_acpi == acpi.is_empty(), "devices by ACPI: {has_acpi}");
    ensure!(vm.agent.cpus()? == 2, "{} CPUs online", vm.agent.cpus()?);

    let disks = vm.agent.disks()?;
    ensure!(disks.len() == 1, "the guest sees {disks:?}");
    vm.agent.disk_write("vda", 0, 8 * MIB, 1)?;
    vm.agent.disk_flush("vda")?;
    vm.agent.disk_verify("vda", 0, 8 * MIB, 1)?;
    vm.agent.net_up(GUEST)?;
    let pinged = vm.agent.net_ping(HOST, PINGS, Duration::from_millis(100), 1000)?;
    ensure!(pinged.received == PINGS && pinged.wrong == 0, "of {PINGS} pings: {pinged:?}");
    ensure!(vm.agent.random(64)?.bytes().any(|digit| digit != b'0'), "all bytes are 0");

    // The same pins of the I/O APIC either way, in the order of the devices. Linux numbers interrupts as it likes.
    let interrupts = vm.agent.read_file("/proc/interrupts")?;
    for (pin, device) in (5..).zip(["virtio0", "virtio1", "virtio2", "virtio3"]) {
        let is_it = |text: &str| text.contains(&format!(" {pin}-edge")) && text.ends_with(device);
        ensure!(interrupts.lines().any(is_it), "{device} is not on pin {pin}:\n{interrupts}");
    }

    vm.agent.reboot()?;
    let status = vm.wait_exit()?;
    ensure!(status.success(), "the monitor ended with {status}:\n{}", vm.transcript());
    Ok(())
}
