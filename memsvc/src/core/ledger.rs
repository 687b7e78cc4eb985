//! The balloon ledger: one bit a guest frame, set while the guest has given the frame up.
//!
//! The guest's own count (`actual` in the balloon's config space) is its word; this is ours.

use super::bitmap::BlockBitmap;
use super::units::{FRAMES_PER_BLOCK, GuestBlock, GuestFrame};

/// Why a balloon request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The frame number is not of guest RAM.
    OutsideRam,
    /// Inflate of a frame that is in the balloon already.
    InflatedTwice,
    /// Deflate of a frame that is not in the balloon.
    NeverInflated,
}

/// Which guest frames are in the balloon.
#[derive(Debug)]
pub struct Ledger {
    blocks: Vec<BlockBitmap>,
    frames: u64,
}

impl Ledger {
    /// A ledger of `blocks` guest blocks with an empty balloon.
    pub fn new(blocks: u32) -> Self {
        Self { blocks: vec![BlockBitmap::EMPTY; blocks as usize], frames: 0 }
    }

    /// Frames in the balloon.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Which frames of a guest block are in the balloon.
    pub fn block(&self, block: GuestBlock) -> &BlockBitmap {
        &self.blocks[block.0 as usize]
    }

    /// True when the frame is in the balloon.
    pub fn contains(&self, frame: GuestFrame) -> bool {
        self.block(frame.block()).contains(frame.index())
    }

    /// The guest gives the frame up. Ok(true) when now all frames of its block are in the balloon.
    ///
    /// # Errors
    /// [`Refusal::InflatedTwice`]; nothing has changed then.
    pub fn inflate(&mut self, frame: GuestFrame) -> Result<bool, Refusal> {
        let bits = &mut self.blocks[frame.block().0 as usize];
        if !bits.insert(frame.index()) {
            return Err(Refusal::InflatedTwice);
        }
        self.frames += 1;
        Ok(bits.len() == FRAMES_PER_BLOCK)
    }

    /// The guest takes the frame back.
    ///
    /// # Errors
    /// [`Refusal::NeverInflated`]; nothing has changed then.
    pub fn deflate(&mut self, frame: GuestFrame) -> Result<(), Refusal> {
        if !self.blocks[frame.block().0 as usize].remove(frame.index()) {
            return Err(Refusal::NeverInflated);
        }
        self.frames -= 1;
        Ok(())
    }
}
