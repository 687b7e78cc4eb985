//! Why the service cannot start, and what an operator is told of the host: what was found, then what to do.

use std::fmt;

/// One sentence: what was found, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What was found, and why it matters.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// Why the service cannot start on this host: what is missing and how to give it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `UFFDIO_MOVE` came with Linux 6.8.
    #[error("Linux {found} is too old: boot the host with kernel 6.8 or newer, which has UFFDIO_MOVE")]
    OldKernel {
        /// `uname -r`.
        found: String,
    },
    /// The swap device cannot be had.
    #[error(transparent)]
    Swap(#[from] crate::swap::SwapError),
    /// The userfaultfd could not be opened, or only for faults from user mode.
    #[error(
        "no permission for userfaultfd: give this user read and write access to /dev/userfaultfd, \
         or set vm.unprivileged_userfaultfd=1, or run with CAP_SYS_PTRACE"
    )]
    NoUffdPermission,
    /// The kernel was built without it, or something else failed.
    #[error("userfaultfd does not work here: the host kernel needs CONFIG_USERFAULTFD=y")]
    NoUffd(#[source] std::io::Error),
    /// Transparent huge pages are switched off or not built in.
    #[error(
        "transparent huge pages are off: run 'echo madvise > \
         /sys/kernel/mm/transparent_hugepage/enabled' as root (CONFIG_TRANSPARENT_HUGEPAGE=y)"
    )]
    NoHugePages,
    /// More guest RAM than the host has memory.
    #[error(
        "not enough memory: the guest asks for {wanted_mib} MiB and the host has {host_mib} MiB; \
         ask for less"
    )]
    NotEnoughMemory {
        /// Guest RAM in MiB.
        wanted_mib: u64,
        /// MemTotal in MiB.
        host_mib: u64,
    },
    /// Guest RAM would not fit into what the host gives.
    #[error(
        "the memory limit of {limit_mib} MiB is too low for this guest: it takes {least_mib} MiB at least, \
         which is its memory and what stays free"
    )]
    LimitTooLow {
        /// The limit in MiB.
        limit_mib: u64,
        /// The least that it can be, in MiB.
        least_mib: u64,
    },
    /// The address space could not be mapped.
    #[error(
        "cannot map {mib} MiB of address space: raise the limit (ulimit -v) or ask for less guest memory"
    )]
    NoAddressSpace {
        /// What was to be mapped, in MiB.
        mib: u64,
        /// What mmap said.
        #[source]
        source: std::io::Error,
    },
    /// A region is empty, unaligned or overlaps another, or there is too much.
    #[error(
        "guest RAM regions must be multiples of 2 MiB, in ascending order, must not overlap, and be 15 TiB at most"
    )]
    BadRegions,
    /// More frames than there are numbers for.
    #[error(
        "the guest's memory, its swap in memory and what stays free are {gib} GiB together, and 16 TiB is too much: \
         ask for less of them"
    )]
    TooManyFrames {
        /// What it comes to, in GiB.
        gib: u64,
    },
    /// The host may swap guest memory, and its kernel may move a wrong page then.
    #[error("{0}")]
    HostSwap(Advice),
    /// The kernel counts what is mapped, and has not so much left.
    #[error("{0}")]
    Overcommit(Advice),
    /// A service thread could not be started, or a file of /proc not opened.
    #[error("cannot start the memory service: {what}")]
    Resource {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}
