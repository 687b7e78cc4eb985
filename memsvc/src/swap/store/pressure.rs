//! Requests for room, and whether there is hope of any.
//!
//! ```text
//!   a write finds no room ─▶ waits ─▶ the evictor is woken ─▶ some pages left ─▶ all who wait try again
//!                                                        └──▶ none could ─▶ who waited so long is refused
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::core::sync::lock;
use crate::swap::waker::Waker;

/// What the evictor is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Make room.
    Evict,
    /// Nobody has wanted anything for a while.
    Idle,
    /// End.
    Stop,
}

/// Nobody wants room for so long, and places that are not needed any more are discarded. Tests wait for that often.
const IDLE: Duration = if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(1) };

/// What writers and the evictor tell each other.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    state: Mutex<State>,
    bell: Condvar,
    /// The tiers do not answer: it is no use to wait.
    away: AtomicBool,
    /// Places have been freed that are to be discarded.
    freed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    stop: bool,
    /// How often no page could leave.
    failures: u64,
    /// Connections may go meanwhile.
    waiting: Vec<Weak<Waker>>,
    /// Writes that had to wait.
    throttled: u64,
    #[cfg(test)]
    is_broken: bool,
}

impl Pressure {
    /// Room is getting short.
    pub(super) fn want(&self) {
        let mut state = lock(&self.state);
        if !std::mem::replace(&mut state.wanted, true) {
            self.bell.notify_one();
        }
    }

    /// A write has found no room. True when it is to try again once its waker rings; `since` is its own, and
    /// none when it has just come. Without hope when all tiers are away.
    pub(super) fn wait(&self, since: &mut Option<u64>, waker: &Arc<Waker>, is_away: bool) -> bool {
        let mut state = lock(&self.state);
        state.wanted = true;
        self.bell.notify_one();
        let is_new = since.is_none();
        let has_hope = !is_away && !state.stop && *since.get_or_insert(state.failures) == state.failures;
        if !has_hope {
            *since = None;
            return false;
        }
        state.throttled += u64::from(is_new);
        state.waiting.retain(|other| other.strong_count() > 0 && other.as_ptr() != Arc::as_ptr(waker));
        state.waiting.push(Arc::downgrade(waker));
        true
    }

    /// A place on a tier is not needed any more.
    pub(super) fn freed(&self) {
        if !self.freed.load(Ordering::Relaxed) && !self.freed.swap(true, Ordering::Relaxed) {
            drop(lock(&self.state));
            self.bell.notify_one();
        }
    }

    /// The evictor panics when it next looks here.
    #[cfg(test)]
    pub(super) fn break_evictor(&self) {
        lock(&self.state).is_broken = true;
        self.bell.notify_one();
    }

    /// The evictor sleeps until it is wanted, or has not been for a while since places were freed.
    pub(super) fn next(&self) -> Next {
        let mut state = lock(&self.state);
        loop {
            #[cfg(test)]
            assert!(!state.is_broken, "on purpose");
            if state.stop {
                return Next::Stop;
            }
            if std::mem::take(&mut state.wanted) {
                return Next::Evict;
            }
            if !self.freed.load(Ordering::Relaxed) {
                state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let slept = self.bell.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = slept.0;
            if slept.1.timed_out() && !state.wanted && !state.stop {
                self.freed.store(false, Ordering::Relaxed);
                return Next::Idle;
            }
        }
    }

    /// Pages have left.
    pub(super) fn made_room(&self) {
        self.away.store(false, Ordering::Relaxed);
        self.release(0);
    }

    /// No page could leave, because tiers do not answer (`away`) or for another reason.
    pub(super) fn made_none(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
        self.release(1);
    }

    fn release(&self, failures: u64) {
        let mut state = lock(&self.state);
        state.failures += failures;
        state.waiting.drain(..).filter_map(|waker| waker.upgrade()).for_each(|waker| waker.wake());
    }

    /// True when somebody waits.
    pub(super) fn has_waiters(&self) -> bool {
        !lock(&self.state).waiting.is_empty()
    }

    /// True when the tiers did not answer the last time.
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// The evictor is to end; nobody waits for it any more.
    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.bell.notify_one();
        self.made_none(true);
    }

    /// True when the evictor has something better to do than to discard.
    pub(super) fn is_wanted(&self) -> bool {
        let state = lock(&self.state);
        state.wanted || state.stop
    }

    /// True when the evictor is to end.
    pub(super) fn has_stopped(&self) -> bool {
        lock(&self.state).stop
    }

    /// Writes that had to wait for room.
    pub(super) fn throttled(&self) -> u64 {
        lock(&self.state).throttled
    }
}
