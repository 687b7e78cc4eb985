//! A clock for single operations of a few nanoseconds: the processor's time stamp counter.
//!
//! Reading it costs tens of nanoseconds itself. That is measured and subtracted.

#![allow(unsafe_code, reason = "the time stamp counter is read by an intrinsic")]

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::time::{Duration, Instant};

/// What the counter means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    ticks_per_ns: f64,
    /// Between two readings with nothing between them: the median, in ticks.
    overhead: u64,
}

impl Clock {
    /// Measures the counter against the system's clock.
    #[allow(clippy::cast_precision_loss, reason = "ticks and nanoseconds of a moment")]
    pub(crate) fn new() -> Self {
        let (start, first) = (Instant::now(), ticks());
        while start.elapsed() < Duration::from_millis(50) {}
        let (last, elapsed) = (ticks(), start.elapsed());
        let mut empty: Vec<u64> = (0..10_001)
            .map(|_| {
                let before = ticks();
                ticks() - before
            })
            .collect();
        empty.sort_unstable();
        let ticks_per_ns = (last - first) as f64 / elapsed.as_nanos() as f64;
        Self { ticks_per_ns, overhead: empty.get(empty.len() / 2).copied().unwrap_or(0) }
    }

    /// Nanoseconds that reading the clock takes.
    #[allow(clippy::cast_precision_loss, reason = "a few ticks")]
    pub(crate) fn overhead_ns(self) -> f64 {
        self.overhead as f64 / self.ticks_per_ns
    }

    /// Nanoseconds of what lay between two readings, without the readings.
    #[allow(clippy::cast_precision_loss, reason = "ticks of one operation")]
    pub(crate) fn ns(self, ticks: u64) -> f64 {
        ticks.saturating_sub(self.overhead) as f64 / self.ticks_per_ns
    }
}

/// Reads the counter, after all that comes before and before all that comes after.
#[inline]
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has both instructions, and Linux lets programs read the counter.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}
