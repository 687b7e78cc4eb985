//! The kernel as an allocator of memory: what a program has that keeps no frames of its own.

#![allow(unsafe_code, reason = "maps, advises and unmaps memory, and writes to it")]

use std::ffi::c_void;
use std::sync::Mutex;

use memsvc::core::units::{FRAME_SIZE, Order};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::pool::{Hand, Pool};

/// Get: map and touch. Put: unmap.
#[derive(Debug)]
pub(crate) struct Mmap(pub(crate) Order);

impl Pool for Mmap {
    const NAME: &'static str = "mmap";
    type Item = usize;
    type Hand<'a> = &'a Mmap;

    fn hand(&self, _thread: usize) -> &Mmap {
        self
    }
}

impl Hand for &Mmap {
    type Item = usize;

    fn get(&mut self) -> Option<usize> {
        let at = map(bytes(self.0))?;
        touch(at, self.0);
        Some(at)
    }

    fn put(&mut self, at: usize) -> bool {
        unmap(at, bytes(self.0))
    }
}

/// One mapping, made once. Get: touch a chunk of it. Put: `DONTNEED`.
#[derive(Debug)]
pub(crate) struct DontNeed {
    base: usize,
    chunks: usize,
    order: Order,
    free: Mutex<Vec<usize>>,
}

impl DontNeed {
    /// With room for so many chunks. `None` when that cannot be mapped.
    pub(crate) fn new(chunks: usize, order: Order) -> Option<Self> {
        let base = map((chunks + 1) * bytes(order))?;
        let first = base.next_multiple_of(bytes(order));
        let free = (0..chunks).rev().map(|chunk| first + chunk * bytes(order)).collect();
        Some(Self { base, chunks, order, free: Mutex::new(free) })
    }

    fn take(&self, chunks: usize) -> Vec<usize> {
        self.free
            .lock()
            .map(|mut free| {
                let rest = free.len().saturating_sub(chunks);
                free.split_off(rest)
            })
            .unwrap_or_default()
    }
}

impl Drop for DontNeed {
    fn drop(&mut self) {
        unmap(self.base, (self.chunks + 1) * bytes(self.order));
    }
}

impl Pool for DontNeed {
    const NAME: &'static str = "dontneed";
    type Item = usize;
    type Hand<'a> = DontNeedHand<'a>;

    fn hand(&self, _thread: usize) -> DontNeedHand<'_> {
        DontNeedHand { all: self, own: self.take(self.chunks / 2) }
    }
}

/// The part of the mapping that is one thread's: half of it.
pub(crate) struct DontNeedHand<'a> {
    all: &'a DontNeed,
    own: Vec<usize>,
}

impl Hand for DontNeedHand<'_> {
    type Item = usize;

    fn get(&mut self) -> Option<usize> {
        let at = self.own.pop()?;
        touch(at, self.all.order);
        Some(at)
    }

    fn put(&mut self, at: usize) -> bool {
        self.own.push(at);
        // SAFETY: the chunk lies in the mapping, and nothing refers to what is in it.
        unsafe { madvise(at as *mut c_void, bytes(self.all.order), Advice::LinuxDontNeed) }.is_ok()
    }
}

impl Drop for DontNeedHand<'_> {
    fn drop(&mut self) {
        if let Ok(mut free) = self.all.free.lock() {
            free.append(&mut self.own);
        }
    }
}

fn bytes(order: Order) -> usize {
    FRAME_SIZE * order.frames() as usize
}

fn map(bytes: usize) -> Option<usize> {
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let at = unsafe {
        mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    };
    at.ok().map(|at| at as usize)
}

fn unmap(at: usize, bytes: usize) -> bool {
    // SAFETY: what is unmapped came from `map`, and nothing refers to it.
    unsafe { munmap(at as *mut c_void, bytes) }.is_ok()
}

fn touch(at: usize, order: Order) {
    for frame in 0..order.frames() as usize {
        // SAFETY: the address lies in a mapping of ours, which can be written.
        unsafe { ((at + frame * FRAME_SIZE) as *mut u8).write_volatile(1) };
    }
}
