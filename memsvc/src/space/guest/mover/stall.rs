//! Threads that wait for a page on the move, and for how long.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::super::State;
use crate::core::units::GuestFrame;
use crate::stats::{LatencyCounters, LatencyStats};

/// A page that somebody waits for while a mover has it.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Waiter {
    page: GuestFrame,
    since: Instant,
}

/// Waits for pages on the move.
#[derive(Debug, Default)]
pub(in super::super) struct Stalls {
    /// Fault handlers that want the lock.
    here: AtomicU32,
    counters: LatencyCounters,
}

/// A fault handler wants the lock, until this is dropped.
#[derive(Debug)]
pub(in super::super) struct Here<'a>(&'a AtomicU32);

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stalls {
    /// A fault handler wants the lock before any mover gets it again.
    pub(in super::super) fn arrive(&self) -> Here<'_> {
        self.here.fetch_add(1, Ordering::Relaxed);
        Here(&self.here)
    }

    pub(super) fn is_anybody_here(&self) -> bool {
        self.here.load(Ordering::Relaxed) > 0
    }

    /// Somebody waits for a page that a mover has, since then. Once a page: one who was interrupted comes
    /// again.
    pub(in super::super) fn begin(&self, state: &mut State, page: GuestFrame, since: Instant) {
        if !state.waiters.iter().any(|waiter| waiter.page == page) {
            state.waiters.push(Waiter { page, since });
        }
    }

    /// Nobody waits for these pages any more.
    pub(super) fn over(&self, state: &mut State, is_over: impl Fn(GuestFrame) -> bool) {
        state.waiters.retain(|waiter| {
            let over = is_over(waiter.page);
            if over {
                self.counters.record(waiter.since.elapsed());
            }
            !over
        });
    }

    /// Somebody waited for a page that was at home.
    pub(in super::super) fn record(&self, since: Instant) {
        self.counters.record(since.elapsed());
    }

    pub(in super::super) fn snapshot(&self) -> LatencyStats {
        self.counters.snapshot()
    }
}
