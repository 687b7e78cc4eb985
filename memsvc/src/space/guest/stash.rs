//! The stash: zeroed blocks made ahead of a burst of faults, given back when it is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, PoisonError};
use std::time::Duration;

use super::free::Slots;
use super::{CPU, GuestSpace};
use crate::core::page_type::PageType;
use crate::core::request::{Flags, Request};
use crate::core::units::{BlockId, Order};

/// Bound of the stash. Enough for the refiller to stay ahead of a guest that touches memory
/// linearly; what idles goes back after [`STASH_IDLE`].
pub(crate) const STASH_MAX: usize = 8;
/// A stash that no fault has used for so long goes back to the kernel.
const STASH_IDLE: Duration = Duration::from_millis(500);

/// One block for the stash.
const STASH_BLOCK: Request = Request::new(Order::BLOCK, PageType::Stash).flags(Flags::NOWAIT);

/// What wakes the refiller.
#[derive(Debug, Default)]
pub(super) struct Refill {
    changed: Condvar,
    /// Free memory is low: the stash is wanted back.
    give_back: AtomicBool,
}

impl Refill {
    /// For the allocator, which is called under guest space's lock: so the refiller cannot miss it
    /// between looking and waiting.
    pub(super) fn give_back(&self) {
        self.give_back.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// A fault took a block of the stash.
    pub(super) fn used(&self) {
        self.changed.notify_one();
    }
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
    /// Takes a free block, has the kernel put zeroed memory behind it and adds it to the stash.
    /// Waits for the zeroing, without the lock.
    pub(super) fn make_zeroed_block(&self) -> Made {
        let block = {
            let mut state = self.lock();
            if state.huge.skip() {
                return Made::NoHugePage(None);
            }
            match self.alloc.enter(CPU).alloc(&STASH_BLOCK) {
                Ok(head) => head.block(),
                Err(_) => return Made::NoHugePage(None),
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

    /// The refiller's loop: keeps the stash ahead of a burst of faults, and gives it back when idle.
    /// Ends at [`Self::stop`].
    pub(crate) fn keep_stash(&self) {
        loop {
            let mut state = self.lock();
            if state.stopping {
                return;
            }
            let idle = state.last_fault.elapsed() >= STASH_IDLE;
            if idle || self.refill.give_back.swap(false, Ordering::Relaxed) {
                state.burst = 0;
                self.release_stash(&mut state);
            }
            let wanted = state.burst.min(STASH_MAX).min(state.absent);
            if state.stash.len() < wanted {
                drop(state);
                let made = self.make_zeroed_block();
                state = self.lock();
                match made {
                    Made::Block => continue,
                    Made::NoHugePage(None) => {}
                    Made::NoHugePage(Some(block)) => self.free_block(&mut state, block, Slots::PageTable),
                }
                if state.stopping {
                    return;
                }
            }
            if idle && state.burst == 0 {
                drop(self.refill.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
            } else {
                drop(
                    self.refill
                        .changed
                        .wait_timeout(state, STASH_IDLE)
                        .unwrap_or_else(PoisonError::into_inner),
                );
            }
        }
    }

    /// Ends the refiller.
    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.refill.changed.notify_all();
    }
}
