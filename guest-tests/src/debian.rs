//! A guest with a root disk of Debian's own packages, which `ci/debian-disk` makes.
//!
//! ```text
//! vda  target/debian/disk.img, read-only   systemd, configs/swap installed
//! vdb  made here, read-only                the agent, which systemd starts as a service
//! ```
//! Both are only read, so guests share them, and a new agent needs no new disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::kernels::Kernel;
use crate::subject::{Spec, Subject};
use crate::{initramfs, paths};

/// Size of the agent's disk, in bytes. The agent is 2 MiB.
const AGENT_DISK: u64 = 16 << 20;

/// Who brings the guest up to its root disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initramfs {
    /// The agent's: no more than the drivers of the disk.
    Agent,
    /// Debian's, with the snippet of `configs/swap/initramfs`.
    Debian,
}

/// Makes the root disk where it is out of date.
///
/// # Errors
/// `ci/debian-disk` failed.
pub fn build() -> anyhow::Result<()> {
    let script = paths::repository().join("ci/debian-disk");
    let made = Command::new(&script).status();
    let made = made.with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(made.success(), "ci/debian-disk failed: its message stands above");
    Ok(())
}

/// A Debian guest that keeps what it needs besides in a directory. Its agent answers once everything that
/// is to be started is.
///
/// # Errors
/// The agent's disk cannot be made.
pub fn guest(subject: Subject, initramfs: Initramfs, directory: &Path) -> anyhow::Result<Spec> {
    let spec = Spec::new(subject, Kernel::any()?)
        .read_only_disk(&file("disk.img"))
        .read_only_disk(&agent_disk(directory)?)
        .append("root=/dev/vda ro quiet systemd.show_status=no net.ifnames=0");
    Ok(match initramfs {
        Initramfs::Agent => spec,
        Initramfs::Debian => spec.initrd(&file("initrd.img")),
    })
}

/// Lays the files of such a guest into a directory, under the names that the manual uses: `vmlinuz`, `initrd.img`,
/// `root.img`. Its agent is on `agent.img`, which the second disk is to be.
///
/// # Errors
/// They cannot be copied.
pub fn lay_out(directory: &Path) -> anyhow::Result<()> {
    std::os::unix::fs::symlink(Kernel::any()?.vmlinuz(), directory.join("vmlinuz"))?;
    std::os::unix::fs::symlink(file("initrd.img"), directory.join("initrd.img"))?;
    std::fs::copy(file("disk.img"), directory.join("root.img")).context("there is no root disk")?;
    agent_disk(directory)?;
    Ok(())
}

fn file(name: &str) -> PathBuf {
    paths::target().join("debian").join(name)
}

fn agent_disk(directory: &Path) -> anyhow::Result<PathBuf> {
    let tree = directory.join("agent");
    std::fs::create_dir_all(&tree)?;
    std::fs::copy(initramfs::agent(), tree.join("guest-agent")).context("the agent is not built")?;
    let disk = directory.join("agent.img");
    std::fs::File::create(&disk)?.set_len(AGENT_DISK)?;
    let made = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"])
        .arg(&tree)
        .arg(&disk)
        .status();
    ensure!(made.context("cannot run mke2fs: run ci/setup")?.success(), "mke2fs failed");
    Ok(disk)
}
