//! The bell that wakes a thread of the service, with the reasons.
//!
//! Ringing takes no lock, so anybody may ring from under any. A ring that comes before the thread sleeps is
//! kept, so none is lost; one that nobody has heard yet costs no system call when it is repeated.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Reasons, as bits.
pub(crate) type Reasons = u32;

/// A bell that one thread hears.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    reasons: AtomicU32,
    thread: OnceLock<Thread>,
}

impl Bell {
    /// The thread that calls this is the one that hears.
    pub(crate) fn hear_here(&self) {
        let _ = self.thread.set(thread::current());
    }

    /// Rings for these reasons.
    pub(crate) fn ring(&self, reasons: Reasons) {
        let before = self.reasons.fetch_or(reasons, Ordering::Release);
        if before & reasons != reasons
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// True when it has rung for one of these, and nobody has heard it.
    pub(crate) fn has_rung(&self, reasons: Reasons) -> bool {
        self.reasons.load(Ordering::Relaxed) & reasons != 0
    }

    /// Why it has rung since it was last asked.
    pub(crate) fn take(&self) -> Reasons {
        let reasons = self.reasons.swap(0, Ordering::Acquire);
        #[cfg(test)]
        assert!(reasons & Self::BREAK == 0, "on purpose");
        reasons
    }

    /// The thread that hears this panics: tests see what becomes of the others.
    #[cfg(test)]
    pub(crate) const BREAK: Reasons = 1 << 31;

    /// Sleeps until it rings.
    pub(crate) fn wait(&self) -> Reasons {
        self.await_ring();
        self.take()
    }

    /// The same, and it is still to be heard.
    pub(crate) fn await_ring(&self) {
        while !self.has_rung(Reasons::MAX) {
            thread::park();
        }
    }

    /// Sleeps for so long, but not through a ring for one of the reasons `at_once`; other rings cost who rings
    /// one system call at most meanwhile. Returns why it has rung.
    pub(crate) fn sleep(&self, time: Duration, at_once: Reasons) -> Reasons {
        let start = Instant::now();
        while !self.has_rung(at_once) {
            match time.checked_sub(start.elapsed()) {
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                _ => break,
            }
        }
        self.take()
    }

    /// Sleeps until it rings, or the time is over.
    pub(crate) fn wait_for(&self, time: Duration) -> Reasons {
        if self.reasons.load(Ordering::Relaxed) == 0 {
            thread::park_timeout(time);
        }
        self.take()
    }
}
