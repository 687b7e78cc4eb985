//! The memory that hogs share with the agent.
//!
//! ```text
//! byte 0: are they to read?  │  byte 64: what the first tells │ what the second tells │ …
//!         the agent writes             one hog writes each, the agent reads
//! ```

#![allow(unsafe_code, reason = "it is shared between processes, so it is mapped and taken apart by hand")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64};

use guest_agent::latency::Histogram;
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};

/// What a hog tells, in memory shared with the agent. All zero at first.
#[repr(C)]
pub(super) struct Told {
    pub(super) written: AtomicU64,
    pub(super) write_micros: AtomicU64,
    pub(super) passes: AtomicU64,
    pub(super) verified: AtomicU64,
    pub(super) wrong: AtomicU64,
    pub(super) page_in: Histogram,
    pub(super) longest_ns: AtomicU64,
}

/// The shared memory: one word for all hogs, and what each tells.
pub(super) struct Board {
    start: NonNull<u8>,
    hogs: usize,
}

impl Board {
    const FIRST: usize = 64;

    fn bytes(hogs: usize) -> usize {
        Self::FIRST + hogs * size_of::<Told>()
    }

    /// The agent keeps it in memory; a hog that has to wait for it waits for the agent's page.
    pub(super) fn new(hogs: usize) -> rustix::io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                Self::bytes(hogs),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        let board = Self { start: NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?, hogs };
        // SAFETY: it is our own mapping.
        unsafe { mlock(start, Self::bytes(hogs)) }?;
        Ok(board)
    }

    /// Whether hogs are to read.
    pub(super) fn reading(&self) -> &AtomicBool {
        // SAFETY: the first byte of the mapping, zero at first and only used as this.
        unsafe { self.start.cast().as_ref() }
    }

    pub(super) fn told(&self) -> &[Told] {
        // SAFETY: the mapping holds so many behind its first line; it is page-aligned, all zero is a valid
        // `Told`, and all of its fields are atomic, so that other processes may write them.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(Self::FIRST).cast(), self.hogs) }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody has a reference into it.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), Self::bytes(self.hogs)) };
    }
}
