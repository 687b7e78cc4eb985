//! A Debian guest boots by the manual's commands. Swap is turned on as `configs/swap` says, and the guest
//! shuts down well with pages out there.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use guest_tests::agent_client::Herd;
use guest_tests::debian::{self, Initramfs};
use guest_tests::{Content, Spec, Subject, SwapLink, TestVm, docs, paths, testvm};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{READAHEAD, ours};

const SWAP_MIB: u64 = 256;
/// Kernel, systemd and udevd leave some 50 MiB; the hog wants more.
const RAM_MIB: u64 = 160;
/// The memory that README's main command gives its guest.
const FIRST_PAGE_MIB: u64 = 512;
const HERD: Herd = Herd { processes: 1, mib: 72, seed: 11, content: Content { zero_percent: 10, ratio: 3 } };
const PATIENCE: Duration = Duration::from_secs(300);
const DEVICE: &str = "nbd0";
/// Swap as a disk, behind those of README's command and of the agent.
const SWAP_DISK: &str = "vdc";
/// Bytes that the guest writes to a disk and removes.
const WRITTEN: u64 = 16 << 20;
/// Unit of the blocks of a file (`st_blocks`, inode(7)).
const SECTOR: u64 = 512;
/// Of the guest's log, in bytes.
const LOG: u32 = 64 << 10;
/// Between two looks at a guest that shuts down.
const INTERVAL: Duration = Duration::from_millis(20);

pub(crate) fn trials() -> Vec<Trial> {
    [
        ours("debian::a_unit_turns_swap_on_and_off_again", unit),
        ours("debian::what_the_manual_says_turns_swap_on_by_hand", by_hand),
        ours("debian::the_first_page_boots_a_guest", first_page),
        ours("debian::an_initramfs_turns_swap_on_before_the_root_is_mounted", snippet),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Pages go out and come back right, and some are out there still when the guest is told to power off.
fn unit() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let disk = directory.path().join("disk");
    File::create(&disk)?.set_len(4 * WRITTEN)?;
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&disk).status()?;
    ensure!(made.success(), "mke2fs failed: {made}");
    boots(Initramfs::Agent, Some(&disk), |vm| {
        trims(vm, &disk)?;
        vm.agent.hogs_start(HERD, PATIENCE)?;
        vm.agent.hogs_read()?;
        let hogs = vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > 0)?;
        ensure!(hogs.verified >= HERD.pages() && hogs.page_in.count > 0, "{hogs:?}");
        vm.agent.hogs_stop()?;
        // What the hog has pushed out of others.
        ensure!(vm.agent.swap_used_mib(DEVICE)? > Some(0), "nothing is swapped");
        ensure!(number(vm, "/store/stored_pages")? > 0, "the monitor stores nothing");
        let kept = vm.agent.read_file("/proc/sys/vm/min_free_kbytes")?;
        ensure!(kept.trim() == "8192", "vm.min_free_kbytes is {kept}");
        ensure_only_root(vm)?;
        Ok(())
    })
}

/// The host gets back from a disk what the guest has removed.
fn trims(vm: &mut TestVm, disk: &Path) -> anyhow::Result<()> {
    let held = || Ok::<_, anyhow::Error>(SECTOR * std::fs::metadata(disk)?.blocks());
    let before = held()?;
    let write = format!("dd if=/dev/urandom of=/mnt/file bs=1M count={} status=none", WRITTEN >> 20);
    vm.agent.run(&format!("mount /dev/vdc /mnt && {write} && sync"))?;
    let written = held()?;
    ensure!(written >= before + WRITTEN, "{before} bytes before, {written} with what the guest has written");
    vm.agent.run("rm /mnt/file && sync && fstrim /mnt && umount /mnt")?;
    let trimmed = held()?;
    ensure!(trimmed < before + WRITTEN / 4, "{before} bytes before, {trimmed} after fstrim");
    Ok(())
}

/// The commands of the manual, one by one, where no unit has done it.
fn by_hand() -> anyhow::Result<()> {
    let commands = docs::block("docs/swap.md", "by-hand")?;
    boots(Initramfs::Agent, None, |vm| {
        vm.agent.run(
            "systemctl stop dev-nbd0.swap aerostat-swap.service systemd-networkd.socket systemd-networkd",
        )?;
        ensure!(vm.agent.swap_used_mib(DEVICE)?.is_none(), "swap is still on");
        // The kernel takes its leave by itself, and needs the card for that. Where an answer comes too late for it, that is a
        // reset.
        let start = Instant::now();
        while number(vm, "/link/closed")? + number(vm, "/link/reset")? < number(vm, "/link/opened")? {
            ensure!(start.elapsed() < PATIENCE, "the guest does not close its connections");
            sleep(INTERVAL);
        }
        vm.agent.run(
            "ip address flush dev eth0 && ip rule delete priority 1083 && ip rule delete priority 1084",
        )?;
        for command in commands.lines() {
            vm.agent.run(command)?;
        }
        ensure!(vm.agent.swap_used_mib(DEVICE)? == Some(0), "swap is not on");
        ensure_only_root(vm)?;
        vm.agent.hogs_start(HERD, PATIENCE)?;
        vm.agent.hogs_read()?;
        vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > 0)?;
        vm.agent.hogs_stop()?;
        ensure!(number(vm, "/store/stored_pages")? > 0, "the monitor stores nothing");
        vm.agent.run("swapoff /dev/nbd0 && nbd-client -d /dev/nbd0")?;
        Ok(())
    })
}

/// Root can connect to the swap server, and nobody else.
fn ensure_only_root(vm: &mut TestVm) -> anyhow::Result<()> {
    // Who leaves the greeting unread ends with a reset.
    const CONNECT: &str = "bash -c 'head -c 18 </dev/tcp/169.254.83.1/10809 >/dev/null'";
    vm.agent.run(CONNECT)?;
    let refused = vm.agent.run(&format!("setpriv --reuid=1000 --regid=1000 --clear-groups {CONNECT}"));
    let refused = refused.err().context("anybody in the guest can read its swap")?.to_string();
    ensure!(refused.contains("Permission denied"), "{refused}");
    Ok(())
}

/// The main command of README, as it stands there, with one more disk, on which the agent is, and swap on another, which is
/// turned on by the manual's commands. Then every command of a client in README and the manual, in its directory.
fn first_page() -> anyhow::Result<()> {
    let text = docs::block("README.md", "guest")?;
    let directory = testvm::directory()?;
    debian::lay_out(directory.path())?;
    let programs = paths::aerostat().parent().context("there is no monitor")?.display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    let path = format!("{programs}:{path}");
    command
        .args(["-c", &format!("exec {} --disk agent.img,ro --swap 64M,front=blk", text.trim_end())])
        .env("PATH", &path)
        .current_dir(directory.path());
    let place = directory.path().to_owned();
    // Where the command line finds a guest without an id.
    let socket = place.join("anonymous-instance.sock");
    let mut vm = TestVm::begin(command, Subject::Aerostat, FIRST_PAGE_MIB, &socket, directory)?;
    let memory = vm.agent.memory()?;
    ensure!((400..=FIRST_PAGE_MIB).contains(&memory.total), "the guest sees {} MiB", memory.total);
    for command in docs::block("docs/swap.md", "by-id")?.lines() {
        vm.agent.run(command)?;
    }
    ensure!(vm.agent.swap_used_mib(SWAP_DISK)?.is_some(), "swap is not on");
    // The manual's name for a socket that somebody has named, where guests are not looked for.
    let elsewhere = tempfile::tempdir()?;
    symlink(&socket, elsewhere.path().join("vm.sock"))?;
    for (page, block) in docs::blocks("client")? {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", &block]).env("PATH", &path).current_dir(elsewhere.path());
        command.env("AEROSTAT_RUNTIME_DIR", &place);
        let output = command.output().context("no bash")?;
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        ensure!(output.status.success() && !said.concat().is_empty(), "{page}:\n{block}{}", said.concat());
    }
    vm.balloon(0)?;
    vm.shut_down()
}

fn snippet() -> anyhow::Result<()> {
    boots(Initramfs::Debian, None, |vm| {
        let log = vm.agent.kernel_log(LOG)?;
        let at = |what: &str| log.find(what).with_context(|| format!("{what:?} is not in the log:\n{log}"));
        ensure!(at("swap on /dev/nbd0")? < at("EXT4-fs (vda): mounted")?, "swap came after the root:\n{log}");
        ensure_only_root(vm)
    })
}

fn boots(
    initramfs: Initramfs,
    disk: Option<&Path>,
    scenario: impl FnOnce(&mut TestVm) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let link = SwapLink::new(Subject::Aerostat, SWAP_MIB)?;
    let guest = debian::guest(Subject::Aerostat, initramfs, directory.path())?;
    let guest = disk.into_iter().fold(guest.memory_mib(RAM_MIB).append(READAHEAD), Spec::disk);
    let mut vm = link.attach(guest).start()?;
    let whole = |vm: &mut TestVm| {
        ensure!(vm.agent.swap_used_mib(DEVICE)?.is_some(), "swap is not on:\n{}", vm.agent.kernel_log(LOG)?);
        ensure!(number(vm, "/link/opened")? >= 2, "swap is not on the link");
        scenario(vm)?;
        powers_off(vm)
    };
    whole(&mut vm).map_err(|error| vm.explain(&error))
}

/// The guest ends by itself, and has taken leave of the swap server before: it cannot hold it up then.
fn powers_off(vm: &mut TestVm) -> anyhow::Result<()> {
    let opened = number(vm, "/link/opened")?;
    vm.agent.power_off()?;
    let (mut closed, end) = (0, Instant::now() + PATIENCE);
    while let Ok(now) = number(vm, "/link/closed") {
        closed = now;
        ensure!(Instant::now() < end, "the guest does not end within {PATIENCE:?}");
        sleep(INTERVAL);
    }
    let status = vm.wait_exit()?;
    ensure!(status.success(), "the monitor ended with {status} after a power-off");
    ensure!(closed == opened, "of {opened} connections the guest has closed {closed}");
    Ok(())
}

fn number(vm: &TestVm, path: &str) -> anyhow::Result<u64> {
    let swap = vm.control.api("GET", "/swap", Value::Null)?;
    swap.pointer(path).and_then(Value::as_u64).with_context(|| format!("{path}: {swap}"))
}
