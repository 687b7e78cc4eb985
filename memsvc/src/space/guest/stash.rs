//! The stash: zeroed blocks made ahead of a burst of faults, given back when it is over.

use std::time::Duration;

use super::free::Slots;
use super::{CPU, GuestSpace, wanted};
use crate::core::page_type::PageType;
use crate::core::request::{Flags, Request};
use crate::core::units::{BLOCK_SIZE, BlockId, Order};

/// Bound of the stash. Enough for the refiller to stay ahead of a guest that touches memory
/// linearly; what idles goes back after [`STASH_IDLE`].
pub(crate) const STASH_MAX: usize = 8;
/// A stash that no fault has used for so long goes back to the kernel.
const STASH_IDLE: Duration = Duration::from_millis(500);

/// One block for the stash.
const STASH_BLOCK: Request = Request::new(Order::BLOCK, PageType::Stash).flags(Flags::NOWAIT);

/// Why the refiller is woken.
pub(super) mod reason {
    use crate::space::bell::Reasons;

    /// A block of the stash was used.
    pub(crate) const USED: Reasons = 1;
    /// Free memory is low: the stash is wanted back, and slabs that are empty.
    pub(crate) const LOW: Reasons = 2;
    /// It is to end.
    pub(crate) const STOP: Reasons = 4;
}

/// What became of an attempt to have a zeroed block.
pub(super) enum Made {
    /// It is in the stash.
    Block,
    /// The host has no huge page. The block of the attempt, if there was one, is the caller's: its
    /// slots may have a page table now, good for single frames only until it is mapped anew.
    NoHugePage(Option<BlockId>),
}

impl GuestSpace {
    /// True when the control groups of this process have room for one more block of memory; else single frames have to
    /// do, of which the guest asks only for those that it touches.
    pub(super) fn may_have_block(&self) -> bool {
        let has_room = self.arena.has_room(BLOCK_SIZE);
        if !has_room {
            self.give_stash_back();
            self.faults.limited.add(1);
            if crate::seldom::is_due(self.faults.limited.get()) {
                tracing::warn!(
                    times = self.faults.limited.get(),
                    "memory.max or memory.high of the monitor's control group leaves no room for a huge page: single pages are used"
                );
            }
        }
        has_room
    }

    /// Takes a free block, has the kernel put zeroed memory behind it and adds it to the stash.
    /// Waits for the zeroing, without the lock.
    pub(super) fn make_zeroed_block(&self) -> Made {
        if !self.may_have_block() {
            return Made::NoHugePage(None);
        }
        let block = {
            let mut state = self.lock();
            if state.huge.skip() {
                return Made::NoHugePage(None);
            }
            match self.alloc.enter(CPU).alloc(&STASH_BLOCK) {
                Ok(head) => {
                    state.begin_anew(head.block());
                    head.block()
                }
                Err(_) => {
                    self.compaction.ring(wanted::BLOCK);
                    return Made::NoHugePage(None);
                }
            }
        };
        let huge = self.arena.populate(block, &self.pagemap);
        let mut state = self.lock();
        if huge {
            state.huge.succeeded();
            state.stash.push(block);
            return Made::Block;
        }
        self.faults.no_huge_page.add(1);
        state.huge.failed();
        Made::NoHugePage(Some(block))
    }

    /// The refiller's loop: keeps the stash ahead of a burst of faults, and gives it back when idle or when
    /// memory is low. Ends at [`Self::stop`].
    pub(crate) fn keep_stash(&self) {
        self.refill.hear_here();
        let mut reasons = self.refill.take();
        loop {
            let low = reasons & reason::LOW != 0;
            if low {
                self.slabs.shrink(CPU, 0);
            }
            if reasons & reason::STOP != 0 {
                return;
            }
            let mut state = self.lock();
            let idle = state.last_fault.elapsed() >= STASH_IDLE;
            if idle || low {
                state.burst = 0;
                self.take_up_again(&mut state);
                self.release_stash(&mut state);
            }
            let wanted = state.burst.min(STASH_MAX).min(state.census.absent.max(1));
            // Ahead of faults nothing is taken that is not to spare; a fault itself may have all above the min
            // watermark.
            if state.stash.len() < wanted && self.alloc.has_block_to_spare() {
                drop(state);
                match self.make_zeroed_block() {
                    Made::Block => {
                        reasons = self.refill.take();
                        continue;
                    }
                    Made::NoHugePage(None) => {}
                    Made::NoHugePage(Some(block)) => {
                        self.free_block(&mut self.lock(), block, Slots::PageTable)
                    }
                }
            } else {
                drop(state);
            }
            reasons = if idle { self.refill.wait() } else { self.refill.wait_for(STASH_IDLE) };
        }
    }

    /// Ends the refiller, the thread that waits for memory, and the one that tries refused pages again.
    pub(crate) fn stop(&self) {
        self.refill.ring(reason::STOP);
        self.shortage.stop();
        self.retry.stop();
    }
}
