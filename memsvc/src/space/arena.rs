//! The arena: one mapping in which every frame has its home slot.
//!
//! What lies in a home slot:
//!
//! | page type | behind the slot |
//! | --- | --- |
//! | `Buddy`, block free | nothing |
//! | `Buddy`, block broken, freed before | the frame, with the poison word |
//! | `Buddy`, block broken, freed by a compaction that did not empty the block | the frame as it was |
//! | `Buddy`, block broken, never used | nothing |
//! | `Stash` | the frame, zeroed, part of a huge page |
//! | `Guest`, `Balloon` | nothing: the frame is in guest space |
//! | `Kmem`, `Slab`, `MovableSlab` | the frame, as who has it left it |
#![allow(unsafe_code)] // writes to home slots

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::copy;
use super::host::Headroom;
use super::mapping::Mapping;
use super::pagemap::Pagemap;
use super::uffd::{Uffd, Watch};
use crate::core::units::{BLOCK_SIZE, BlockId, FRAME_SIZE, FrameId};

/// First word of every free frame that has memory behind it. Not zero, because the kernel (6.12)
/// replaces zero-filled pages by the shared zero page when it splits a huge page, which would lose
/// the physical page; and it shows use after free.
const POISON: u64 = 0x0A05_7A7F_4EE0_F4EE;

/// Why a block could not be mapped anew.
#[derive(Debug)]
pub(crate) struct NotRenewed {
    pub(crate) error: io::Error,
    /// Its address space is not ours any more: it can never be used again.
    pub(crate) is_lost: bool,
}

/// Home slots of all frames.
#[derive(Debug)]
pub(crate) struct Arena {
    mapping: Arc<Mapping>,
    /// The host may have what lies here in its swap.
    is_swappable: bool,
    /// Room below the limits of our control groups.
    headroom: Headroom,
}

impl Arena {
    /// An arena of `blocks` blocks, with nothing behind it, which the host may swap if it `is_swappable`.
    pub(crate) fn new(blocks: u32, is_swappable: bool, headroom: Headroom, uffd: &Uffd) -> io::Result<Self> {
        let mapping = Mapping::new(blocks as usize * BLOCK_SIZE)?;
        uffd.register(mapping.base(), mapping.len(), Watch::MoveTarget)?;
        Ok(Self { mapping: Arc::new(mapping), is_swappable, headroom })
    }

    /// The home slots, for objects that lie in them.
    pub(crate) fn memory(&self) -> Arc<Mapping> {
        Arc::clone(&self.mapping)
    }

    /// Blocks in it.
    pub(crate) fn blocks(&self) -> u32 {
        (self.mapping.len() / BLOCK_SIZE) as u32
    }

    /// Address of a block's first home slot.
    pub(crate) fn block_address(&self, block: BlockId) -> usize {
        self.mapping.base() + block.offset()
    }

    /// Address of a frame's home slot.
    pub(crate) fn frame_address(&self, frame: FrameId) -> usize {
        self.mapping.base() + frame.offset()
    }

    /// True when the control groups of this process have room for so much more memory, which counts as taken then.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.headroom.take(bytes)
    }

    /// True when what lies in a frame's slot is in the host's swap.
    pub(crate) fn is_swapped(&self, frame: FrameId, pagemap: &Pagemap) -> bool {
        self.is_swappable && pagemap.is_swapped(self.frame_address(frame))
    }

    /// Has the kernel put zeroed memory behind a block. True when it is one huge page; false when the host had none:
    /// then the slots have a page table and nothing is behind them.
    pub(crate) fn populate(&self, block: BlockId, pagemap: &Pagemap) -> bool {
        let address = self.block_address(block);
        // What was in it may have been freed a moment ago, and not been given back to the kernel yet.
        if pagemap.is_huge(address) {
            self.discard(block);
        }
        // SAFETY: the slot is ours, and the caller holds the block, so that nobody else writes there.
        // The write makes the kernel put zeroed memory behind the slot; it stores a zero.
        unsafe { AtomicU64::from_ptr(address as *mut u64).store(0, Ordering::Relaxed) };
        if pagemap.is_huge(address) {
            return true;
        }
        self.discard(block);
        false
    }

    /// Drops what is in a frame if the host has it in its swap; true when that was so. The caller holds the frame.
    pub(crate) fn forget_swapped(&self, frame: FrameId, pagemap: &Pagemap) -> bool {
        if !self.is_swapped(frame, pagemap) {
            return false;
        }
        if let Err(error) = self.mapping.discard(frame.offset(), FRAME_SIZE) {
            crate::seldom!(error, ?frame, %error, "a free frame could not be taken out of the host's swap");
        }
        true
    }

    /// Writes to the page of a home slot at `address` without a change: see [`Mapping::populate`].
    pub(crate) fn populate_slot(&self, address: usize) -> io::Result<()> {
        self.mapping.populate(address.wrapping_sub(self.mapping.base()), FRAME_SIZE)
    }

    /// Zeroes a frame in its home slot; puts memory behind it where there is none. True when the
    /// poison word was there.
    pub(crate) fn zero_frame(&self, frame: FrameId) -> bool {
        let address = self.frame_address(frame);
        // SAFETY: the slot is ours and the caller holds the frame; 4 KiB from a page boundary.
        unsafe {
            let poison = AtomicU64::from_ptr(address as *mut u64).load(Ordering::Relaxed);
            std::ptr::write_bytes(address as *mut u8, 0, FRAME_SIZE);
            poison == POISON
        }
    }

    /// Marks a frame that has come home.
    pub(crate) fn poison_frame(&self, frame: FrameId) {
        let address = self.frame_address(frame);
        // SAFETY: the slot is ours and the caller holds the frame.
        unsafe { AtomicU64::from_ptr(address as *mut u64).store(POISON, Ordering::Relaxed) };
    }

    /// True when a frame that has come home carries the poison word.
    pub(crate) fn is_poisoned(&self, frame: FrameId) -> bool {
        let address = self.frame_address(frame);
        // SAFETY: the slot is ours and the caller holds the frame.
        unsafe { AtomicU64::from_ptr(address as *mut u64).load(Ordering::Relaxed) == POISON }
    }

    /// Has the kernel make single pages of a block that is one huge page, which it may refuse. `held` are frames of it that
    /// the caller holds, with whatever is in them. All others that are filled with zeroes may lose their memory: the
    /// kernel gives it away.
    pub(crate) fn split(&self, block: BlockId, held: &[FrameId]) {
        let first_word = |frame: &FrameId| {
            // SAFETY: the slot is ours and the caller holds the frame; it lives as long as we do.
            unsafe { AtomicU64::from_ptr(self.frame_address(*frame) as *mut u64) }
        };
        let zeroes: Vec<_> =
            held.iter().map(first_word).filter(|word| word.load(Ordering::Relaxed) == 0).collect();
        zeroes.iter().for_each(|word| word.store(POISON, Ordering::Relaxed));
        if let Err(error) = self.mapping.split(block.offset()) {
            crate::seldom!(debug, ?block, %error, "the kernel takes no advice to split a block");
        }
        zeroes.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Copies what is in frames at home to others at home, streaming; memory comes behind those that have
    /// none. The caller holds all of them.
    pub(crate) fn copy_frames(&self, pairs: impl Iterator<Item = (FrameId, FrameId)>) {
        for (from, to) in pairs {
            debug_assert_ne!(from, to);
            // SAFETY: home slots of two frames, ours; the caller holds both frames, so that nobody else
            // reads or writes there.
            unsafe { copy::stream_frame(self.frame_address(to), self.frame_address(from)) };
        }
        copy::finish();
    }

    /// Gives what is behind a whole block back to the kernel.
    pub(crate) fn discard(&self, block: BlockId) {
        // The range is ours and nothing in it is locked: the kernel has no reason to refuse.
        if let Err(error) = self.mapping.discard(block.offset(), BLOCK_SIZE) {
            crate::seldom!(error, ?block, %error, "a free block could not be given back to the kernel");
        }
    }

    /// Gives a whole block back with the page table of its slots, so that the next touch can be huge. If the kernel
    /// refuses (too many mappings), the block is not to be used: it may not be mapped, or no move may go there.
    pub(crate) fn renew(&self, block: BlockId, uffd: &Uffd) -> Result<(), NotRenewed> {
        let address = self.block_address(block);
        let renewed = self
            .mapping
            .renew(block.offset())
            .and_then(|()| uffd.register(address, BLOCK_SIZE, Watch::MoveTarget));
        renewed.map_err(|error| {
            // Where nothing is mapped any more, somebody else's memory could come to lie.
            let is_ours = self.mapping.is_mapped(block.offset());
            if is_ours {
                self.discard(block);
            }
            NotRenewed { error, is_lost: !is_ours && self.mapping.hold(block.offset()).is_err() }
        })
    }

    /// Address of the first home slot.
    pub(crate) fn base(&self) -> usize {
        self.mapping.base()
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.mapping.len()
    }

    #[cfg(test)]
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// What lies in home slots.
    #[cfg(test)]
    pub(crate) fn resident(&self, pagemap: &Pagemap) -> io::Result<super::pagemap::Resident> {
        pagemap.resident(self.mapping.base(), self.mapping.len())
    }
}
