//! The way back: from guest space and stash to the arena, and of whole blocks to the kernel.

use std::io;

use super::{BlockState, GuestSpace, State};
use crate::core::alloc::Freed;
use crate::core::units::{BLOCK_SIZE, BlockId, FRAME_SIZE, FrameId, GuestBlock, GuestFrame, Order};

impl GuestSpace {
    /// A huge block of which nothing is live goes back to the kernel, whole, at once.
    pub(super) fn take_block(&self, state: &mut State, guest_block: GuestBlock) -> io::Result<()> {
        let BlockState::Huge(block) = state.blocks[guest_block.0 as usize] else {
            return Ok(());
        };
        self.mapping.discard(guest_block.offset(), BLOCK_SIZE)?;
        state.blocks[guest_block.0 as usize] = BlockState::Absent;
        state.absent += 1;
        // Nothing is left in the home slots: they were emptied when the block was moved in.
        state.alloc.free(block.frame(0), Order::BLOCK).map_err(io::Error::other)?;
        self.moves.blocks_returned.add(1);
        Ok(())
    }

    /// The frame behind a page of a split block goes home.
    pub(super) fn take_frame_home(&self, state: &mut State, frame: GuestFrame) -> io::Result<()> {
        let BlockState::Split(split) = &mut state.blocks[frame.block().0 as usize] else {
            return Ok(());
        };
        let Some(home) = split.0[frame.index()] else {
            return Ok(());
        };
        let to = self.arena.frame_address(home);
        if self.uffd.move_pages(to, self.address(frame), FRAME_SIZE).is_err() {
            // Pinned. Discarding leaves the pinned page to who pinned it; the home slot gets new
            // memory from the poison word.
            self.mapping.discard(frame.offset(), FRAME_SIZE)?;
            self.moves.home_refused.add(1);
        }
        split.0[frame.index()] = None;
        self.moves.frames_home.add(1);
        self.free_frame(state, home)
    }

    pub(super) fn free_frame(&self, state: &mut State, frame: FrameId) -> io::Result<()> {
        match state.alloc.free(frame, Order::FRAME).map_err(io::Error::other)? {
            Freed::Frame => self.arena.poison_frame(frame),
            Freed::Block { block, broken } => self.return_block(block, broken)?,
        }
        Ok(())
    }

    pub(super) fn free_whole(&self, state: &mut State, block: BlockId) -> io::Result<()> {
        state.alloc.free(block.frame(0), Order::BLOCK).map_err(io::Error::other)?;
        self.return_block(block, false)
    }

    fn return_block(&self, block: BlockId, broken: bool) -> io::Result<()> {
        self.arena.release(block, broken, &self.uffd)?;
        self.moves.blocks_returned.add(1);
        Ok(())
    }

    pub(super) fn release_stash(&self, state: &mut State) -> io::Result<usize> {
        let blocks = std::mem::take(&mut state.stash);
        for &block in &blocks {
            self.free_whole(state, block)?;
        }
        Ok(blocks.len())
    }
}
