//! Faults that the kernel did not let us resolve: they are tried again, at a bounded rate, by a thread of their own.
//!
//! ```text
//!   fault thread ──▶ refused pages ──▶ thread `retry`: pause, help the page, wake who waits for it
//!        ▲                                   │
//!        └──────── they fault again ◀────────┘
//! ```
//! A loss of guest memory ends the guest through this thread, too: the thread that finds out may hold the lock.
//! A page at home is helped: it is written to where it lies, which takes it out of the host's swap and out of pages
//! that the kernel has merged (KSM). That may wait for a disk, so neither the fault thread nor the lock has part in it.

use std::io;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::mover::{Move, Patience};
use super::split::Page;
use super::{GuestSpace, State};
use crate::core::sync::{Mutex, lock};
use crate::core::units::{FRAME_SIZE, GuestFrame};
use crate::space::bell::Bell;

/// Time before a page is tried again; doubled for a page that is refused again soon after.
const PAUSE: Duration = Duration::from_millis(1);
/// At most so long.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);
/// A page that was not refused for so long since it was tried is a new one.
const FORGOTTEN: Duration = Duration::from_secs(1);

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
    /// The guest ends.
    is_ending: AtomicBool,
    bell: Bell,
}

impl Retry {
    /// A thread that waits for this page is woken when it has been tried again.
    pub(super) fn add(&self, page: GuestFrame) {
        let mut pages = lock(&self.pages);
        // One who was interrupted comes again.
        if !pages.contains(&page) {
            pages.push(page);
        }
        drop(pages);
        self.bell.ring(reason::REFUSED);
    }

    #[cfg(test)]
    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Memory of the guest is lost, for this reason: the thread ends with it, and so does the guest.
    pub(super) fn fail(&self, why: String) {
        lock(&self.failed).get_or_insert(why);
        self.bell.ring(reason::FAILED);
    }

    /// The guest ends: whoever waits for a page that is refused once more is not to wait for it.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) {
        self.bell.ring(reason::STOP);
    }
}

/// When each page is tried again.
#[derive(Debug, Default)]
struct Turns {
    waiting: Vec<Turn>,
    /// Those that were tried last, with when that was.
    tried: Vec<Turn>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    page: GuestFrame,
    at: Instant,
    pause: Duration,
}

impl Turns {
    /// A page was refused.
    fn add(&mut self, page: GuestFrame, now: Instant) {
        self.tried.retain(|turn| now.saturating_duration_since(turn.at) < FORGOTTEN);
        let before =
            self.tried.iter().position(|turn| turn.page == page).map(|at| self.tried.swap_remove(at));
        let pause = before.map_or(PAUSE, |turn| (2 * turn.pause).min(LONGEST_PAUSE));
        if self.waiting.iter().all(|turn| turn.page != page) {
            self.waiting.push(Turn { page, at: now + pause, pause });
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(|turn| turn.at).min()
    }

    /// The pages of which the time has come; they are tried now.
    fn take_due(&mut self, now: Instant) -> Vec<GuestFrame> {
        let (due, waiting) = self.waiting.iter().partition(|turn| turn.at <= now);
        self.waiting = waiting;
        self.tried.extend(due.iter().map(|turn: &Turn| Turn { at: now, ..*turn }));
        due.into_iter().map(|turn| turn.page).collect()
    }
}

impl GuestSpace {
    /// The loop of the thread that tries refused pages again. Ends at [`Self::stop`].
    ///
    /// # Errors
    /// Memory of the guest is lost.
    pub(crate) fn retry_refused(&self) -> io::Result<()> {
        let Retry { pages, failed, is_ending, bell } = &self.retry;
        bell.hear_here();
        let mut turns = Turns::default();
        loop {
            let reasons = match turns.next_due() {
                Some(due) => bell.wait_for(due.saturating_duration_since(Instant::now())),
                None => bell.wait(),
            };
            if reasons & reason::STOP != 0 {
                return Ok(());
            }
            if let Some(why) = lock(failed).take() {
                return Err(io::Error::other(why));
            }
            let refused = std::mem::take(&mut *lock(pages));
            if is_ending.load(Ordering::Relaxed) && !refused.is_empty() {
                self.let_go();
                continue;
            }
            refused.into_iter().for_each(|page| turns.add(page, Instant::now()));
            for page in turns.take_due(Instant::now()) {
                self.help(page);
                let _ = self.uffd.wake(self.address(page), FRAME_SIZE);
            }
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
            self.forget_swapped(it.to);
            self.arena.copy_frames(std::iter::once((it.from, it.to)));
            self.mover.copied_bytes.add(FRAME_SIZE as u64);
        }
        let done = self.transfer_in(&[it], patience);
        let mut state = self.lock();
        self.settle_in(&mut state, &[it], done);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_refused_again_waits_longer_and_holds_up_no_other() {
        let (mut turns, mut now) = (Turns::default(), Instant::now());
        let (stubborn, new) = (GuestFrame(1), GuestFrame(2));
        for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
            turns.add(stubborn, now);
            turns.add(stubborn, now);
            now += Duration::from_millis(pause);
            assert_eq!(turns.next_due(), Some(now));
            assert!(turns.take_due(now - Duration::from_micros(1)).is_empty());
            assert_eq!(turns.take_due(now), [stubborn]);
        }
        turns.add(stubborn, now);
        turns.add(new, now);
        assert_eq!(turns.take_due(now + PAUSE), [new]);
        assert_eq!(turns.take_due(now + LONGEST_PAUSE), [stubborn]);
        // It was not refused for long: it is a new one.
        turns.add(stubborn, now + LONGEST_PAUSE + FORGOTTEN);
        assert_eq!(turns.next_due(), Some(now + LONGEST_PAUSE + FORGOTTEN + PAUSE));
    }
}
