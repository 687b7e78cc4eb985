//! The stage of a client: the program under the name that it looks for, a kernel, an initrd, disks.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use guest_tests::testvm::wait_until;
use guest_tests::{Kernel, initramfs, paths};
use tempfile::TempDir;

/// Console, reset through the keyboard controller, and no waiting after a panic.
pub(crate) const BOOT_ARGS: &str = "console=ttyS0 reboot=k panic=-1 pci=off loglevel=4";
pub(crate) const MIB: u64 = 1 << 20;

/// A directory of one client's.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) kernel: Kernel,
    directory: TempDir,
}

impl Stage {
    pub(crate) fn new(kernel: Kernel) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("aerostat-").tempdir()?;
        symlink(paths::aerostat(), directory.path().join("firecracker"))?;
        Ok(Self { kernel, directory })
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The monitor, as clients know it.
    pub(crate) fn program(&self) -> PathBuf {
        self.file("firecracker")
    }

    pub(crate) fn initrd(&self) -> anyhow::Result<PathBuf> {
        initramfs::ready(self.kernel)
    }

    /// A disk with nothing on it.
    pub(crate) fn disk(&self, name: &str, mib: u64) -> anyhow::Result<PathBuf> {
        let path = self.file(name);
        File::create(&path)?.set_len(mib * MIB).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

/// A TAP interface that is not there, for the monitor to make.
#[derive(Debug)]
pub(crate) struct AbsentTap(&'static str);

impl AbsentTap {
    pub(crate) fn new(name: &'static str) -> anyhow::Result<Self> {
        let tap = Self(name);
        ensure!(!tap.exists(), "the host has a network interface {name}: remove it");
        Ok(tap)
    }

    pub(crate) fn name(&self) -> String {
        self.0.to_owned()
    }

    pub(crate) fn exists(&self) -> bool {
        Path::new("/sys/class/net").join(self.0).exists()
    }

    /// The monitor has ended, and what it made goes.
    pub(crate) fn wait_gone(&self) -> anyhow::Result<()> {
        ensure!(wait_until(|| Ok(!self.exists()))?, "{} is still there", self.0);
        Ok(())
    }
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if !text.is_empty() => Ok(text),
        Ok(_) => bail!("{} is empty", path.display()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
