//! The way back: from guest space and stash to the arena, and of whole blocks to the kernel.

use std::io;

use super::{BlockState, GuestSpace, State};
use crate::core::plain::Freed;
use crate::core::units::{BLOCK_SIZE, BlockId, FRAME_SIZE, FrameId, GuestBlock, GuestFrame, Order};

/// What is behind the home slots of a block that becomes free.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slots {
    /// Nothing: it was moved out whole.
    Empty,
    /// A whole block.
    Filled,
    /// Maybe frames, but a page table for sure, which must go too or the next touch is not huge.
    PageTable,
}

impl GuestSpace {
    /// A huge block of which nothing is live goes back to the kernel, whole, at once.
    pub(super) fn take_block(&self, state: &mut State, guest_block: GuestBlock) -> io::Result<()> {
        let BlockState::Huge(block) = state.blocks[guest_block.0 as usize] else {
            return Ok(());
        };
        self.mapping.discard(guest_block.offset(), BLOCK_SIZE)?;
        state.blocks[guest_block.0 as usize] = BlockState::Absent;
        state.absent += 1;
        // Nothing is left in the home slots, as they were emptied when the block was moved in.
        self.free_block(state, block, Slots::Empty);
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
        self.free(state, home, Order::FRAME, Slots::PageTable);
        Ok(())
    }

    /// Frees what the allocator handed out, and gives the whole block back to the kernel if it is
    /// free now. A refusal is a bug of ours: said, and the frames are lost rather than given twice.
    pub(super) fn free(&self, state: &mut State, head: FrameId, order: Order, slots: Slots) {
        match state.alloc.free(head, order) {
            Ok(Freed::Frame) => self.arena.poison_frame(head),
            Ok(Freed::Block { block }) => {
                match slots {
                    Slots::Empty => {}
                    Slots::Filled => self.arena.discard(block),
                    Slots::PageTable => self.arena.renew(block, &self.uffd),
                }
                self.moves.blocks_returned.add(1);
            }
            Err(error) => tracing::error!(%error, "a bug: frames could not be freed"),
        }
    }

    /// Frees a block that is handed out whole.
    pub(super) fn free_block(&self, state: &mut State, block: BlockId, slots: Slots) {
        self.free(state, block.frame(0), Order::BLOCK, slots);
    }

    /// Empties the stash; says how many blocks there were.
    pub(super) fn release_stash(&self, state: &mut State) -> usize {
        let blocks = std::mem::take(&mut state.stash);
        for &block in &blocks {
            self.free_block(state, block, Slots::Filled);
        }
        blocks.len()
    }
}
