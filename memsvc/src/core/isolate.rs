//! Emptying a block: what compaction asks of the allocator.
//!
//! ```text
//!              isolate            frame by frame: take_from another block,     capture
//!   in pieces ─────────▶ Isolated   what is in it moves, exchange, free  ─────────────▶ handed out whole
//!       ▲                   │
//!       └───────────────────┘ dropped before all of it was free
//! ```
//! What becomes free in an isolated block is handed out to nobody, as in a pageblock of Linux's
//! `MIGRATE_ISOLATE`. It does not count as free meanwhile: nobody can have it.

use super::alloc::{FrameAllocator, Mode};
use super::block::{Block, GROUP, Use};
use super::buddy::GroupStack;
use super::page_type::PageType;
use super::request::{AllocError, Request};
use super::sync::lock;
use super::tag::Tag;
use super::units::{BlockId, FRAMES_PER_BLOCK, FrameId, Order};

/// How a block is used, as far as it matters whether to empty it or to fill it. Frames in per-CPU lists
/// count as in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockUse {
    /// Handed out whole: a huge page of a guest.
    pub whole: bool,
    /// Frames that would have to be moved to empty it.
    pub live: u16,
    /// Frames that could take what is moved: free ones, or holes once the block is in pieces.
    pub room: u16,
    /// Frames in use that cannot be moved.
    pub unmovable: u16,
}

impl BlockUse {
    /// `None` where there is nothing to do: all of it is free, or somebody is at it already.
    fn of(block: &Block) -> Option<Self> {
        let (free, movable) = (block.free_frames() as u16, block.movable);
        let unmovable = FRAMES_PER_BLOCK as u16 - free - movable;
        match block.usage {
            Use::Pieces => Some(Self { whole: false, live: movable, room: free, unmovable }),
            Use::Whole => {
                Some(Self { whole: true, live: movable - block.holes, room: block.holes, unmovable })
            }
            Use::Free | Use::Isolated => None,
        }
    }
}

/// A block off the lists, until this is dropped.
#[derive(Debug)]
pub struct Isolated<'a, M: Mode> {
    alloc: &'a FrameAllocator<M>,
    block: BlockId,
}

impl<M: Mode> FrameAllocator<M> {
    /// How a block is used. `None` when there is nothing to do: it is free, or being emptied.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn block_use(&self, block: BlockId) -> Option<BlockUse> {
        BlockUse::of(lock(&self.buddy).block(block))
    }

    /// Calls back for all blocks of which there is something to do, in the order of their numbers.
    pub fn for_block_uses(&self, mut see: impl FnMut(BlockId, BlockUse)) {
        let buddy = lock(&self.buddy);
        for (block, entry) in (0..).map(BlockId).zip(buddy.blocks()) {
            if let Some(block_use) = BlockUse::of(entry) {
                see(block, block_use);
            }
        }
    }

    /// The frames of a block in pieces whose content is moved one by one.
    fn single_frames(&self, block: BlockId) -> impl Iterator<Item = FrameId> {
        (0..FRAMES_PER_BLOCK).map(move |index| block.frame(index)).filter(|&frame| {
            let is_single = self.table.tag(frame).order() == Some(Order::FRAME);
            is_single && self.page_type(frame) == PageType::Guest
        })
    }

    /// How many frames something has to be moved to if a block is emptied: what is in movable slabs finds its
    /// own.
    pub(crate) fn places_wanted(&self, block: BlockId, used: BlockUse) -> usize {
        if used.whole { used.live.into() } else { self.single_frames(block).count() }
    }

    /// Takes a block in pieces off the lists, so that what is freed in it stays free. `None` when it is not
    /// in pieces, or when too little would stay free: the min watermark holds for this, too.
    pub fn isolate(&self, block: BlockId) -> Option<Isolated<'_, M>> {
        let isolated = lock(&self.buddy).isolate(block, self.watermarks.min);
        isolated.then(|| Isolated { alloc: self, block })
    }

    /// Hands out up to `max` frames of one block in pieces, the lowest first. None when it has none.
    ///
    /// # Errors
    /// [`AllocError`] when limit or watermark forbid it.
    pub fn take_from(
        &self,
        block: BlockId,
        request: &Request,
        max: u32,
        frames: &mut Vec<FrameId>,
    ) -> Result<(), AllocError> {
        let mut buddy = lock(&self.buddy);
        let allowed = self.allowed(&buddy, request, max.into())?;
        let mut groups = GroupStack::new();
        let movable = request.get_page_type().is_movable();
        let taken = buddy.take_frames_of(block, allowed as u32, movable, &mut groups);
        if taken == 0 {
            return Ok(());
        }
        buddy.charges.charge(request.get_owner(), request.get_page_type(), taken.into());
        self.table.in_pieces(block);
        let first = frames.len();
        while let Some((group, mut bits)) = groups.pop() {
            while bits != 0 {
                let highest = 31 - bits.leading_zeros();
                bits &= !(1 << highest);
                let frame = FrameId(group * GROUP + highest);
                self.table.set_tag(frame, request.tag());
                frames.push(frame);
            }
        }
        frames[first..].reverse();
        let free = buddy.free();
        drop(buddy);
        self.notice_low(free);
        Ok(())
    }

    /// Calls back for each frame of a block that is free and in no per-CPU list. Nobody gets one meanwhile.
    pub(crate) fn for_free_frames(&self, block: BlockId, mut see: impl FnMut(FrameId)) {
        let buddy = lock(&self.buddy);
        let entry = buddy.block(block);
        (0..FRAMES_PER_BLOCK).filter(|&index| entry.is_free(index)).for_each(|index| see(block.frame(index)));
    }

    /// Of each pair, what was in one frame is in the other now: each has what the other had, page type, owner
    /// and reverse map. All are handed out, by themselves; nothing else is looked at.
    pub fn exchange(&self, pairs: impl IntoIterator<Item = (FrameId, FrameId)>) {
        let mut buddy = lock(&self.buddy);
        for (one, other) in pairs {
            self.disown(Order::FRAME, one.0);
            self.disown(Order::FRAME, other.0);
            let tags = [one, other].map(|frame| self.table.tag(frame));
            for (frame, from, to) in [(one, tags[0], tags[1]), (other, tags[1], tags[0])] {
                self.table.set_tag(frame, to);
                let entry = buddy.block_mut(frame.block());
                entry.retype(from.page_type(), to.page_type());
            }
            let rmap = self.table.rmap(one);
            self.table.set_rmap(one, self.table.rmap(other));
            self.table.set_rmap(other, rmap);
        }
    }
}

impl<M: Mode> Isolated<'_, M> {
    /// The block.
    pub fn block(&self) -> BlockId {
        self.block
    }

    /// The frames in it whose content is to be moved, one by one, in the order of their numbers. What is in
    /// movable slabs moves by objects.
    pub fn live(&self, frames: &mut Vec<FrameId>) {
        frames.clear();
        frames.extend(self.alloc.single_frames(self.block));
    }

    /// Hands the block out whole, to whoever asks for it like this.
    ///
    /// # Errors
    /// The block again, still isolated, when some of it is in use.
    pub fn capture(self, request: &Request) -> Result<BlockId, Self> {
        let mut buddy = lock(&self.alloc.buddy);
        if !buddy.take_isolated(self.block, request.get_page_type().is_movable()) {
            drop(buddy);
            return Err(self);
        }
        let tag = Tag::live(request.get_page_type(), Order::BLOCK, request.get_owner());
        self.alloc.table.set_block_tag(self.block, tag);
        buddy.charges.charge(tag.owner(), tag.page_type(), FRAMES_PER_BLOCK as u64);
        drop(buddy);
        let block = self.block;
        std::mem::forget(self);
        Ok(block)
    }
}

impl<M: Mode> Drop for Isolated<'_, M> {
    fn drop(&mut self) {
        let mut buddy = lock(&self.alloc.buddy);
        buddy.rejoin(self.block);
        let free = buddy.free();
        drop(buddy);
        self.alloc.notice_free(free);
    }
}
