//! The way back: from guest space and stash to the arena, and of whole blocks to the kernel.

use std::io;

use super::split::Page;
use super::{BlockState, CPU, GuestSpace, OUTSIDE, State};
use crate::core::units::{BLOCK_SIZE, BlockId, FRAME_SIZE, FrameId, GuestBlock, GuestFrame, Order};
use crate::space::arena::NotRenewed;

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

impl State {
    /// What is behind the slots of this block is not what was there.
    pub(super) fn begin_anew(&mut self, block: BlockId) {
        self.poisoned.clear(block);
        self.in_pieces[block.0 as usize] = false;
    }
}

impl GuestSpace {
    /// A huge block of which nothing is live goes back to the kernel, whole, at once.
    pub(super) fn take_block(&self, state: &mut State, guest_block: GuestBlock) -> io::Result<()> {
        let BlockState::Huge(block) = state.blocks[guest_block.0 as usize] else {
            return Ok(());
        };
        if !self.is_watched(state, guest_block) {
            return Ok(());
        }
        self.mapping.discard(guest_block.offset(), BLOCK_SIZE)?;
        state.put(guest_block, BlockState::Absent);
        // Nothing is left in the home slots, as they were emptied when the block was moved in.
        self.free_block(state, block, Slots::Empty);
        Ok(())
    }

    /// The frame behind a page of a split block goes home. No mover has it.
    pub(super) fn take_frame_home(&self, state: &mut State, frame: GuestFrame) -> io::Result<()> {
        let Some(split) = state.split_mut(frame.block()) else { return Ok(()) };
        let home = match split.page(frame.index()) {
            Page::Here(home) => home,
            Page::AtHome(home) => {
                split.set(frame.index(), Page::Absent);
                self.free_frame(state, home);
                return Ok(());
            }
            Page::Absent | Page::Busy => return Ok(()),
        };
        let to = self.arena.frame_address(home);
        if let Err(stopped) = self.uffd.move_pages(to, self.address(frame), FRAME_SIZE) {
            self.count_refused(stopped.error);
            // Pinned, or shared. Discarding leaves the page to who has it. Nothing is behind the home slot then, and
            // nothing is put there: that would be charged to our control group under the lock.
            self.mapping.discard(frame.offset(), FRAME_SIZE)?;
            self.moves.home_refused.add(1);
            state.set_page(frame, Page::Absent);
            self.free_as_it_is(state, home);
            return Ok(());
        }
        state.set_page(frame, Page::Absent);
        self.moves.frames_home.add(1);
        self.free_frame(state, home);
        Ok(())
    }

    /// Frees a frame that has come home. A refusal is a bug of ours: said, and the frame is lost rather
    /// than given twice.
    pub(super) fn free_frame(&self, state: &mut State, home: FrameId) {
        if !self.forget_swapped(home) {
            self.arena.poison_frame(home);
            state.poisoned.insert(home);
        }
        self.free_as_it_is(state, home);
    }

    /// Drops what is in a frame if the host has it in its swap: nobody wants it, and a touch would have it read first.
    /// True when that was so. The caller holds the frame.
    pub(super) fn forget_swapped(&self, frame: FrameId) -> bool {
        let is_forgotten = self.arena.forget_swapped(frame, &self.pagemap);
        if is_forgotten {
            self.moves.swap_dropped.add(1);
        }
        is_forgotten
    }

    /// Frees a frame at home with what is behind its slot, or with nothing.
    fn free_as_it_is(&self, state: &mut State, home: FrameId) {
        state.came_home = true;
        if let Err(error) = self.alloc.enter(CPU).free(home, Order::FRAME) {
            crate::seldom!(error, %error, "a bug: a frame could not be freed");
        }
    }

    /// Single frames are going to leave this block. If it is one huge page, the kernel makes single pages of it now, and
    /// what is free in it takes the poison word before. `held` are frames of it that are the caller's and at home.
    pub(super) fn take_apart(&self, state: &mut State, block: BlockId, held: &[FrameId]) {
        let is_huge = || self.pagemap.is_huge(self.arena.block_address(block));
        if state.in_pieces[block.0 as usize] {
            return;
        }
        if is_huge() {
            self.alloc.drain_all();
            self.alloc.for_free_frames(block, |frame| {
                self.arena.poison_frame(frame);
                state.poisoned.insert(frame);
            });
            self.arena.split(block, held);
        }
        // Where somebody holds a page of it, the kernel does not split it; the next to leave tries again.
        state.in_pieces[block.0 as usize] = !is_huge();
    }

    /// Frees frames that are at home.
    pub(super) fn free_home(&self, state: &mut State, frames: Vec<FrameId>) {
        frames.into_iter().for_each(|home| self.free_frame(state, home));
    }

    /// Frees frames of a block of which all is going to be free: their memory goes as one, without the
    /// poison word.
    pub(super) fn free_moved(&self, _state: &mut State, frames: impl IntoIterator<Item = FrameId>) {
        let mut local = self.alloc.enter(CPU);
        for frame in frames {
            if let Err(error) = local.free(frame, Order::FRAME) {
                crate::seldom!(error, %error, "a bug: a frame could not be freed");
            }
        }
    }

    /// Frees a block that is handed out whole, and gives it back to the kernel.
    pub(super) fn free_block(&self, state: &mut State, block: BlockId, slots: Slots) {
        if self.empty_slots(state, block, slots) {
            self.put_whole(state, block);
        }
    }

    /// Gives what is behind the slots of a whole block back to the kernel. False when the kernel refuses to map them
    /// anew: the block is set aside then, until it does.
    #[must_use]
    pub(super) fn empty_slots(&self, state: &mut State, block: BlockId, slots: Slots) -> bool {
        match slots {
            Slots::Empty => {}
            Slots::Filled => self.arena.discard(block),
            Slots::PageTable => {
                if let Err(refused) = self.arena.renew(block, &self.uffd) {
                    self.set_aside(state, block, refused);
                    return false;
                }
            }
        }
        state.begin_anew(block);
        self.moves.blocks_returned.add(1);
        true
    }

    /// A block that could not be mapped anew is used by nobody until it can, or never again.
    fn set_aside(&self, state: &mut State, block: BlockId, NotRenewed { error, is_lost }: NotRenewed) {
        self.moves.set_aside.add(1);
        if crate::seldom::is_due(self.moves.set_aside.get()) {
            tracing::warn!(?block, %error, is_lost, "a free block could not be mapped anew; it is not used until that succeeds");
        }
        if !is_lost {
            state.set_aside.push(block);
        }
    }

    /// Frees blocks that were set aside and can be mapped anew by now; says how many.
    pub(super) fn take_up_again(&self, state: &mut State) -> usize {
        let mut taken = 0;
        while let Some(block) = state.set_aside.pop() {
            if let Err(refused) = self.arena.renew(block, &self.uffd) {
                self.set_aside(state, block, refused);
                break;
            }
            state.begin_anew(block);
            self.moves.blocks_returned.add(1);
            self.put_whole(state, block);
            taken += 1;
        }
        taken
    }

    /// Frees a block that is handed out whole, of which the slots are empty.
    pub(super) fn put_whole(&self, _state: &mut State, block: BlockId) {
        if let Err(error) = self.alloc.enter(CPU).free(block.frame(0), Order::BLOCK) {
            crate::seldom!(error, %error, "a bug: a block could not be freed");
        }
    }

    /// Gives the blocks back to the kernel that are whole again because the last of their frames has
    /// come home.
    pub(super) fn return_emptied(&self, state: &mut State) {
        if !std::mem::take(&mut state.came_home) {
            return;
        }
        self.take_up_again(state);
        self.alloc.drain_all();
        while let Some(block) = self.alloc.take_emptied() {
            self.free_block(state, block, Slots::PageTable);
        }
    }

    /// Gives the stash back to the kernel; says how many blocks there were.
    pub(crate) fn give_stash_back(&self) -> u64 {
        let mut state = self.lock();
        state.burst = 0;
        self.take_up_again(&mut state);
        self.release_stash(&mut state) as u64
    }

    /// Frees slabs that are empty, moves objects together where that is worth it or `in_any_case`, and gives
    /// the blocks back to the kernel that are whole then; says how many frames were freed. `goes_on` is asked
    /// before each piece of work.
    pub(crate) fn shrink_slabs(&self, in_any_case: bool, mut goes_on: impl FnMut() -> bool) -> u64 {
        let objects =
            self.objects.as_ref().map_or(0, |objects| objects.shrink(OUTSIDE, in_any_case, &mut goes_on));
        let frames = self.slabs.shrink(OUTSIDE, 0) + objects;
        self.alloc.drain_all();
        // Whoever else frees slabs' frames says nothing of blocks that are whole then. One at a time, because
        // there may be thousands, and faults wait for the lock.
        while goes_on()
            && let Some(block) = self.alloc.take_emptied()
        {
            self.free_block(&mut self.lock_after_faults(), block, Slots::PageTable);
        }
        frames
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
