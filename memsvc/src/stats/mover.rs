//! What moving pages came to, and how long somebody had to wait for one.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Counter, counters};

counters! {
    /// Pages moved so that blocks become whole.
    MoverCounters => MoveCounts {
        /// Blocks won: all that was live in them was moved elsewhere.
        harvested_blocks,
        /// Guest blocks that have one whole block behind them again.
        promoted_blocks,
        /// Frames that something was moved out of.
        migrated_frames,
        /// Bytes copied, promotions included.
        copied_bytes,
        /// Pages that could not be moved because somebody holds them: pinned by a device's request.
        pinned,
        /// Pages that the kernel did not move for another reason.
        failed,
        /// Promotions given up half-way; every page stayed readable.
        given_up,
    }
}

/// Pages moved so that blocks become whole, since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoverStats {
    /// How many.
    #[serde(flatten)]
    pub counts: MoveCounts,
    /// What somebody who touched a page that was on the move had to wait.
    pub stalls: StallStats,
}

/// Times that somebody waited for a page on the move, from when the fault handler heard of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StallStats {
    /// How often.
    pub count: u64,
    /// In all, microseconds.
    pub total_us: u64,
    /// The longest, microseconds.
    pub max_us: u64,
    /// How many took so long, not cumulative. Buckets of which none did are left out.
    pub buckets: Vec<StallBucket>,
}

/// Waits of a length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StallBucket {
    /// Less than so many microseconds, and at least half of it; a power of two.
    pub below_us: u64,
    /// How many.
    pub count: u64,
}

/// Up to 2^24 µs, which is 17 s; longer ones are with these.
const BUCKETS: usize = 25;

/// The live counters of stalls.
#[derive(Debug, Default)]
pub(crate) struct StallCounters {
    total_us: Counter,
    max_us: Counter,
    buckets: [Counter; BUCKETS],
}

impl StallCounters {
    pub(crate) fn record(&self, waited: Duration) {
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].add(1);
        self.total_us.add(us);
        self.max_us.raise(us);
    }

    pub(crate) fn snapshot(&self) -> StallStats {
        let counts = self.buckets.iter().map(Counter::get);
        let buckets = (0..)
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(bucket, count)| StallBucket { below_us: 1 << bucket, count });
        let buckets: Vec<_> = buckets.collect();
        StallStats {
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

    #[test]
    fn stalls_fall_into_powers_of_two() {
        let stalls = StallCounters::default();
        for us in [0, 1, 2, 3, 4, 1000, 1 << 40] {
            stalls.record(Duration::from_micros(us));
        }
        let snapshot = stalls.snapshot();
        let buckets: Vec<_> = snapshot.buckets.iter().map(|b| (b.below_us, b.count)).collect();
        assert_eq!(buckets, [(1, 1), (2, 1), (4, 2), (8, 1), (1024, 1), (1 << 24, 1)]);
        assert_eq!((snapshot.count, snapshot.max_us), (7, 1 << 40));
    }
}
