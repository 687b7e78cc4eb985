//! The free frames that lie in their home slots with the poison word.

use crate::core::bitmap::BlockBitmap;
use crate::core::units::{BlockId, FrameId};

/// A set of frames of the arena, 64 bytes a block.
#[derive(Debug)]
pub(super) struct Poisoned {
    blocks: Vec<BlockBitmap>,
    frames: u64,
}

impl Poisoned {
    /// None, in an arena of so many blocks.
    pub(super) fn new(blocks: u32) -> Self {
        Self { blocks: vec![BlockBitmap::EMPTY; blocks as usize], frames: 0 }
    }

    /// How many frames carry the word.
    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    /// The frame carries the word from now on.
    pub(super) fn insert(&mut self, frame: FrameId) {
        self.frames += u64::from(self.blocks[frame.block().0 as usize].insert(frame.index()));
    }

    /// The frame is handed out. True when it carried the word.
    pub(super) fn remove(&mut self, frame: FrameId) -> bool {
        let was_there = self.blocks[frame.block().0 as usize].remove(frame.index());
        self.frames -= u64::from(was_there);
        was_there
    }

    /// No frame of the block carries the word.
    pub(super) fn clear(&mut self, block: BlockId) {
        let frames = std::mem::replace(&mut self.blocks[block.0 as usize], BlockBitmap::EMPTY);
        self.frames -= frames.len() as u64;
    }
}
