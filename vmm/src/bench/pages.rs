//! Raw access to the memory of a synthetic guest, and a mapping of our own for the one that has no service.
#![allow(unsafe_code)] // Plays the guest, and maps and advises memory; argued below.

use std::{
    io,
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};

use memsvc::{
    MemoryService,
    core::units::{BLOCK_SIZE, FRAME_SIZE},
};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Where the second word of a page lies.
const LAST_WORD: usize = FRAME_SIZE - size_of::<u64>();

/// Pages of 4 KiB that a guest writes and reads, by number, while whoever maps them lives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pages<'a> {
    base: usize,
    count: u32,
    memory: PhantomData<&'a ()>,
}

impl<'a> Pages<'a> {
    /// Writes first and last word of a page.
    pub(super) fn write(&self, page: u32, value: u64) {
        self.word(page, 0).store(value, Ordering::Relaxed);
        self.word(page, LAST_WORD).store(!value, Ordering::Relaxed);
    }

    /// True when the page is as it was written.
    pub(super) fn holds(&self, page: u32, value: u64) -> bool {
        self.word(page, 0).load(Ordering::Relaxed) == value
            && self.word(page, LAST_WORD).load(Ordering::Relaxed) == !value
    }

    /// A word of a page.
    ///
    /// # Panics
    /// When there is no such page.
    fn word(&self, page: u32, offset: usize) -> &'a AtomicU64 {
        assert!(page < self.count && offset <= LAST_WORD);
        let address = self.base + page as usize * FRAME_SIZE + offset;
        // SAFETY: inside memory that stays mapped for 'a, and aligned; whoever reads or writes it does so with
        // atomics, or as the kernel and the service do, for a guest.
        unsafe { AtomicU64::from_ptr(address as *mut u64) }
    }

    /// The RAM of a guest, its first region.
    pub(super) fn of_service(service: &'a MemoryService) -> Self {
        let (base, len) = service.regions().first().map_or((0, 0), |region| (region.host, region.spec.len));
        // Guest RAM is mapped while the service lives.
        Self { base, count: count(len), memory: PhantomData }
    }
}

fn count(bytes: u64) -> u32 {
    u32::try_from(bytes / FRAME_SIZE as u64).unwrap_or(u32::MAX)
}

/// Plain anonymous memory that may be huge, 2 MiB aligned.
#[derive(Debug)]
pub(super) struct Plain {
    start: usize,
    mapped: usize,
    base: usize,
    blocks: u32,
}

impl Plain {
    /// So many blocks of it; nothing is behind them.
    pub(super) fn new(blocks: u32) -> io::Result<Self> {
        let len = blocks as usize * BLOCK_SIZE;
        let mapped = len + BLOCK_SIZE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        } as usize;
        let plain = Self { start, mapped, base: start.next_multiple_of(BLOCK_SIZE), blocks };
        // SAFETY: the range is in the mapping; the advice changes how it is backed, not what is in it.
        unsafe { madvise(plain.base as *mut _, len, Advice::LinuxHugepage)? };
        Ok(plain)
    }

    /// First address.
    pub(super) fn base(&self) -> usize {
        self.base
    }

    /// Its first blocks, as pages.
    ///
    /// # Panics
    /// When it has not so many.
    pub(super) fn pages(&self, blocks: u32) -> Pages<'_> {
        assert!(blocks <= self.blocks);
        Pages { base: self.base, count: count(u64::from(blocks) * BLOCK_SIZE as u64), memory: PhantomData }
    }

    /// Gives one page back to the kernel; it reads as zero afterwards.
    pub(super) fn discard_page(&self, page: u32) -> io::Result<()> {
        assert!((page as usize) < self.blocks as usize * BLOCK_SIZE / FRAME_SIZE);
        let address = self.base + page as usize * FRAME_SIZE;
        // SAFETY: a page of the mapping, which the guest has given up.
        unsafe { madvise(address as *mut _, FRAME_SIZE, Advice::LinuxDontNeed)? };
        Ok(())
    }

    /// Puts memory behind a block.
    pub(super) fn populate(&self, block: u32) -> io::Result<()> {
        // SAFETY: as `block` says; it puts zeroes where nothing was.
        unsafe { madvise(self.block(block), BLOCK_SIZE, Advice::LinuxPopulateWrite)? };
        Ok(())
    }

    /// Gives a block back to the kernel.
    pub(super) fn discard(&self, block: u32) -> io::Result<()> {
        // SAFETY: as `block` says; nobody reads what is in it.
        unsafe { madvise(self.block(block), BLOCK_SIZE, Advice::LinuxDontNeed)? };
        Ok(())
    }

    /// Has the kernel make one huge page of a block.
    pub(super) fn collapse(&self, block: u32) -> io::Result<()> {
        // SAFETY: as `block` says; what is in it stays as it is.
        match unsafe { libc::madvise(self.block(block), BLOCK_SIZE, libc::MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The address of a block of the mapping.
    fn block(&self, block: u32) -> *mut libc::c_void {
        assert!(block < self.blocks);
        (self.base + block as usize * BLOCK_SIZE) as *mut _
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped; who used it is gone.
        let _ = unsafe { munmap(self.start as *mut _, self.mapped) };
    }
}
