//! Pages go into other frames, batch by batch.
//!
//! ```text
//!   leave: locked      what is in guest space goes home; all of it is busy
//!   copy: not locked   from home slot to home slot, streaming
//!   arrive: locked     the copies move in; each frame is what the other was; the old ones are freed
//! ```

use super::super::split::{Page, Target};
use super::super::{BlockState, GuestSpace, State};
use super::{BATCH, Done, Move, Patience};
use crate::core::units::{FRAME_SIZE, FrameId, GuestFrame};

/// A page of a batch, with its position in it.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    it: Move,
    position: usize,
}

impl GuestSpace {
    /// Moves what is in each frame of `from` into that of `to`; by position, whether it was done. Those of
    /// `to` are the caller's still where it was not.
    pub(crate) fn migrate(&self, from: &[FrameId], to: &[FrameId]) -> Vec<bool> {
        let moves = self.plan(from, to);
        let mut done = Vec::with_capacity(from.len());
        for moves in moves.chunks(BATCH) {
            let bits = self.migrate_batch(moves);
            done.extend((0..moves.len()).map(|at| bits >> at & 1 == 1));
        }
        done
    }

    /// Frames of a block are ours now, and what is copied into them will leave it.
    pub(in super::super) fn prepare(&self, frames: &[FrameId]) {
        let Some(block) = frames.first().map(|frame| frame.block()) else { return };
        if self.lock_after_faults().in_pieces[block.0 as usize] {
            return;
        }
        // Memory comes behind a block that has none, so this is done without the lock. Who takes a frame of this block for
        // the first time at this very moment costs it the memory of ours, no more.
        for &frame in frames {
            self.forget_swapped(frame);
            self.arena.poison_frame(frame);
        }
        self.take_apart(&mut self.lock_after_faults(), block, &[]);
    }

    /// Says where pages that are at home already are to go, so that who touches one need not wait for us.
    fn plan(&self, from: &[FrameId], to: &[FrameId]) -> Vec<Move> {
        let mut state = self.lock_after_faults();
        let mut plan = |(&from, &to): (&FrameId, &FrameId)| {
            let page = GuestFrame(self.alloc.rmap(from));
            if let Some(split) = state.split_mut(page.block())
                && split.page(page.index()) == Page::AtHome(from)
            {
                split.set_target(page.index(), Target::Frame(to));
            }
            Move { page, from, to }
        };
        from.iter().zip(to).map(&mut plan).collect()
    }

    fn migrate_batch(&self, moves: &[Move]) -> Done {
        let (wanted, reached, poisoned) = self.leave(moves);
        let batch: Vec<Move> = wanted.iter().map(|wanted| wanted.it).collect();
        let forgotten: Vec<bool> = batch.iter().map(|it| self.forget_swapped(it.to)).collect();
        // The first stands for all: each look waits for memory that nobody has read of late.
        // What lay there in a slab meanwhile has taken the word's place.
        if let (Some(it), Some(false)) = (batch.first(), forgotten.first())
            && poisoned & 1 == 1
            && self.objects.is_none()
            && !self.arena.is_poisoned(it.to)
        {
            self.moves.poison_lost.add(1);
        }
        self.arena.copy_frames(batch.iter().map(|it| (it.from, it.to)));
        self.mover.copied_bytes.add((wanted.len() * FRAME_SIZE) as u64);
        let arrived = self.transfer_in(&batch, Patience::Helps);
        self.settle_in(&mut self.lock_after_faults(), &batch, arrived);
        self.wake_stayed(&batch, arrived);
        let arrived = wanted.iter().enumerate().map(|(at, wanted)| (arrived >> at & 1) << wanted.position);
        reached | arrived.fold(0, |all, bit| all | bit)
    }

    /// Takes the pages of a batch that are still there and can be moved. Also says which the fault handler
    /// has moved, and which of the frames they go to carry the poison word.
    fn leave(&self, moves: &[Move]) -> (Vec<Wanted>, Done, Done) {
        let (mut wanted, mut here) = (Vec::with_capacity(moves.len()), Vec::new());
        let (mut reached, mut poisoned) = (0, 0);
        let mut state = self.lock_after_faults();
        // The fault handler may be bringing pages in at this moment, to where they are to go: then it says so. We have none
        // ourselves while we wait.
        let is_carried = |state: &State, page: GuestFrame| match state.blocks.get(page.block().0 as usize) {
            Some(BlockState::Split(split)) => {
                split.page(page.index()) == Page::Busy && split.target(page.index()) != Target::Same
            }
            _ => false,
        };
        while !state.is_abandoned
            && let Some(it) = moves.iter().find(|it| is_carried(&state, it.page))
        {
            state = self.still(state, it.page);
        }
        if state.is_abandoned {
            return (wanted, reached, poisoned);
        }
        for (position, &it) in moves.iter().enumerate() {
            let index = it.page.index();
            let Some(split) = state.split_mut(it.page.block()) else { continue };
            let target = split.target(index);
            if target == Target::Reached(it.to) {
                reached |= 1 << position;
            }
            if target == Target::Reached(it.to) || target == Target::Frame(it.to) {
                split.set_target(index, Target::Same);
            }
            match split.page(index) {
                Page::AtHome(frame) if frame == it.from => {}
                Page::Here(frame) if frame == it.from => here.push(it),
                // It was given up meanwhile, or moved.
                _ => continue,
            }
            split.take(index);
            poisoned |= Done::from(state.poisoned.remove(it.to)) << wanted.len();
            wanted.push(Wanted { it, position });
        }
        drop(state);
        if !here.is_empty() {
            let left = self.transfer_home(&here);
            let stayed = here.iter().enumerate().filter(|(at, _)| left >> at & 1 == 0).map(|(_, it)| *it);
            let stayed: Vec<Move> = stayed.collect();
            if !stayed.is_empty() {
                self.put_back(&stayed);
                poisoned = 0;
                wanted.retain(|wanted| stayed.iter().all(|it| it.page != wanted.it.page));
            }
        }
        (wanted, reached, poisoned)
    }

    /// These pages could not leave guest space: they are there as before.
    fn put_back(&self, stayed: &[Move]) {
        let mut state = self.lock_after_faults();
        for it in stayed {
            state.set_page(it.page, Page::Here(it.from));
            let _ = self.uffd.wake(self.address(it.page), FRAME_SIZE);
        }
        self.moved(&mut state, |page| stayed.iter().any(|it| it.page == page));
    }
}
