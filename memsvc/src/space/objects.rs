//! Objects in movable slabs, with what is in them: where swapped pages are kept.
//!
//! The frames lie in their home slots; nobody but who has the handle reads or writes an object, and the
//! one who moves it, when nobody has it pinned.
#![allow(unsafe_code)] // reads and writes objects

use std::io;
use std::sync::Arc;

use super::copy;
use super::mapping::Mapping;
use crate::core::alloc::{Config, FrameAllocator, Full};
use crate::core::isolate::Isolated;
use crate::core::request::Flags;
use crate::core::slab::{
    Handle, MovableSlabs, Object, Pinned, Relocated, SlabError, SlabRequest, is_worth_squeezing,
};
use crate::core::units::{BLOCK_SIZE, CpuId, FRAME_SIZE, Order, OwnerId};
use crate::core::watermark::Watermarks;
use crate::stats::SlabInfo;

/// What is left where an object was. Not zero: when the kernel splits a huge page (6.12) it gives pages of zeroes away,
/// and what is put there later comes from elsewhere, so that the block never is one again.
const WIPED: u8 = 0xAE;

/// More than any store that fits into address space: 16 TiB less a block.
const MAX_BLOCKS: u64 = (1 << 23) - 1;

/// Objects of 1 to 4096 bytes. Every method may be called from any thread that holds no lists of the frame
/// allocator.
#[derive(Debug)]
pub(crate) struct Objects {
    slabs: MovableSlabs,
    memory: Arc<Mapping>,
}

impl Objects {
    /// No objects yet. `memory` is the home slots of the allocator's frames; `cpus` as
    /// [`MovableSlabs::new`] has it.
    pub(crate) fn new(frames: Arc<FrameAllocator>, memory: Arc<Mapping>, owner: OwnerId, cpus: u8) -> Self {
        Self { slabs: MovableSlabs::new(frames, owner, cpus), memory }
    }

    /// In memory of their own, of which there is as much as they need, up to `bytes`.
    ///
    /// # Errors
    /// The kernel has no address space for that.
    pub(crate) fn standalone(bytes: u64, cpus: u8) -> io::Result<Self> {
        let blocks = bytes.div_ceil(BLOCK_SIZE as u64).clamp(1, MAX_BLOCKS) as u32;
        let memory = Arc::new(Mapping::new(blocks as usize * BLOCK_SIZE)?);
        let frames = FrameAllocator::new(Config { blocks, cpus, watermarks: Watermarks::NONE });
        Ok(Self::new(Arc::new(frames), memory, OwnerId::HOST, cpus))
    }

    /// Keeps these bytes, 1 to 4096, in memory of the reserve if there is no other, of which so many frames stay free.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn put(&self, cpu: CpuId, bytes: &[u8], leaves: u32) -> Result<Handle, SlabError> {
        let request = SlabRequest::new(bytes.len())?.flags(Flags::MEMALLOC).leaves(leaves);
        let handle = self.slabs.alloc(cpu, &request)?;
        let pinned = self.slabs.pin(handle)?;
        // SAFETY: nobody else has the handle yet, so nobody else reads or writes there.
        unsafe { self.fill(&pinned, bytes) };
        drop(pinned);
        Ok(handle)
    }

    /// Puts bytes in the place of those that an object holds, if it holds as many: no memory is needed for that.
    /// Nobody may [`Self::read`] or [`Self::remove`] it meanwhile. False, and it is as it was, if it is of another
    /// length.
    ///
    /// # Errors
    /// There is no such object.
    pub(crate) fn overwrite(&self, handle: Handle, bytes: &[u8]) -> Result<bool, SlabError> {
        let pinned = self.slabs.pin(handle)?;
        let fits = pinned.object().len() == bytes.len();
        if fits {
            // SAFETY: the caller sees to it that nobody reads or removes it, and who moves it waits for the pin.
            unsafe { self.fill(&pinned, bytes) };
        }
        Ok(fits)
    }

    /// Shows what an object holds. Nobody may [`Self::overwrite`] or [`Self::remove`] it meanwhile.
    ///
    /// # Errors
    /// There is no such object.
    pub(crate) fn read<T>(&self, handle: Handle, see: impl FnOnce(&[u8]) -> T) -> Result<T, SlabError> {
        let pinned = self.slabs.pin(handle)?;
        // SAFETY: see `address`; written before anybody else knew the handle, and after that only by who overwrites
        // or removes it, which the caller sees to that nobody does. Who moves it waits for the pin.
        let bytes =
            unsafe { std::slice::from_raw_parts(self.address(&pinned) as *const u8, pinned.object().len()) };
        Ok(see(bytes))
    }

    /// Wipes an object and frees its place.
    ///
    /// # Errors
    /// There is no such object.
    pub(crate) fn remove(&self, cpu: CpuId, handle: Handle) -> Result<(), SlabError> {
        let pinned = self.slabs.pin(handle)?;
        // SAFETY: see `address`; whoever removes it is the only one that has the handle. A move copies what it was
        // wiped with; a volatile write is not needed, since the place is read again through other pointers.
        unsafe { std::ptr::write_bytes(self.address(&pinned) as *mut u8, WIPED, pinned.object().len()) };
        drop(pinned);
        self.slabs.free(cpu, handle)
    }

    /// Moves the objects in a block elsewhere; see [`MovableSlabs::relocate`].
    pub(crate) fn relocate(&self, cpu: CpuId, block: &Isolated<'_, Full>) -> Relocated {
        self.slabs.relocate(cpu, block, |from, to| self.copy(from, to))
    }

    /// Frees slabs that are empty, and moves objects together where that is worth it, or `in_any_case`, as long
    /// as it `goes_on`; says how many frames were freed.
    pub(crate) fn shrink(&self, cpu: CpuId, in_any_case: bool, goes_on: impl FnMut() -> bool) -> u64 {
        let emptied = self.slabs.shrink(cpu, 0);
        let (frames, unused) = self.slabs.usage();
        if !in_any_case && !is_worth_squeezing(frames, unused) {
            return emptied;
        }
        emptied + self.slabs.squeeze(cpu, goes_on, |from, to| self.copy(from, to)).frames
    }

    /// Copies an object that is on the move to its new place.
    fn copy(&self, from: Object, to: Object) {
        // SAFETY: both are objects of the same length, at different places inside the mapping; nobody has the
        // first pinned, nobody else knows the second. The old place is wiped behind it.
        unsafe {
            let source = self.place(from) as *mut u8;
            std::ptr::copy_nonoverlapping(source, self.place(to) as *mut u8, from.len());
            std::ptr::write_bytes(source, WIPED, from.len());
        }
    }

    /// Gives blocks that are free again back to the kernel, where no arena does.
    pub(crate) fn return_emptied(&self, cpu: CpuId) -> io::Result<()> {
        let frames = self.slabs.frames();
        frames.drain_all();
        while let Some(block) = frames.take_emptied() {
            let discarded = self.memory.discard(block.offset(), BLOCK_SIZE);
            let freed = frames.free(cpu, block.frame(0), Order::BLOCK);
            debug_assert_eq!(freed, Ok(()));
            discarded?;
        }
        Ok(())
    }

    /// True when free frames are below the low watermark: what can be spared is to go.
    pub(crate) fn is_low(&self) -> bool {
        self.slabs.frames().is_low()
    }

    /// True when so many frames are free, those of the reserve with them.
    pub(crate) fn has_room(&self, frames: u64) -> bool {
        self.slabs.frames().has_free(frames)
    }

    /// Makes the table of so many objects, so that it does not grow on the way to one of them. It is address
    /// space until it is used. Where there is none for all of it, it grows as it did.
    pub(crate) fn prepare(&self, objects: u64) {
        self.slabs.prepare(objects);
    }

    pub(crate) fn info(&self) -> SlabInfo {
        self.slabs.info()
    }

    /// Puts bytes where a pinned object of their length lies. A whole frame goes past the caches: it is not read again
    /// soon.
    ///
    /// # Safety
    /// Nobody else reads or writes there meanwhile.
    unsafe fn fill(&self, pinned: &Pinned<'_>, bytes: &[u8]) {
        let to = self.address(pinned);
        // SAFETY: see `address`; an object as long as a frame is one. What is copied is borrowed, and so not in the
        // arena, of which there are no references; the rest is the caller's.
        unsafe {
            if bytes.len() == FRAME_SIZE {
                copy::stream_frame(to, bytes.as_ptr() as usize);
                copy::finish();
            } else {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len());
            }
        }
    }

    /// Where a pinned object lies: as many bytes as it is long, inside the mapping, as long as it is pinned.
    fn address(&self, pinned: &Pinned<'_>) -> usize {
        self.place(pinned.object())
    }

    /// A frame's bytes as they are in memory.
    #[cfg(test)]
    pub(crate) fn peek_for_test(&self, address: usize) -> [u8; 4096] {
        assert!(address >= self.memory.base() && address + 4096 <= self.memory.base() + self.memory.len());
        // SAFETY: inside the mapping; the test has no other thread.
        unsafe { std::ptr::read(address as *const [u8; 4096]) }
    }

    fn place(&self, object: Object) -> usize {
        debug_assert!(object.offset() as usize + object.len() <= self.memory.len());
        self.memory.base() + object.offset() as usize
    }
}
