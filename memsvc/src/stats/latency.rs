//! Durations of something that happens often: counts by powers of two.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Counter;

/// Times that something took, since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LatencyStats {
    /// How often.
    pub count: u64,
    /// In all, microseconds.
    pub total_us: u64,
    /// The longest, microseconds.
    pub max_us: u64,
    /// How many took so long, not cumulative. Buckets of which none did are left out.
    pub buckets: Vec<LatencyBucket>,
}

/// Times of a length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LatencyBucket {
    /// Less than so many microseconds, and at least half of it; a power of two.
    pub below_us: u64,
    /// How many.
    pub count: u64,
}

impl LatencyStats {
    /// The number of buckets there can be: up to 2^24 µs, which is 17 s; longer ones are in the last.
    pub const BUCKETS: usize = 25;

    /// So many of a hundred took less than this, microseconds: a power of two, or just more than the longest of
    /// all where that says more. `None` when there was none.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let wanted = (u128::from(self.count) * u128::from(percent)).div_ceil(100);
        let mut seen = 0;
        let bucket = self.buckets.iter().find(|bucket| {
            seen += u128::from(bucket.count);
            seen >= wanted
        })?;
        let is_last = bucket.below_us >= 1 << (Self::BUCKETS - 1);
        let end = if is_last { u64::MAX } else { bucket.below_us };
        Some(end.min(self.max_us.saturating_add(1)))
    }
}

/// The live counters.
#[derive(Debug, Default)]
pub(crate) struct LatencyCounters {
    total_us: Counter,
    max_us: Counter,
    buckets: [Counter; LatencyStats::BUCKETS],
}

impl LatencyCounters {
    pub(crate) fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(LatencyStats::BUCKETS - 1)].add(1);
        self.total_us.add(us);
        self.max_us.raise(us);
    }

    pub(crate) fn snapshot(&self) -> LatencyStats {
        let counts = self.buckets.iter().map(Counter::get);
        let buckets = (0..)
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(bucket, count)| LatencyBucket { below_us: 1 << bucket, count });
        let buckets: Vec<_> = buckets.collect();
        LatencyStats {
            count: buckets.iter().map(|bucket| bucket.count).sum(),
            total_us: self.total_us.get(),
            max_us: self.max_us.get(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(us: impl IntoIterator<Item = u64>) -> LatencyStats {
        let counters = LatencyCounters::default();
        us.into_iter().for_each(|us| counters.record(Duration::from_micros(us)));
        counters.snapshot()
    }

    #[test]
    fn times_fall_into_powers_of_two() {
        let snapshot = taken([0, 1, 2, 3, 4, 1000, 1 << 40]);
        let buckets: Vec<_> = snapshot.buckets.iter().map(|b| (b.below_us, b.count)).collect();
        assert_eq!(buckets, [(1, 1), (2, 1), (4, 2), (8, 1), (1024, 1), (1 << 24, 1)]);
        assert_eq!((snapshot.count, snapshot.max_us), (7, 1 << 40));
    }

    #[test]
    fn percentiles_are_the_ends_of_buckets() {
        assert_eq!(taken([]).percentile(50), None);
        let some = taken([3; 50].into_iter().chain([100; 49]).chain([130]));
        let said = [1, 50, 51, 99, 100].map(|percent| some.percentile(percent));
        assert_eq!(said, [Some(4), Some(4), Some(128), Some(128), Some(131)]);
        assert_eq!(taken([1 << 40]).percentile(50), Some((1 << 40) + 1));
    }
}
