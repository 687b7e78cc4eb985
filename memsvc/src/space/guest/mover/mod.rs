//! The mover: what is in frames goes into others while the guest runs, and no byte changes.
//!
//! | file | what |
//! | --- | --- |
//! | `lift` | a huge page comes home, so that its pages can go one by one |
//! | `migrate` | pages go into other frames |
//! | `promote` | a split block gets one whole block again |
//! | `run` | what compaction asks of us |
//! | `stall` | who waits for a page on the move |
//!
//! A mover takes pages in batches: they are `Busy` then, and nobody else's (`split.rs`). It copies without
//! the lock of guest space, so two movers copy at the same time and faults elsewhere are not held up. Who
//! touches a busy page waits until it arrives; that is at most the time of one batch, or for a promotion of
//! one block. What waits its turn at home is brought in by the fault handler at once, to where it was to go.
//!
//! What the kernel refuses to move stays where it is; where that is its home slot, the next touch brings it
//! in. So a mover may end after any batch, and every page is readable. A panic in one is a bug of ours, and
//! ends the guest, as one in the fault handler does.

mod lift;
mod migrate;
mod promote;
mod run;
mod stall;

#[cfg(test)]
#[allow(clippy::unwrap_used, unsafe_code)] // plays the guest
mod tests;

use std::sync::{MutexGuard, PoisonError};

use rustix::io::Errno;

use super::split::{Page, SplitBlock};
use super::{BlockState, GuestSpace, State};
use crate::core::compact::is_worth_promoting;
use crate::core::units::{BLOCK_SIZE, FRAME_SIZE, FrameId, GuestBlock, GuestFrame};
use crate::space::uffd::{Stopped, Wake};

pub(crate) use promote::NotPromoted;
pub(super) use stall::{Stalls, Waiter};

/// Pages that a mover takes at once: some 15 µs of copying.
const BATCH: usize = 64;

/// A page on the move. The two frames are the same when it only comes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) page: GuestFrame,
    pub(super) from: FrameId,
    pub(super) to: FrameId,
}

/// The patience with a page that the kernel says is busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It is tried a few times more, at once. Who waits for pages is woken by the caller.
    None,
    /// It is written to where it lies, and tried again a few times. That may wait for the host's swap: not for a thread
    /// that others wait for.
    Helps,
}

impl Patience {
    /// How often pages of one batch that somebody holds are tried again, all together.
    fn attempts(self) -> u32 {
        match self {
            Patience::None => 4,
            Patience::Helps => BATCH as u32,
        }
    }

    /// Threads that wait for the fault thread wake when the state is settled.
    fn wake(self) -> Wake {
        match self {
            Patience::None => Wake::Later,
            Patience::Helps => Wake::Now,
        }
    }

    fn pause(self) {
        match self {
            Patience::None => std::hint::spin_loop(),
            Patience::Helps => std::thread::yield_now(),
        }
    }
}

/// Which of a batch: bit by position.
type Done = u64;

const _: () = assert!(BATCH == Done::BITS as usize);

impl State {
    /// The split block in which a page lies. None if it is in another state.
    pub(super) fn split_mut(&mut self, block: GuestBlock) -> Option<&mut SplitBlock> {
        match self.blocks.get_mut(block.0 as usize)? {
            BlockState::Split(split) => Some(split),
            _ => None,
        }
    }

    /// True when the guest has given the page up, by balloon or report, and not touched it since.
    pub(super) fn is_given_up(&self, frame: GuestFrame) -> bool {
        let is_reported = match self.blocks.get(frame.block().0 as usize) {
            Some(BlockState::Split(split)) => split.reported().contains(frame.index()),
            _ => false,
        };
        is_reported || self.ledger.contains(frame)
    }

    /// True when a block is split, and worth a whole one.
    pub(super) fn is_filled(&self, block: GuestBlock) -> bool {
        match self.blocks.get(block.0 as usize) {
            Some(BlockState::Split(split)) => {
                is_worth_promoting(split.len(), self.ledger.block(block).len() + split.reported().len())
            }
            _ => false,
        }
    }

    /// Where a page of a split block is.
    pub(super) fn page(&self, frame: GuestFrame) -> Page {
        match self.blocks.get(frame.block().0 as usize) {
            Some(BlockState::Split(split)) => split.page(frame.index()),
            _ => Page::Absent,
        }
    }

    pub(super) fn set_page(&mut self, frame: GuestFrame, page: Page) {
        if let Some(split) = self.split_mut(frame.block()) {
            split.set(frame.index(), page);
        }
    }

    fn is_busy(&self, frame: GuestFrame) -> bool {
        self.page(frame) == Page::Busy
    }
}

impl GuestSpace {
    /// Waits until no mover has the page: microseconds.
    pub(super) fn still<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        frame: GuestFrame,
    ) -> MutexGuard<'a, State> {
        while state.is_busy(frame) && !state.is_abandoned {
            state = self.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// The lock, for a mover: whoever resolves a fault goes first.
    pub(super) fn lock_after_faults(&self) -> MutexGuard<'_, State> {
        while self.stalls.is_anybody_here() {
            std::thread::yield_now();
        }
        self.lock()
    }

    /// Moves what is behind the pages from one address to the other, in runs where both follow each other; a
    /// block may be a mapping of its own, which no move may cross.
    fn transfer(&self, moves: &[Move], patience: Patience, way: impl Fn(&Move) -> (usize, usize)) -> Done {
        let (mut done, mut first, mut attempts, mut is_helped) = (0, 0, 0, false);
        while first < moves.len() {
            let (to, from) = way(&moves[first]);
            let is_same_block = |address: usize, step| address / BLOCK_SIZE == (address + step) / BLOCK_SIZE;
            let follows = |(at, step): (&Move, usize)| {
                way(at) == (to + step, from + step) && is_same_block(to, step) && is_same_block(from, step)
            };
            let run =
                moves[first..].iter().zip((0..).step_by(FRAME_SIZE)).take_while(|it| follows(*it)).count();
            let result = self.uffd.move_and(patience.wake(), to, from, run * FRAME_SIZE);
            let moved = result.map_or_else(|stopped| stopped.done / FRAME_SIZE, |()| run);
            done |= Done::MAX.checked_shr((BATCH - moved) as u32).unwrap_or(0) << first;
            first += moved;
            is_helped &= moved == 0;
            let Err(stopped) = result else { continue };
            if stopped.error == Errno::BUSY && patience == Patience::Helps && !is_helped {
                is_helped = true;
                self.make_ours(way(&moves[first]).1);
                continue;
            }
            // Another move out of the same huge page holds it for a moment, while it is split.
            if stopped.error == Errno::BUSY && attempts < patience.attempts() {
                attempts += 1;
                patience.pause();
                continue;
            }
            self.count_stopped(stopped);
            first += 1;
            is_helped = false;
        }
        done
    }

    /// Writes to a page of guest space or arena that no CPU can reach but ours, and changes nothing in it. The kernel
    /// shares it with nobody then (KSM), and has it in memory.
    fn make_ours(&self, address: usize) {
        // A touch of nothing would wait for the fault handler.
        if self.pagemap.is_absent(address) {
            return;
        }
        let helped = match address.checked_sub(self.mapping.base()) {
            Some(offset) if offset < self.mapping.len() => self.mapping.populate(offset, FRAME_SIZE),
            _ => self.arena.populate_slot(address),
        };
        if let Err(error) = helped {
            tracing::debug!(address, %error, "a page that does not move cannot be written to either");
        }
    }

    /// Where the home slots of the block are in which the frame behind a page is, for tests.
    #[cfg(test)]
    fn home_of(&self, page: u32) -> usize {
        let frame = match self.lock().page(GuestFrame(page)) {
            Page::Here(frame) | Page::AtHome(frame) => frame,
            page => panic!("{page:?} has no frame"),
        };
        self.arena.block_address(frame.block())
    }

    fn count_stopped(&self, stopped: Stopped) {
        if stopped.error == Errno::BUSY { &self.mover.pinned } else { &self.mover.failed }.add(1);
        self.count_refused(stopped.error);
    }

    /// The kernel refused a move for this reason.
    pub(super) fn count_refused(&self, error: Errno) {
        let moves = &self.moves;
        match error {
            Errno::BUSY => &moves.refused_busy,
            Errno::EXIST => &moves.refused_exists,
            Errno::NOENT => &moves.refused_missing,
            Errno::NOMEM => &moves.refused_memory,
            _ => &moves.refused_other,
        }
        .add(1);
    }

    /// Moves busy pages home, each into the slot of the frame that it is in. Needs no lock: a busy page is
    /// nobody else's.
    fn transfer_home(&self, moves: &[Move]) -> Done {
        self.transfer(moves, Patience::Helps, |it| (self.arena.frame_address(it.from), self.address(it.page)))
    }

    /// Moves busy pages of which the content is at `to` into guest space. Needs no lock either.
    pub(super) fn transfer_in(&self, moves: &[Move], patience: Patience) -> Done {
        self.transfer(moves, patience, |it| (self.address(it.page), self.arena.frame_address(it.to)))
    }

    /// Says where pages are that were to come in. Those that did not are at home in `from` as before, and
    /// their `to` is still the caller's, who wakes those that wait for them.
    pub(super) fn settle_in(&self, state: &mut State, moves: &[Move], done: Done) {
        let arrived = |at: usize| done >> at & 1 == 1;
        let changed = moves.iter().enumerate().filter(|(at, it)| arrived(*at) && it.from != it.to);
        self.alloc.exchange(changed.clone().map(|(_, it)| (it.from, it.to)));
        self.mover.migrated_frames.add(changed.clone().count() as u64);
        self.free_moved(state, changed.map(|(_, it)| it.from));
        for (at, it) in moves.iter().enumerate() {
            if arrived(at) {
                state.set_page(it.page, Page::Here(it.to));
            } else {
                state.set_page(it.page, Page::AtHome(it.from));
            }
        }
        self.moved(state, |page| moves.iter().any(|it| it.page == page));
    }

    /// No mover has these pages any more: whoever waits for one looks again.
    pub(super) fn moved(&self, state: &mut State, is_moved: impl Fn(GuestFrame) -> bool) {
        self.stalls.over(state, is_moved);
        self.settled.notify_all();
    }

    /// Wakes those that wait for pages which were to come in and did not: the next touch brings them in.
    fn wake_stayed(&self, moves: &[Move], done: Done) {
        for (_, it) in moves.iter().enumerate().filter(|(at, _)| done >> at & 1 == 0) {
            let _ = self.uffd.wake(self.address(it.page), FRAME_SIZE);
        }
    }
}
