//! Needs of the service on the host: userfaultfd, huge pages, memory.

use std::fs;

use super::StartError;
use crate::space::uffd::{OpenError, Uffd};

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
