//! The frame table: one tag a frame, one counter a tag.
//!
//! One byte a frame, all zero (free) at start, so that the table of a large arena costs nothing
//! until frames are used.

use super::page_type::PageType;
use super::units::{FRAMES_PER_BLOCK, FrameId, Order};

/// Tags of all frames of an arena and how many frames carry each.
#[derive(Debug)]
pub struct FrameTable {
    tags: Vec<u8>,
    counts: [u64; PageType::COUNT],
}

impl FrameTable {
    /// A table of `blocks` blocks in which every frame is [`PageType::Buddy`].
    pub fn new(blocks: u32) -> Self {
        let frames = blocks as usize * FRAMES_PER_BLOCK;
        let mut counts = [0; PageType::COUNT];
        counts[PageType::Buddy as usize] = frames as u64;
        Self { tags: vec![0; frames], counts }
    }

    /// What this frame is for. Panics when the frame is not of this arena.
    pub fn tag(&self, frame: FrameId) -> PageType {
        PageType::ALL[self.tags[frame.0 as usize] as usize]
    }

    /// Frames of this type.
    pub fn count(&self, page_type: PageType) -> u64 {
        self.counts[page_type as usize]
    }

    /// Frames charged to the guest.
    pub fn charged(&self) -> u64 {
        PageType::ALL.into_iter().filter(|t| t.is_charged()).map(|t| self.count(t)).sum()
    }

    /// Frames of the arena.
    pub fn frames(&self) -> u64 {
        self.tags.len() as u64
    }

    /// Changes the tag of one frame. Charging follows from the tag: there is nothing else to keep.
    pub(super) fn set(&mut self, frame: FrameId, page_type: PageType) {
        let old = self.tag(frame);
        self.counts[old as usize] -= 1;
        self.counts[page_type as usize] += 1;
        self.tags[frame.0 as usize] = page_type as u8;
    }

    /// Changes the tags of the `2^order` frames from `head`.
    pub(super) fn set_all(&mut self, head: FrameId, order: Order, page_type: PageType) {
        if order == Order::BLOCK {
            for index in 0..FRAMES_PER_BLOCK {
                self.set(head.block().frame(index), page_type);
            }
        } else {
            self.set(head, page_type);
        }
    }
}
