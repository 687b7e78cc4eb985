//! The stock Debian kernels that `ci/setup` unpacks into `target/kernels`.

use std::fmt;
use std::path::PathBuf;

use anyhow::Context;

use crate::paths;

/// One of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Debian 12's cloud kernel.
    Cloud6_1,
    /// Debian 13's cloud kernel.
    Cloud6_12,
    /// Debian 13's kernel for everything.
    Generic6_12,
}

impl Kernel {
    /// All of them, oldest first.
    pub const ALL: [Kernel; 3] = [Kernel::Cloud6_1, Kernel::Cloud6_12, Kernel::Generic6_12];

    /// Those that this Debian offers and `ci/setup` has brought.
    pub fn present() -> impl Iterator<Item = Kernel> {
        Self::ALL.into_iter().filter(|kernel| kernel.directory().join("release").exists())
    }

    /// The oldest that is there.
    ///
    /// # Errors
    /// None is there.
    pub fn any() -> anyhow::Result<Kernel> {
        Self::present().next().context("no guest kernel in target/kernels: run ci/setup first")
    }

    /// Name of its directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Cloud6_1 => "6.1-cloud",
            Kernel::Cloud6_12 => "6.12-cloud",
            Kernel::Generic6_12 => "6.12-generic",
        }
    }

    /// The bzImage.
    #[must_use]
    pub fn vmlinuz(self) -> PathBuf {
        self.directory().join("vmlinuz")
    }

    /// The ELF in it, with its PVH note.
    #[must_use]
    pub fn vmlinux(self) -> PathBuf {
        self.directory().join("vmlinux")
    }

    /// The generic kernel's virtio_mmio, which finds devices by words on the kernel's command line, too.
    #[must_use]
    pub fn virtio_mmio_by_words() -> PathBuf {
        Kernel::Generic6_12.directory().join("virtio_mmio.ko")
    }

    /// Its `lib/modules/RELEASE`.
    #[must_use]
    pub fn modules(self) -> PathBuf {
        self.directory().join("modules")
    }

    /// What `uname -r` says.
    ///
    /// # Errors
    /// The kernel is not there.
    pub fn release(self) -> anyhow::Result<String> {
        let file = self.directory().join("release");
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!("no guest kernel in {}: run ci/setup first", self.directory().display())
        })?;
        Ok(text.trim().to_owned())
    }

    fn directory(self) -> PathBuf {
        paths::target().join("kernels").join(self.name())
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
