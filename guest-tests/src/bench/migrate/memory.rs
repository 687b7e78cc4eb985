//! Guest memory as this process touches it, and memory to copy for comparison.

#![allow(unsafe_code, reason = "plays the guest: reads and writes its memory; maps and copies memory")]

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memsvc::MemoryService;
use memsvc::core::units::{BLOCK_SIZE, FRAME_SIZE};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Memory of a synthetic guest: each page carries its number.
pub(super) struct Memory {
    base: usize,
    /// So that it stays mapped.
    _service: Arc<MemoryService>,
}

impl Memory {
    pub(super) fn of(service: &Arc<MemoryService>) -> Self {
        Self { base: service.regions()[0].host, _service: Arc::clone(service) }
    }

    fn word(&self, page: usize) -> &AtomicU64 {
        // SAFETY: inside guest RAM, of which the caller counts the pages, and which lives as long as this.
        unsafe { AtomicU64::from_ptr((self.base + page * FRAME_SIZE) as *mut u64) }
    }

    pub(super) fn write(&self, page: usize) {
        self.word(page).store(page as u64 + 1, Ordering::Relaxed);
    }

    pub(super) fn is_right(&self, page: usize) -> bool {
        self.word(page).load(Ordering::Relaxed) == page as u64 + 1
    }
}

/// Two areas of so many bytes, in huge pages, with memory behind them.
pub(super) struct Copies {
    start: usize,
    base: usize,
    len: usize,
}

impl Copies {
    pub(super) fn new(len: usize) -> anyhow::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                2 * len + BLOCK_SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )?
        } as usize;
        let base = start.next_multiple_of(BLOCK_SIZE);
        // SAFETY: inside the mapping just made, which nobody else knows.
        unsafe {
            madvise(base as *mut c_void, 2 * len, Advice::LinuxHugepage)?;
            std::ptr::write_bytes(base as *mut u8, 1, 2 * len);
        }
        Ok(Self { start, base, len })
    }

    /// Time to copy so many bytes, in pieces of `piece` bytes, by so many threads.
    pub(super) fn time(&mut self, bytes: usize, piece: usize, threads: usize) -> Duration {
        let (base, len, each) = (self.base, self.len, bytes / threads);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for at in (0..each).step_by(piece) {
                        let at = (thread * each + at) % len;
                        let size = piece.min(len - at);
                        // SAFETY: both halves of the mapping are `len` bytes; threads copy different parts,
                        // or the same bytes of the same places where there is more to copy than they hold.
                        unsafe {
                            std::ptr::copy_nonoverlapping(
                                (base + at) as *const u8,
                                (base + len + at) as *mut u8,
                                size,
                            );
                        }
                    }
                });
            }
        });
        start.elapsed()
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        let _ = unsafe { munmap(self.start as *mut c_void, 2 * self.len + BLOCK_SIZE) };
    }
}
