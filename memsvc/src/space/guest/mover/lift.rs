//! A huge page comes home, whole, so that its pages can go one by one.
//!
//! ```text
//!   Huge ──lift──▶ Split: live pages at home, holes free ──┬─▶ migrate: they go elsewhere (harvest)
//!          one move of 2 MiB                               └─▶ settle: they go back in (split in place)
//! ```
//! Before the first page goes, the kernel splits the huge page, and would take zero-filled pages away as it does
//! (6.12, `try_to_map_unused_to_zeropage`, mm/migrate.c): so holes carry the poison word then, and for that moment
//! live pages of zeroes do, too.

use std::time::Duration;

use super::super::split::{Page, SplitBlock};
use super::super::{BlockState, GuestSpace, State};
use super::{BATCH, Move, Patience};
use crate::core::alloc::{FrameAllocator, Full};
use crate::core::isolate::Isolated;
use crate::core::units::{
    BLOCK_SIZE, BlockId, FRAME_SIZE, FRAMES_PER_BLOCK, FrameId, GuestBlock, GuestFrame, Order,
};
use crate::space::uffd::Stopped;

/// How long a mover may take for one batch, or a block that it promotes, in milliseconds, before it is taken
/// for one that has failed.
const MOVER_PATIENCE: u32 = 1000;

impl GuestSpace {
    /// Takes a block that is to be emptied off the lists. A huge page with holes is in pieces then, at home.
    pub(super) fn bring_home<'a>(
        &self,
        alloc: &'a FrameAllocator,
        block: BlockId,
    ) -> Option<Isolated<'a, Full>> {
        let mut state = self.lock_after_faults();
        let lifted = self.lift(&mut state, block);
        let isolated = alloc.isolate(block);
        let Some(guest_block) = lifted else { return isolated };
        if isolated.is_some() {
            // All of it is going to be free, so nothing in it is poisoned.
            self.free_holes(&mut state, guest_block, Self::free_moved);
        } else {
            self.free_and_split(&mut state, guest_block, block);
            drop(state);
            self.settle(guest_block);
        }
        isolated
    }

    /// Makes single frames of a huge page with holes, where it is; the holes are free then.
    pub(crate) fn split_in_place(&self, block: BlockId) -> bool {
        let mut state = self.lock_after_faults();
        let Some(guest_block) = self.lift_all(&mut state, block) else { return false };
        self.alloc.drain_all();
        drop(state);
        self.settle(guest_block);
        true
    }

    /// Brings a huge page home, in pieces, of which the holes are free. [`Self::settle`] it. None as for
    /// [`Self::lift`].
    pub(in super::super) fn lift_all(&self, state: &mut State, block: BlockId) -> Option<GuestBlock> {
        let guest_block = self.lift(state, block)?;
        self.free_and_split(state, guest_block, block);
        Some(guest_block)
    }

    /// Frees the holes of a block that was lifted. The rest is in pieces then: it can leave page by page.
    fn free_and_split(&self, state: &mut State, guest_block: GuestBlock, block: BlockId) {
        self.free_holes(state, guest_block, Self::free_home);
        self.before_one_goes_in(state, guest_block, block);
    }

    /// Pages of a guest block that was lifted are going to go in by themselves, from the frames that they are in.
    pub(in super::super) fn before_one_goes_in(
        &self,
        state: &mut State,
        guest_block: GuestBlock,
        block: BlockId,
    ) {
        if state.in_pieces[block.0 as usize] {
            return;
        }
        let live: Vec<FrameId> = state.split_mut(guest_block).map_or_else(Vec::new, |split| {
            let home = |index| match split.page(index) {
                Page::AtHome(home) if home.block() == block => Some(home),
                _ => None,
            };
            split.at_home().filter_map(home).collect()
        });
        self.take_apart(state, block, &live);
    }

    /// Brings the huge page behind a guest block home. None, and nothing has changed, when it is no such
    /// block or somebody holds it.
    fn lift(&self, state: &mut State, block: BlockId) -> Option<GuestBlock> {
        let guest_block = GuestFrame(self.alloc.rmap(block.frame(0))).block();
        match state.blocks.get(guest_block.0 as usize) {
            Some(BlockState::Huge(behind)) if *behind == block => {}
            _ => return None,
        }
        if state.is_abandoned || !self.is_watched(state, guest_block) {
            return None;
        }
        let there = self.mapping.base() + guest_block.offset();
        let done = match self.uffd.move_pages(self.arena.block_address(block), there, BLOCK_SIZE) {
            Ok(()) => BLOCK_SIZE,
            Err(stopped @ Stopped { done, .. }) => {
                self.count_stopped(stopped);
                // Where the kernel has split the huge page itself (KSM), what does not move now may do so page by page.
                if done == 0 && self.pagemap.is_huge(there) {
                    return None;
                }
                done
            }
        };
        if let Err(error) = self.alloc.split(block.frame(0), Order::BLOCK) {
            crate::seldom!(error, %error, "a bug: a block behind guest RAM is not what its tag says");
        }
        let mut split = SplitBlock::absent();
        for index in 0..FRAMES_PER_BLOCK {
            let frame = block.frame(index);
            self.alloc.set_rmap(frame, guest_block.frame(index).0);
            let is_home = index < done / FRAME_SIZE;
            split.set(index, if is_home { Page::AtHome(frame) } else { Page::Here(frame) });
        }
        state.put(guest_block, BlockState::Split(Box::new(split)));
        Some(guest_block)
    }

    /// What the guest has given up of a block that was lifted is free.
    fn free_holes(
        &self,
        state: &mut State,
        guest_block: GuestBlock,
        free: fn(&Self, &mut State, Vec<FrameId>),
    ) {
        let holes = *state.ledger.block(guest_block);
        let mut freed = Vec::with_capacity(holes.len());
        for hole in holes.iter().map(|index| guest_block.frame(index)) {
            match state.page(hole) {
                Page::AtHome(home) => {
                    state.set_page(hole, Page::Absent);
                    freed.push(home);
                }
                // The huge page did not come home whole.
                _ => {
                    if let Err(error) = self.take_frame_home(state, hole) {
                        crate::seldom!(error, ?hole, %error, "a frame that the guest gave up could not be taken");
                    }
                }
            }
        }
        free(self, state, freed);
    }

    /// Brings all pages in that are at home, once no mover has any.
    pub(in super::super) fn bring_all_in(&self) {
        self.wait_for_movers();
        let blocks = self.lock().blocks.len() as u32;
        (0..blocks).for_each(|block| self.settle(GuestBlock(block)));
    }

    /// Waits until no mover has any page, which is in milliseconds.
    pub(in super::super) fn wait_for_movers(&self) {
        let is_moving = |block: &BlockState| matches!(block, BlockState::Split(split) if split.is_moving());
        for _ in 0..MOVER_PATIENCE {
            if !self.lock().blocks.iter().any(is_moving) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Brings pages in that are still at home, in one of these frames: nobody moves them elsewhere any more.
    pub(super) fn settle_frames(&self, frames: &[FrameId]) {
        let state = self.lock_after_faults();
        let block_of = |&frame: &FrameId| {
            let page = GuestFrame(self.alloc.rmap(frame));
            (state.page(page) == Page::AtHome(frame)).then(|| page.block())
        };
        let mut blocks: Vec<GuestBlock> = frames.iter().filter_map(block_of).collect();
        drop(state);
        blocks.sort_unstable();
        blocks.dedup();
        blocks.into_iter().for_each(|block| self.settle(block));
    }

    /// Brings the pages of a block in that are at home and go nowhere else.
    pub(crate) fn settle(&self, guest_block: GuestBlock) {
        let mut from = 0;
        loop {
            let mut state = self.lock_after_faults();
            let Some(split) = state.split_mut(guest_block) else { return };
            let at_home = split.at_home().filter(|&index| index >= from).take(BATCH);
            let stay = |index| match split.page(index) {
                Page::AtHome(frame) => Some(Move { page: guest_block.frame(index), from: frame, to: frame }),
                _ => None,
            };
            let moves: Vec<Move> = at_home.filter_map(stay).collect();
            let Some(last) = moves.last() else { return };
            from = last.page.index() + 1;
            moves.iter().for_each(|it| split.take(it.page.index()));
            drop(state);
            let done = self.transfer_in(&moves, Patience::Helps);
            self.settle_in(&mut self.lock_after_faults(), &moves, done);
            self.wake_stayed(&moves, done);
        }
    }
}
