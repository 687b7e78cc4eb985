//! Disks keep what they are given.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use guest_tests::testvm::wait_until;
use guest_tests::{Request, initramfs};
use libtest_mimic::Trial;
use serde_json::json;

use crate::{guest, of_devices, ours, scenario};

const MIB: u64 = 1 << 20;
/// How long an answer may take that is waited for here.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        scenario("disk::survives_power_off_and_the_next_boot", survives),
        scenario("disk::is_the_root_of_a_guest", root),
        scenario("disk::several_are_told_apart_and_read_only_is_kept", several),
    ]
    .into_iter()
    .chain(ours("disk::io_uring_keeps_what_it_is_given_beside_the_balloon_and_a_pause", by_ring))
    .collect()
}

fn image(directory: &Path, name: &str, mib: u64) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    File::create(&path)?.set_len(mib * MIB).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

fn survives() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = image(directory.path(), "disk", 64)?;

    let mut vm = guest()?.disk(&disk).start()?;
    vm.agent.disk_write("vda", 0, 8 * MIB, 1)?;
    vm.agent.disk_write("vda", 60 * MIB, 4 * MIB, 2)?;
    vm.agent.disk_flush("vda")?;
    vm.agent.disk_verify("vda", 0, 8 * MIB, 1)?;
    vm.shut_down()?;

    let mut vm = guest()?.disk(&disk).start()?;
    vm.agent.disk_verify("vda", 0, 8 * MIB, 1)?;
    vm.agent.disk_verify("vda", 60 * MIB, 4 * MIB, 2)?;
    ensure!(vm.agent.disk_verify("vda", 0, 8 * MIB, 3).is_err(), "another pattern matches as well");
    vm.shut_down()
}

/// The initramfs brings the drivers, which stock kernels have as modules, and goes on from the disk.
fn root() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let tree = directory.path().join("tree");
    for folder in ["sbin", "etc", "dev", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(tree.join(folder))?;
    }
    std::fs::copy(initramfs::agent(), tree.join("sbin/init"))?;
    std::fs::write(tree.join("etc/hostname"), "from-the-disk\n")?;
    let disk = image(directory.path(), "disk", 32)?;
    let made =
        Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(&tree).arg(&disk).status()?;
    ensure!(made.success(), "mke2fs failed: {made}");

    let mut vm = guest()?.disk(&disk).append("root=/dev/vda rw").start()?;
    ensure!(vm.agent.read_file("/etc/hostname")?.trim() == "from-the-disk", "the root is not the disk");
    // As into a file of sysfs: over what is there, without cutting it off.
    vm.agent.write_file("/etc/hostname", "kept")?;
    vm.shut_down()?;

    let mut vm = guest()?.disk(&disk).append("root=/dev/vda ro").start()?;
    ensure!(vm.agent.read_file("/etc/hostname")?.starts_with("kept"), "what the guest wrote is lost");
    ensure!(vm.agent.write_file("/etc/hostname", "again").is_err(), "a root mounted read-only was written");
    vm.shut_down()
}

fn several() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let first = image(directory.path(), "first", 16)?;
    let second = image(directory.path(), "second", 24)?;
    let third = image(directory.path(), "third", 32)?;

    let mut vm = guest()?.disk(&first).read_only_disk(&second).disk(&third).start()?;
    let disks = vm.agent.disks()?;
    let seen: Vec<(&str, u64, bool)> =
        disks.iter().map(|disk| (disk.name.as_str(), disk.bytes / MIB, disk.read_only)).collect();
    ensure!(seen == [("vda", 16, false), ("vdb", 24, true), ("vdc", 32, false)], "the guest sees {seen:?}");

    vm.agent.disk_write("vda", 0, MIB, 1)?;
    vm.agent.disk_write("vdc", 0, MIB, 3)?;
    ensure!(vm.agent.disk_write("vdb", 0, MIB, 2).is_err(), "a read-only disk was written");
    vm.agent.disk_verify("vda", 0, MIB, 1)?;
    vm.agent.disk_verify("vdc", 0, MIB, 3)?;
    vm.shut_down()?;
    ensure!(std::fs::read(&second)?.iter().all(|byte| *byte == 0), "the read-only image was changed");
    Ok(())
}

/// With limits from the start, which the operator lifts, and another file in the end.
fn by_ring() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = image(directory.path(), "disk", 64)?;
    let limiter = json!({"ops": {"size": 1, "refill_time": 500}});
    let drive = json!({"drive_id": "ring", "path_on_host": disk, "is_root_device": false,
        "cache_type": "Writeback", "io_engine": "Async", "rate_limiter": limiter});
    let config = directory.path().join("config.json");
    fs::write(&config, json!({"drives": [drive], "entropy": {"rate_limiter": limiter}}).to_string())?;
    let mut vm = guest()?.argument("--config-file").argument(&config.display().to_string()).start()?;
    // A write and a flush at the least.
    vm.agent.disk_write("vda", 0, MIB, 3)?;
    let limited = of_devices(&vm, "rate_limited")?;
    ensure!(limited.len() == 2 && limited.iter().all(|times| *times > 0), "disk and rng: {limited:?}");
    let free = json!({"drive_id": "ring", "rate_limiter": {"ops": {"size": 0, "refill_time": 0}}});
    vm.control.api("PATCH", "/drives/ring", free)?;

    vm.balloon(64)?;
    vm.agent.disk_write("vda", 0, 16 * MIB, 1)?;
    let write = Request::BlockWrite { device: "vda".into(), offset: 16 * MIB, bytes: 32 * MIB, seed: 2 };
    let write = vm.agent.send(write)?;
    vm.control.pause()?;
    vm.control.resume()?;
    vm.control.set_balloon(128)?;
    vm.agent.reply(write, PATIENCE)?;
    vm.wait_balloon(128)?;
    vm.balloon(0)?;
    vm.agent.disk_verify("vda", 0, 16 * MIB, 1)?;
    vm.agent.disk_verify("vda", 16 * MIB, 32 * MIB, 2)?;
    ensure!(of_devices(&vm, "syncs")?.iter().any(|times| *times > 0), "no flush has reached the disk");

    let other = image(directory.path(), "other", 8)?;
    // The device may have the lock of the one from before still.
    for path in [&other, &disk, &other] {
        vm.control.api("PATCH", "/drives/ring", json!({"drive_id": "ring", "path_on_host": path}))?;
    }
    let shrunk = wait_until(|| Ok(vm.agent.disks()?.iter().all(|disk| disk.bytes == 8 * MIB)))?;
    ensure!(shrunk, "the guest sees {:?}", vm.agent.disks()?);
    vm.shut_down()
}
