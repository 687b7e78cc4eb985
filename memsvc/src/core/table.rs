//! The frame table: what is known of each frame without the allocator's lock.
//!
//! | a frame | bytes |
//! | --- | --- |
//! | tag | 2 |
//! | reverse map: guest frame, or slab | 4 |
//! | claims: 2 for each group of 32 | 1/16 |
//! | tag of its block, [`super::block::Block`], block sets | about 1/6 |
//!
//! A block that is handed out whole has one tag for all its frames, until one of them is tagged
//! otherwise (a hole). *Claims* count the fronts of which a group of 32 frames, or of 32 blocks, is the
//! ready one: what is ready is tagged as handed out ahead of time, so `free` has to look there before it
//! believes the tag.

use super::block::GROUP;
use super::page_type::PageType;
use super::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use super::sync::{zeroed_u16, zeroed_u32};
use super::tag::Tag;
use super::units::{BlockId, FRAMES_PER_BLOCK, FrameId, Order};

/// The tags of one group.
pub(crate) type GroupTags = [AtomicU16; GROUP as usize];

/// Tags, reverse map and claims of all frames of an arena. All zero is: all free, none claimed.
#[derive(Debug)]
pub(crate) struct FrameTable {
    tags: Box<[AtomicU16]>,
    rmap: Box<[AtomicU32]>,
    claims: Box<[AtomicU16]>,
    block_tags: Box<[AtomicU16]>,
    block_claims: Box<[AtomicU16]>,
}

impl FrameTable {
    pub(crate) fn new(blocks: u32) -> Self {
        let blocks = blocks as usize;
        let frames = blocks * FRAMES_PER_BLOCK;
        Self {
            tags: zeroed_u16(frames),
            rmap: zeroed_u32(frames),
            claims: zeroed_u16(frames / GROUP as usize),
            block_tags: zeroed_u16(blocks.next_multiple_of(GROUP as usize)),
            block_claims: zeroed_u16(blocks.div_ceil(GROUP as usize)),
        }
    }

    pub(crate) fn frames(&self) -> u64 {
        self.tags.len() as u64
    }

    /// Bytes that it takes once all of it has been written.
    pub(crate) fn bytes(&self) -> usize {
        self.tags.len() * 2
            + self.rmap.len() * 4
            + self.claims.len() * 2
            + self.block_tags.len() * 2
            + self.block_claims.len() * 2
    }

    /// The tags of 32 frames, or of 32 blocks, for the fast path.
    ///
    /// # Panics
    /// When there is no such group.
    #[inline]
    pub(crate) fn group_tags(&self, order: Order, group: u32) -> &GroupTags {
        let tags = if order == Order::FRAME { &self.tags } else { &self.block_tags };
        &tags.as_chunks().0[group as usize]
    }

    /// Where the tag of a frame, or of a block that is handed out whole, is kept; for the fast path.
    #[inline]
    pub(crate) fn cell(&self, head: FrameId, order: Order) -> Option<&AtomicU16> {
        if order == Order::FRAME {
            self.tags.get(head.0 as usize)
        } else {
            self.block_tags.get(head.block().0 as usize)
        }
    }

    /// The tag of one frame that is not in a whole block.
    #[inline]
    pub(crate) fn tag(&self, frame: FrameId) -> Tag {
        Tag::from_bits(self.tags[frame.0 as usize].load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn set_tag(&self, frame: FrameId, tag: Tag) {
        self.tags[frame.0 as usize].store(tag.bits(), Ordering::Relaxed);
    }

    /// The tag of a block that is handed out whole, or was the last time; [`Tag::NEVER`] for one in pieces.
    #[inline]
    pub(crate) fn block_tag(&self, block: BlockId) -> Tag {
        Tag::from_bits(self.block_tags[block.0 as usize].load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn set_block_tag(&self, block: BlockId, tag: Tag) {
        self.block_tags[block.0 as usize].store(tag.bits(), Ordering::Relaxed);
    }

    /// Frames of a block are handed out in pieces: what it was as a whole is not the last that they were.
    pub(crate) fn in_pieces(&self, block: BlockId) {
        // Mostly it is already: then nothing that others read is written.
        if self.block_tag(block) != Tag::NEVER {
            self.set_block_tag(block, Tag::NEVER);
        }
    }

    /// The tag that counts for a frame, from its block or its own, whether or not it is claimed.
    pub(crate) fn effective(&self, frame: FrameId) -> Tag {
        let block = self.block_tag(frame.block());
        if block == Tag::NEVER || block.is_mixed() {
            self.tag(frame)
        } else if block.is_free() || frame.index() == 0 {
            block
        } else {
            block.tail()
        }
    }

    pub(crate) fn rmap(&self, frame: FrameId) -> u32 {
        self.rmap[frame.0 as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn set_rmap(&self, frame: FrameId, value: u32) {
        self.rmap[frame.0 as usize].store(value, Ordering::Relaxed);
    }

    fn claims(&self, order: Order) -> &[AtomicU16] {
        if order == Order::FRAME { &self.claims } else { &self.block_claims }
    }

    /// A front makes a group its ready one.
    pub(crate) fn claim(&self, order: Order, group: u32) {
        self.claims(order)[group as usize].fetch_add(1, Ordering::AcqRel);
    }

    /// It goes on to another.
    pub(crate) fn unclaim(&self, order: Order, group: u32) {
        self.claims(order)[group as usize].fetch_sub(1, Ordering::AcqRel);
    }

    /// True when the group is the ready one of any front.
    pub(crate) fn is_claimed(&self, order: Order, group: u32) -> bool {
        self.claims(order)[group as usize].load(Ordering::Acquire) != 0
    }

    /// Gives each frame of a whole block a tag of its own, so that one can differ.
    pub(crate) fn mix(&self, block: BlockId) {
        let tag = self.block_tag(block);
        self.set_block_tag(block, tag.with_mixed());
        for index in 0..FRAMES_PER_BLOCK {
            self.set_tag(block.frame(index), tag.tail());
        }
    }

    /// Tags the frames of a chunk as one that is handed out.
    pub(crate) fn set_chunk(&self, head: FrameId, order: Order, tag: Tag) {
        self.in_pieces(head.block());
        self.set_tag(head, tag);
        for frame in head.0 + 1..head.0 + order.frames() {
            self.set_tag(FrameId(frame), tag.tail());
        }
    }

    /// What a frame is for, as its tag says.
    pub(crate) fn page_type(&self, frame: FrameId) -> PageType {
        self.effective(frame).page_type()
    }
}
