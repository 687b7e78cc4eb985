//! Latencies in buckets that two processes can share.
//!
//! ```text
//! ns      0 … 63   64 … 127   128 130 … 254   256 260 … 508   …   2^37
//! bucket  1 wide   1 wide     2 wide          4 wide              64 to an octave
//! ```
//! So a quantile is right to a 64th. One process records, any may read; all zero bytes is empty.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::Latency;

/// Buckets of one octave.
const PER_OCTAVE: usize = 64;
const SHIFT: u32 = PER_OCTAVE.ilog2();
/// The last octave starts at 2^36 ns (69 s); what is longer counts there.
const LAST_OCTAVE: u32 = 36;
const BUCKETS: usize = (LAST_OCTAVE - SHIFT + 2) as usize * PER_OCTAVE;

/// How many latencies fell into which bucket.
#[derive(Debug)]
#[repr(C)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    max_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], max_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&self, ns: u64) {
        if let Some(count) = self.buckets.get(bucket(ns)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.max_ns.fetch_max(ns, Ordering::Relaxed);
    }

    /// Forgets all of them. One that is recorded meanwhile may count or not.
    pub fn clear(&self) {
        for count in self.buckets.iter().chain([&self.max_ns]) {
            count.store(0, Ordering::Relaxed);
        }
    }
}

/// What several histograms hold together.
pub fn summary<'a>(all: impl IntoIterator<Item = &'a Histogram>) -> Latency {
    let mut counts = [0_u64; BUCKETS];
    let mut max_ns = 0;
    for one in all {
        for (sum, count) in counts.iter_mut().zip(&one.buckets) {
            *sum += count.load(Ordering::Relaxed);
        }
        max_ns = max_ns.max(one.max_ns.load(Ordering::Relaxed));
    }
    let count: u64 = counts.iter().sum();
    let at = |per_mille: u64| {
        let wanted = (count * per_mille).div_ceil(1000).max(1);
        let mut below = 0;
        let found = counts.iter().position(|count| {
            below += count;
            below >= wanted
        });
        found.map_or(0, |bucket| last(bucket).min(max_ns))
    };
    Latency { count, p50_ns: at(500), p99_ns: at(990), p999_ns: at(999), max_ns }
}

fn bucket(ns: u64) -> usize {
    let octave = ns.max(1).ilog2();
    if octave < SHIFT {
        return usize::try_from(ns).unwrap_or(0);
    }
    let part = (ns >> (octave - SHIFT)) as usize % PER_OCTAVE;
    ((octave - SHIFT + 1) as usize * PER_OCTAVE + part).min(BUCKETS - 1)
}

/// The longest latency of a bucket.
fn last(bucket: usize) -> u64 {
    let (row, part) = ((bucket / PER_OCTAVE) as u32, (bucket % PER_OCTAVE) as u64);
    let width = 1_u64 << row.saturating_sub(1);
    let first = if row == 0 { part } else { (PER_OCTAVE as u64 + part) * width };
    first + width - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_in_its_bucket_and_buckets_follow_each_other() {
        for bucket_index in 0..BUCKETS {
            assert_eq!(bucket(last(bucket_index)), bucket_index);
            let next = (bucket_index + 1).min(BUCKETS - 1);
            assert_eq!(bucket(last(bucket_index) + 1), next, "after bucket {bucket_index}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_right_to_a_64th_over_all_that_recorded() {
        let (low, high) = (Histogram::default(), Histogram::default());
        for us in 1..=1000 {
            let one = if us % 2 == 0 { &low } else { &high };
            one.record(us * 1000);
        }
        let latency = summary([&low, &high]);
        assert_eq!((latency.count, latency.max_ns), (1000, 1_000_000));
        for (found, exact) in [(latency.p50_ns, 500_000), (latency.p99_ns, 990_000)] {
            assert!(found >= exact && found <= exact + exact / 64, "{found} for {exact}");
        }
        low.clear();
        assert_eq!(summary([&low]), Latency::default());
    }
}
