//! What the service needs of the host, each with the sentence that says how to give it.

use std::fs;

use super::uffd::{OpenError, Uffd};

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
        "guest RAM regions must be multiples of 2 MiB, in ascending order, must not overlap, and be less than 16 TiB"
    )]
    BadRegions,
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

/// Checks kernel version and userfaultfd.
///
/// # Errors
/// What is missing.
pub fn check_userfaultfd() -> Result<(), StartError> {
    open_uffd().map(drop)
}

pub(crate) fn open_uffd() -> Result<Uffd, StartError> {
    Uffd::open().map_err(|error| match error {
        OpenError::Permission => StartError::NoUffdPermission,
        OpenError::NoMove => {
            StartError::OldKernel { found: rustix::system::uname().release().to_string_lossy().into_owned() }
        }
        OpenError::Other(source) => StartError::NoUffd(source),
    })
}

/// Checks that the kernel gives huge pages to those who ask (`MADV_HUGEPAGE`).
///
/// # Errors
/// That they are off.
pub fn check_huge_pages() -> Result<(), StartError> {
    let setting = |name: &str| fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}"));
    let top = setting("enabled").map_err(|_| StartError::NoHugePages)?;
    // Since 6.8 each size has a setting of its own, "inherit" by default.
    let size = setting("hugepages-2048kB/enabled").unwrap_or_default();
    if usable(&top, &size) { Ok(()) } else { Err(StartError::NoHugePages) }
}

fn usable(top: &str, size: &str) -> bool {
    let on = |text: &str| text.contains("[always]") || text.contains("[madvise]");
    if size.is_empty() || size.contains("[inherit]") { on(top) } else { on(size) }
}

pub(crate) fn check_memory(wanted_bytes: u64) -> Result<(), StartError> {
    let info = rustix::system::sysinfo();
    let host_bytes = info.totalram as u64 * u64::from(info.mem_unit);
    if wanted_bytes <= host_bytes {
        return Ok(());
    }
    Err(StartError::NotEnoughMemory { wanted_mib: wanted_bytes >> 20, host_mib: host_bytes >> 20 })
}

/// Mappings that a process may have (`vm.max_map_count`); Linux's default where that cannot be read.
pub(crate) fn max_mappings() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(65_530)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_follow_the_setting_of_their_size_where_there_is_one() {
        assert!(usable("always [madvise] never", ""));
        assert!(usable("[always] madvise never", "always [inherit] madvise never"));
        assert!(usable("always madvise [never]", "always inherit [madvise] never"));
        assert!(!usable("always madvise [never]", ""));
        assert!(!usable("always madvise [never]", "always [inherit] madvise never"));
        assert!(!usable("[always] madvise never", "always inherit madvise [never]"));
    }

    #[test]
    fn more_guest_memory_than_the_host_has_is_refused() {
        let error = check_memory(1 << 60).unwrap_err().to_string();
        assert!(error.starts_with("not enough memory: the guest asks for 1099511627776 MiB"), "{error}");
        assert!(check_memory(64 << 20).is_ok());
    }
}
