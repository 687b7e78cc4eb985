//! The host: what the service needs of it, and what on it can harm a guest.
//!
//! ```text
//!   /proc, /sys/fs/cgroup, uname ─▶ Host ─┬─▶ findings: all that `aerostat check` shows
//!                                         └─▶ admit: refuses a start, or warns of it
//! ```
//!
//! | file | looks at |
//! | --- | --- |
//! | `needs` | userfaultfd, huge pages, memory: what must be there |
//! | `kernel` | the kernel's version, and which faults it has where pages move and are swapped |
//! | `swap` | whether the host can swap guest memory |
//! | `cgroup`, `limits` | control groups of this process, and their limits on memory |
//! | `headroom` | how much more those limits allow, while a guest runs |
//! | `commit` | whether the kernel counts what is mapped (`vm.overcommit_memory=2`) |
//! | `ksm` | whether the kernel merges pages of this process |
//!
//! Everything is read below a root directory, so that tests can show other hosts.

mod cgroup;
mod commit;
mod error;
mod headroom;
mod kernel;
pub mod ksm;
mod limits;
mod needs;
mod swap;
#[cfg(test)]
mod tests;

use cgroup::UNLIMITED;
pub use error::{Advice, StartError};
pub(crate) use headroom::Headroom;
pub use needs::{check_huge_pages, check_userfaultfd};
pub(crate) use needs::{check_memory, max_mappings, open_uffd};

use std::io;
use std::path::PathBuf;

use kernel::Kernel;
use swap::Swapping;

/// The finding about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is as it should be.
    Good(String),
    /// Guests run, but it can harm them.
    Poor(Advice),
    /// No guest can be started.
    Bad(Advice),
}

/// The host as this process sees it.
#[derive(Debug)]
pub struct Host {
    /// `/`, but in tests.
    root: PathBuf,
    kernel: Kernel,
    /// Swap that there is, as `sysinfo(2)` says: files of `/proc` may be hidden from a service.
    swap_bytes: u64,
}

impl Host {
    /// This one.
    pub fn here() -> Self {
        let (uname, info) = (rustix::system::uname(), rustix::system::sysinfo());
        Self {
            root: PathBuf::from("/"),
            kernel: Kernel::new(&uname.release().to_string_lossy(), &uname.version().to_string_lossy()),
            swap_bytes: info.totalswap * u64::from(info.mem_unit),
        }
    }

    /// What can harm guests here, or does not: a name for machines, and what was found. Limits are those of the control
    /// group of this process.
    pub fn findings(&self) -> Vec<(&'static str, Finding)> {
        vec![
            ("host_swap", self.swapping().into()),
            ("ksm", self.ksm()),
            ("memory_max", self.memory_max()),
            ("memory_high", self.memory_high()),
            ("oom_group", self.oom_group()),
            ("overcommit", self.overcommit()),
        ]
    }

    /// Whether a guest may be started where the host may swap; `allowed` is the operator's word that the kernel has all
    /// fixes. True when the host can swap our memory.
    pub(crate) fn admit_swap(&self, allowed: bool) -> Result<bool, StartError> {
        match self.swapping() {
            Swapping::Impossible(_) => return Ok(false),
            Swapping::Harmless(note) => tracing::info!("{note}"),
            Swapping::Hazard(Advice { what, .. }) if allowed => {
                tracing::warn!("{what}; the operator says that it has them (allow_host_swap)");
            }
            Swapping::Hazard(advice) => return Err(StartError::HostSwap(advice)),
        }
        Ok(true)
    }

    /// Whether so much can be mapped; warns of limits that so much memory does not fit into. Guest RAM is in the arena
    /// or in guest space, never in both, but both are mapped.
    pub(crate) fn admit_size(&self, guest_bytes: u64, arena_bytes: u64) -> Result<(), StartError> {
        if let Some(warning) = self.admit_mapping(guest_bytes + arena_bytes)? {
            tracing::warn!("{warning}");
        }
        for warning in self.tight_limits(arena_bytes).into_iter().chain(self.merged()) {
            tracing::warn!("{warning}");
        }
        Ok(())
    }

    /// Why `mmap` failed for so many bytes.
    pub(crate) fn no_address_space(&self, bytes: u64, source: io::Error) -> StartError {
        match self.refused_mapping(bytes) {
            Some(advice) => StartError::Overcommit(advice),
            None => StartError::NoAddressSpace { mib: bytes >> 20, source },
        }
    }

    /// The text of a file, named as on this host; none if it is not there or hidden.
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path.trim_start_matches('/'))).ok()
    }

    /// A file that is one number.
    fn read_number(&self, path: &str) -> Option<u64> {
        self.read(path)?.trim().parse().ok()
    }
}

/// MiB, rounded down, as people are told.
fn mib(bytes: u64) -> u64 {
    bytes >> 20
}
