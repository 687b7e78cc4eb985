//! Faults that the kernel did not let us resolve: they are tried again, at a bounded rate, by a thread of their own.
//!
//! ```text
//!   fault thread ──▶ refused pages ──▶ thread `retry`: pause, help the page, wake who waits for it
//!        ▲                                   │
//!        └──────── they fault again ◀────────┘
//! ```
//! What cannot be undone ends the guest through this thread, too: who finds out may hold the lock.
//! A page at home is helped: it is written to where it lies, which takes it out of the host's swap and out of pages
//! that the kernel has merged (KSM). That may wait for a disk, so neither the fault thread nor the lock has part in it.

use std::io;
use std::sync::MutexGuard;
use std::time::Duration;

use super::mover::{Move, Patience};
use super::split::Page;
use super::{GuestSpace, State};
use crate::core::sync::{Mutex, lock};
use crate::core::units::{FRAME_SIZE, GuestFrame};
use crate::space::bell::Bell;

/// Time before an attempt; doubled as long as a page is refused again that was tried before.
const PAUSE: Duration = Duration::from_millis(1);
/// At most so long.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// Why the thread is woken.
mod reason {
    use crate::space::bell::Reasons;

    /// A page was refused.
    pub(super) const REFUSED: Reasons = 1;
    /// It is to end.
    pub(super) const STOP: Reasons = 2;
    /// Memory of the guest is lost.
    pub(super) const FAILED: Reasons = 4;
}

/// Pages that somebody waits for and the kernel did not move.
#[derive(Debug, Default)]
pub(super) struct Retry {
    pages: Mutex<Vec<GuestFrame>>,
    /// Why the guest cannot go on.
    failed: Mutex<Option<String>>,
    bell: Bell,
}

impl Retry {
    /// Whoever waits for this page is woken when it has been tried again.
    pub(super) fn add(&self, page: GuestFrame) {
        let mut pages = lock(&self.pages);
        // One who was interrupted comes again.
        if !pages.contains(&page) {
            pages.push(page);
        }
        drop(pages);
        self.bell.ring(reason::REFUSED);
    }

    /// Memory of the guest is lost, for this reason: the thread ends with it, and so does the guest.
    pub(super) fn fail(&self, why: String) {
        lock(&self.failed).get_or_insert(why);
        self.bell.ring(reason::FAILED);
    }

    pub(super) fn stop(&self) {
        self.bell.ring(reason::STOP);
    }
}

impl GuestSpace {
    /// The loop of the thread that tries refused pages again. Ends at [`Self::stop`].
    ///
    /// # Errors
    /// Memory of the guest is lost.
    pub(crate) fn retry_refused(&self) -> io::Result<()> {
        let Retry { pages, failed, bell } = &self.retry;
        bell.hear_here();
        let (mut pause, mut tried) = (PAUSE, Vec::new());
        loop {
            if bell.wait() & reason::STOP != 0 {
                return Ok(());
            }
            if let Some(why) = lock(failed).take() {
                return Err(io::Error::other(why));
            }
            // A ring that comes meanwhile is for pages that are refused again, or new.
            std::thread::sleep(pause);
            let refused = std::mem::take(&mut *lock(pages));
            let is_again = refused.iter().any(|page| tried.contains(page));
            pause = if is_again { (2 * pause).min(LONGEST_PAUSE) } else { PAUSE };
            for &page in &refused {
                self.help(page);
                let _ = self.uffd.wake(self.address(page), FRAME_SIZE);
            }
            tried = refused;
        }
    }

    /// Brings a page in that is at home, though the kernel did not move it before. What is behind other pages is new at
    /// each attempt.
    fn help(&self, page: GuestFrame) {
        let mut state = self.lock();
        let Page::AtHome(home) = state.page(page) else { return };
        self.before_one_goes_in(&mut state, page.block(), home.block());
        drop(self.carry_in(state, Move { page, from: home, to: home }, Patience::Helps));
    }

    /// Brings one page in that is at home, its content in `it.to` if that is another frame. It is busy meanwhile, and the
    /// lock is not held. Wakes nobody if it stays at home.
    pub(super) fn carry_in<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        it: Move,
        patience: Patience,
    ) -> MutexGuard<'a, State> {
        if let Some(split) = state.split_mut(it.page.block()) {
            split.take(it.page.index());
        }
        drop(state);
        if it.from != it.to {
            self.arena.copy_frames(std::iter::once((it.from, it.to)));
            self.mover.copied_bytes.add(FRAME_SIZE as u64);
        }
        let done = self.transfer_in(&[it], patience);
        let mut state = self.lock();
        self.settle_in(&mut state, &[it], done);
        state
    }
}
