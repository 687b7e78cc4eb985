//! A split block gets one whole block again.
//!
//! ```text
//!   all of it busy   pages go home in runs, and are copied into the whole block, batch by batch
//!   locked           the whole block, with its page table entry, takes the place of the split one (mremap);
//!                    the old frames are free; who waits is woken
//! ```
//! A huge page cannot be moved in where there was a page table once, so it comes as a mapping. Nothing is
//! missing in it, so nobody can fault before it is registered again. Such a block may be a mapping (VMA) of
//! its own in the middle of guest RAM, of which a process may have `vm.max_map_count`: half is ours to use.

use std::io;

use super::super::split::Page;
use super::super::{BlockState, GuestSpace, State};
use super::{BATCH, Move};
use crate::core::bitmap::BlockBitmap;
use crate::core::units::{BLOCK_SIZE, BlockId, FRAME_SIZE, FRAMES_PER_BLOCK, FrameId, GuestBlock};
use crate::space::uffd::Watch;

/// Mappings that a promoted block may add: itself, and what it cuts off.
const MAPPINGS: usize = 2;

/// Why a block was not promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotPromoted {
    /// It is not split, not filled any more, part of it is given up, or another mover is at it.
    NotNow,
    /// The process has as many mappings as it may.
    TooManyMappings,
    /// A page could not be taken, or the kernel refused the mapping; all of it is as before.
    Failed,
}

/// A block that is being promoted: all of it is busy.
#[derive(Debug)]
struct Promotion {
    guest_block: GuestBlock,
    /// Where its pages were.
    before: Box<[Page; FRAMES_PER_BLOCK]>,
    /// Pages that have come home since.
    came_home: BlockBitmap,
}

impl GuestSpace {
    /// Puts `whole` behind a split guest block, with all that is in it. `whole` is handed out, as
    /// [`PageType::Stash`](crate::core::page_type::PageType::Stash), and at home, one huge page of zeroes; it
    /// is the caller's still if this fails, and all else is as before. Blocks that are empty now are not given
    /// back yet.
    pub(crate) fn promote(&self, guest_block: GuestBlock, whole: BlockId) -> Result<(), NotPromoted> {
        let mut promotion = self.begin_promotion(guest_block)?;
        for first in (0..FRAMES_PER_BLOCK).step_by(BATCH) {
            if !self.promote_batch(&mut promotion, first, whole) {
                self.undo_promotion(&promotion);
                return Err(NotPromoted::Failed);
            }
        }
        let mut state = self.lock_after_faults();
        if let Err(error) = self.take_over(&mut state, guest_block, whole) {
            crate::seldom!(warn, ?guest_block, %error, "a block could not be mapped whole");
            drop(state);
            self.undo_promotion(&promotion);
            return Err(NotPromoted::Failed);
        }
        for frame in promotion.before.iter().filter_map(frame_of) {
            self.free_frame(&mut state, frame);
        }
        self.mover.promoted_blocks.add(1);
        self.promotion_over(&mut state, guest_block);
        Ok(())
    }

    /// What came home goes in again.
    fn undo_promotion(&self, promotion: &Promotion) {
        self.mover.given_up.add(1);
        let mut state = self.lock_after_faults();
        for (index, &before) in promotion.before.iter().enumerate() {
            let page = match before {
                Page::Here(frame) if promotion.came_home.contains(index) => Page::AtHome(frame),
                page => page,
            };
            state.set_page(promotion.guest_block.frame(index), page);
        }
        self.promotion_over(&mut state, promotion.guest_block);
        drop(state);
        self.settle(promotion.guest_block);
    }

    fn begin_promotion(&self, guest_block: GuestBlock) -> Result<Promotion, NotPromoted> {
        let mut state = self.lock_after_faults();
        if !self.has_room_for_mapping(&state, guest_block) {
            return Err(NotPromoted::TooManyMappings);
        }
        // It may have been given up, in part, since it was chosen.
        if state.is_abandoned || !state.is_filled(guest_block) {
            return Err(NotPromoted::NotNow);
        }
        let split = state.split_mut(guest_block).filter(|split| split.is_left_alone());
        let Some(split) = split else { return Err(NotPromoted::NotNow) };
        let before = Box::new(std::array::from_fn(|index| split.page(index)));
        (0..FRAMES_PER_BLOCK).for_each(|index| split.take(index));
        Ok(Promotion { guest_block, before, came_home: BlockBitmap::EMPTY })
    }

    /// Copies a batch. False when a page of it cannot come home.
    fn promote_batch(&self, promotion: &mut Promotion, first: usize, whole: BlockId) -> bool {
        let pages = first..first + BATCH;
        let here = |index: usize| match promotion.before[index] {
            Page::Here(from) => Some(Move { page: promotion.guest_block.frame(index), from, to: from }),
            _ => None,
        };
        let here: Vec<Move> = pages.clone().filter_map(here).collect();
        let left = self.transfer_home(&here);
        let left = here.iter().enumerate().filter(|(at, _)| left >> at & 1 == 1);
        left.clone().for_each(|(_, it)| _ = promotion.came_home.insert(it.page.index()));
        if left.count() < here.len() {
            return false;
        }
        let of = |index: usize| Some((frame_of(&promotion.before[index])?, whole.frame(index)));
        let copies = pages.filter_map(of);
        self.mover.copied_bytes.add((copies.clone().count() * FRAME_SIZE) as u64);
        self.arena.copy_frames(copies);
        true
    }

    /// Puts a whole block, which is at home, in the place of all that is mapped at a guest block.
    pub(in super::super) fn take_over(
        &self,
        state: &mut State,
        guest_block: GuestBlock,
        whole: BlockId,
    ) -> io::Result<()> {
        if let Err(error) = self.mapping.take_over(guest_block.offset(), self.arena.block_address(whole)) {
            self.put_nothing_back(guest_block);
            return Err(error);
        }
        state.mapped.insert(guest_block);
        if let Err(error) = self.watch(guest_block) {
            // All of it is there; nothing may be taken from it before it is watched again.
            crate::seldom!(error, ?guest_block, %error, "a block of guest RAM is not watched any more");
            state.unwatched.insert(guest_block);
        }
        self.tag_guest(state, guest_block, whole);
        state.put(guest_block, BlockState::Huge(whole));
        Ok(())
    }
}

impl GuestSpace {
    /// The kernel did not map a whole block over one behind which nothing was. It may have unmapped that one first. A block
    /// with nothing behind it takes its place again; where that fails, or somebody has touched it before it was watched, the
    /// guest has lost memory and is ended.
    fn put_nothing_back(&self, guest_block: GuestBlock) {
        if self.mapping.is_mapped(guest_block.offset()) {
            return;
        }
        let restored = self.mapping.renew(guest_block.offset()).and_then(|()| self.watch(guest_block));
        let address = self.mapping.base() + guest_block.offset();
        match restored {
            Err(error) => self.retry.fail(format!(
                "guest RAM at block {} could not be mapped again ({error}): raise vm.max_map_count and memory limits of \
                 the host",
                guest_block.0
            )),
            Ok(()) if !self.pagemap.is_range_absent(address, BLOCK_SIZE) => self.retry.fail(format!(
                "the guest touched block {} of its RAM while it was not mapped, and what was there is lost: raise \
                 vm.max_map_count and memory limits of the host",
                guest_block.0
            )),
            Ok(()) => {}
        }
    }

    /// True when this block may become a mapping of its own.
    pub(in super::super) fn has_room_for_mapping(&self, state: &State, guest_block: GuestBlock) -> bool {
        state.mapped.contains(&guest_block) || (state.mapped.len() + 1) * MAPPINGS <= self.max_mappings / 2
    }

    /// Has touches of absent pages of a block wait for us, as everywhere in guest space.
    fn watch(&self, guest_block: GuestBlock) -> io::Result<()> {
        let address = self.mapping.base() + guest_block.offset();
        self.uffd.register(address, BLOCK_SIZE, Watch::Missing)
    }

    /// True when the block is watched, at the second attempt at the latest.
    pub(in super::super) fn is_watched(&self, state: &mut State, guest_block: GuestBlock) -> bool {
        if state.unwatched.contains(&guest_block) && self.watch(guest_block).is_ok() {
            state.unwatched.remove(&guest_block);
        }
        !state.unwatched.contains(&guest_block)
    }

    /// A promotion has ended: nobody waits for it any more.
    fn promotion_over(&self, state: &mut State, guest_block: GuestBlock) {
        let _ = self.uffd.wake(self.mapping.base() + guest_block.offset(), BLOCK_SIZE);
        self.moved(state, |page| page.block() == guest_block);
    }
}

fn frame_of(page: &Page) -> Option<FrameId> {
    match page {
        Page::Here(frame) | Page::AtHome(frame) => Some(*frame),
        Page::Absent | Page::Busy => None,
    }
}
