//! Durations of something that happens often: mean, deviation and maximum are exact, percentiles to a
//! thirtieth.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Parts into which each power of two of nanoseconds is divided.
const PARTS: u32 = 32;

/// Times, in memory that does not grow with them.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    count: u64,
    sum: f64,
    squares: f64,
    max: u64,
    buckets: Vec<u64>,
}

/// What they came to, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// How many there were; all else is 0 if there was none.
    pub count: u64,
    /// Mean.
    pub mean_us: f64,
    /// Standard deviation.
    pub sd_us: f64,
    /// As long or shorter: half of them.
    pub p50_us: f64,
    /// As long or shorter: 99 of 100.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Times {
    pub(super) fn add(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.count += 1;
        self.sum += ns as f64;
        self.squares += (ns as f64).powi(2);
        self.max = self.max.max(ns);
        let bucket = bucket(ns);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
    }

    pub(super) fn merge(&mut self, other: &Times) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
        self.max = self.max.max(other.max);
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, more)| *sum += more);
    }

    pub(super) fn summary(&self) -> Summary {
        if self.count == 0 {
            return Summary::default();
        }
        let count = self.count as f64;
        let mean = self.sum / count;
        let us = |ns: f64| ns / 1000.0;
        Summary {
            count: self.count,
            mean_us: us(mean),
            sd_us: us((self.squares / count - mean * mean).max(0.0).sqrt()),
            p50_us: us(self.percentile(50) as f64),
            p99_us: us(self.percentile(99) as f64),
            max_us: us(self.max as f64),
        }
    }

    /// The longest of the bucket in which the percentile lies, nanoseconds.
    fn percentile(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let reaches = |count: &u64| {
            seen += count;
            seen >= rank
        };
        self.buckets.iter().position(reaches).map_or(self.max, |bucket| last_of(bucket).min(self.max))
    }
}

/// Where a time is counted: below `PARTS` each has its own.
fn bucket(ns: u64) -> usize {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(PARTS.trailing_zeros() + 1);
    (shift * PARTS) as usize + (ns >> shift) as usize
}

/// The longest time that is counted there.
fn last_of(bucket: usize) -> u64 {
    let (parts, bucket) = (u64::from(PARTS), bucket as u64);
    if bucket < 2 * parts {
        return bucket;
    }
    let shift = bucket / parts - 1;
    ((bucket % parts + parts + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ns: impl IntoIterator<Item = u64>) -> Times {
        let mut times = Times::default();
        ns.into_iter().for_each(|ns| times.add(Duration::from_nanos(ns)));
        times
    }

    #[test]
    fn every_time_has_a_bucket_that_ends_at_most_a_thirtieth_above_it() {
        let mut before = None;
        for ns in (0..5000).chain((13..40).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let (at, last) = (bucket(ns), last_of(bucket(ns)));
            assert!(last >= ns && last - ns <= ns / 30, "{ns}: {last}");
            assert!(before.is_none_or(|before| at >= before), "{ns}");
            assert_eq!(bucket(last), at, "{ns}");
            assert_eq!(bucket(last + 1), at + 1, "{ns}");
            before = Some(at);
        }
    }

    #[test]
    fn percentiles_are_by_rank_and_never_above_the_longest() {
        let summary = times(1..=100).summary();
        assert_eq!((summary.count, summary.p50_us, summary.max_us), (100, 0.05, 0.1));
        assert!((0.099..=0.1).contains(&summary.p99_us), "{summary:?}");
        assert!((summary.mean_us - 0.0505).abs() < 1e-9);
        assert!((summary.sd_us - 0.028866).abs() < 1e-6, "{summary:?}");
        assert_eq!(times([1_000_000]).summary().p99_us, 1000.0);
        assert_eq!(times([]).summary(), Summary::default());
    }

    #[test]
    fn merged_times_are_all_of_them() {
        let mut merged = times(1..50);
        merged.merge(&times(50..=100));
        assert_eq!(merged.summary(), times(1..=100).summary());
    }
}
