//! `PAGEMAP_SCAN` on /proc/self/pagemap: what is really behind an address range (Linux 6.7,
//! `fs/proc/task_mmu.c`).
#![allow(unsafe_code)] // an ioctl that writes to memory of ours

use std::fs::File;
use std::io;
#[cfg(test)]
use std::os::unix::fs::FileExt;

use linux_raw_sys::general::{PAGE_IS_HUGE, PAGE_IS_PRESENT, PAGE_IS_SWAPPED, page_region, pm_scan_arg};
use rustix::ioctl::{Updater, ioctl, opcode};

use crate::core::units::FRAME_SIZE;

const PAGEMAP_SCAN: u32 = opcode::read_write::<pm_scan_arg>(b'f', 16);
const REGIONS: usize = 128;

/// Bytes that are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// In all.
    pub(crate) bytes: u64,
    /// Of these, by huge pages.
    pub(crate) huge: u64,
}

/// An open pagemap of this process.
#[derive(Debug)]
pub(crate) struct Pagemap(File);

impl Pagemap {
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// What is mapped in `len` bytes from `start`.
    pub(crate) fn resident(&self, start: usize, len: usize) -> io::Result<Resident> {
        self.scan(start, len, PAGE_IS_PRESENT)
    }

    /// What is in one of these states.
    fn scan(&self, start: usize, len: usize, states: u32) -> io::Result<Resident> {
        let mut resident = Resident::default();
        let end = (start + len) as u64;
        let mut from = start as u64;
        let mut found = [page_region { start: 0, end: 0, categories: 0 }; REGIONS];
        while from < end {
            let mut scan = pm_scan_arg {
                size: size_of::<pm_scan_arg>() as u64,
                flags: 0,
                start: from,
                end,
                walk_end: 0,
                vec: found.as_mut_ptr() as u64,
                vec_len: REGIONS as u64,
                max_pages: 0,
                category_inverted: 0,
                category_mask: 0,
                category_anyof_mask: u64::from(states),
                return_mask: u64::from(PAGE_IS_PRESENT | PAGE_IS_HUGE),
            };
            // SAFETY: the structure is the one that this request reads and writes; `vec` points to
            // `vec_len` regions that live through the call. The file being /proc/self/pagemap, it
            // only reads page tables.
            let filled = unsafe { ioctl(&self.0, Scan(Updater::<PAGEMAP_SCAN, _>::new(&mut scan)))? };
            for region in &found[..filled.min(REGIONS)] {
                let bytes = region.end - region.start;
                resident.bytes += bytes;
                if region.categories & u64::from(PAGE_IS_HUGE) != 0 {
                    resident.huge += bytes;
                }
            }
            if scan.walk_end <= from {
                break;
            }
            from = scan.walk_end;
        }
        Ok(resident)
    }

    /// True when nothing is behind the page at `start`, nor in the host's swap.
    pub(crate) fn is_absent(&self, start: usize) -> bool {
        self.is_range_absent(start, FRAME_SIZE)
    }

    /// As [`Self::is_absent`], of `len` bytes.
    pub(crate) fn is_range_absent(&self, start: usize, len: usize) -> bool {
        self.scan(start, len, PAGE_IS_PRESENT | PAGE_IS_SWAPPED).is_ok_and(|found| found.bytes == 0)
    }

    /// True when the page at `start` is in the host's swap.
    pub(crate) fn is_swapped(&self, start: usize) -> bool {
        self.scan(start, FRAME_SIZE, PAGE_IS_SWAPPED).is_ok_and(|found| found.bytes > 0)
    }

    /// True when the 2 MiB at `start` are one huge page.
    pub(crate) fn is_huge(&self, start: usize) -> bool {
        // One page is enough to tell: the walk reports the PMD that maps it.
        self.resident(start, FRAME_SIZE).is_ok_and(|resident| resident.huge > 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Pagemap {
    /// Numbers of the physical pages behind an address range, of those that are there. None where they are not shown (no
    /// CAP_SYS_ADMIN).
    pub(crate) fn physical(&self, start: usize, pages: usize) -> Vec<u64> {
        let mut bytes = vec![0; pages * 8];
        self.0.read_exact_at(&mut bytes, (start / FRAME_SIZE * 8) as u64).unwrap();
        let numbers = bytes.as_chunks().0.iter().map(|entry| u64::from_ne_bytes(*entry) & ((1 << 55) - 1));
        numbers.filter(|&number| number > 0).collect()
    }
}

/// rustix's `Updater` drops the result of the call; here it is the number of regions found.
struct Scan<'a>(Updater<'a, PAGEMAP_SCAN, pm_scan_arg>);

// SAFETY: as `Updater`, with the result passed on.
unsafe impl rustix::ioctl::Ioctl for Scan<'_> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> rustix::ioctl::Opcode {
        PAGEMAP_SCAN
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.0.as_ptr()
    }

    unsafe fn output_from_ptr(
        out: rustix::ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<usize> {
        Ok(out as usize)
    }
}
