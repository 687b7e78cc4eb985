//! A token bucket that may be in debt.
//!
//! ```text
//!   burst ── used up first, comes once ─┐
//!                                       ├─▶ spend
//!   level ── fills evenly up to size ───┘     (below 0: a debt that filling pays)
//! ```
//!
//! The level is kept in tokens times nanoseconds of the refill time, so that filling it is one exact
//! multiplication and nothing is lost to rounding.

use std::time::Duration;

/// How much may pass over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Tokens in a full bucket; 0: no limit.
    pub size: u64,
    /// Tokens beside these that are there once.
    pub one_time_burst: u64,
    /// In which time an empty bucket fills; 0: no limit.
    pub refill_time: Duration,
}

/// The bucket.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    size: u64,
    /// Nanoseconds in which an empty bucket fills.
    refill: u64,
    burst: u64,
    /// Tokens times `refill`.
    level: i128,
    /// The time to which the bucket is filled.
    filled: Duration,
}

impl TokenBucket {
    /// A full bucket; `None` if there is no limit. Times are counted from any moment, by one clock.
    pub fn new(limit: Limit, now: Duration) -> Option<Self> {
        let Limit { size, one_time_burst, refill_time } = limit;
        // Refill times over 584 years become 584 years.
        let refill = u64::try_from(refill_time.as_nanos()).unwrap_or(u64::MAX);
        let mut bucket = Self { size, refill, burst: one_time_burst, level: 0, filled: now };
        bucket.level = bucket.full();
        (size > 0 && refill > 0).then_some(bucket)
    }

    /// How long until it holds a token; `None`: it does now.
    pub fn wait(&mut self, now: Duration) -> Option<Duration> {
        self.fill(now);
        let missing = i128::from(self.refill).saturating_sub(self.level);
        if self.burst > 0 || missing <= 0 {
            return None;
        }
        let nanos = missing.unsigned_abs().div_ceil(u128::from(self.size));
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// Takes tokens, whether they are there or not.
    pub fn spend(&mut self, tokens: u64) {
        let once = tokens.min(self.burst);
        self.burst -= once;
        let rest = i128::from(tokens - once).saturating_mul(self.refill.into());
        self.level = self.level.saturating_sub(rest);
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled).as_nanos();
        let more = i128::try_from(passed).unwrap_or(i128::MAX).saturating_mul(self.size.into());
        self.level = self.level.saturating_add(more).min(self.full());
        self.filled = self.filled.max(now);
    }

    fn full(&self) -> i128 {
        i128::from(self.size).saturating_mul(self.refill.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(size: u64, one_time_burst: u64, refill_ns: u64) -> Limit {
        Limit { size, one_time_burst, refill_time: Duration::from_nanos(refill_ns) }
    }

    #[test]
    fn no_size_or_no_time_is_no_limit() {
        for none in [limit(0, 5, 5), limit(5, 5, 0), Limit::default()] {
            assert!(TokenBucket::new(none, Duration::ZERO).is_none(), "{none:?}");
        }
    }

    #[test]
    fn the_burst_comes_once_and_debts_are_paid_first() {
        let second = Duration::from_secs(1);
        let mut bucket = TokenBucket::new(limit(1000, 500, 1_000_000_000), Duration::ZERO).expect("limit");
        let token = second / 1000;
        bucket.spend(1500);
        assert_eq!(bucket.wait(Duration::ZERO), Some(token), "empty");
        bucket.spend(2000);
        assert_eq!(bucket.wait(Duration::ZERO), Some(2 * second + token));
        assert_eq!(bucket.wait(2 * second), Some(token));
        assert_eq!(bucket.wait(100 * second), None);
        bucket.spend(1000);
        assert!(bucket.wait(100 * second).is_some(), "no more than size comes back");
    }

    #[test]
    fn the_largest_numbers_are_numbers_too() {
        let most = Limit { size: u64::MAX, one_time_burst: u64::MAX, refill_time: Duration::MAX };
        let mut bucket = TokenBucket::new(most, Duration::ZERO).expect("limit");
        for _ in 0..4 {
            bucket.spend(u64::MAX);
            bucket.wait(Duration::MAX);
        }
        let mut slow = TokenBucket::new(limit(1, 0, u64::MAX), Duration::ZERO).expect("limit");
        slow.spend(u64::MAX);
        assert!(slow.wait(Duration::ZERO).is_some());
    }

    proptest! {
        /// A caller that asks at any time, goes when it may, and else comes again when it is told.
        #[test]
        fn nobody_gets_more_than_the_limit_or_waits_longer_than_it_says(
            size in 1u64..1 << 20,
            burst in 0u64..1 << 20,
            refill in 1u64..1 << 30,
            wants in prop::collection::vec((0u64..1 << 32, 1u64..1 << 21), 1..60),
        ) {
            let mut now = 7u64;
            let start = now;
            let at = |now: u64| Duration::from_nanos(now);
            let mut bucket = TokenBucket::new(limit(size, burst, refill), at(now)).expect("limit");
            let mut spent = 0u128;
            for (pause, tokens) in wants {
                now += pause;
                if let Some(wait) = bucket.wait(at(now)) {
                    let wait = wait.as_nanos() as u64;
                    prop_assert!(bucket.wait(at(now + wait - 1)).is_some(), "it is closed until then");
                    now += wait;
                    prop_assert_eq!(bucket.wait(at(now)), None, "and then it is open");
                }
                // Only the last operation may go beyond the limit, and that the next one waits for.
                let filled = u128::from(now - start) * u128::from(size) / u128::from(refill) + 1;
                prop_assert!(spent <= u128::from(burst) + u128::from(size) + filled);
                bucket.spend(tokens);
                spent += u128::from(tokens);
            }
        }

        /// A caller that comes when it is told, and never later.
        #[test]
        fn who_does_not_pause_gets_all_of_the_limit(
            size in 1u64..1 << 20,
            burst in 0u64..1 << 20,
            refill in 1u64..1 << 30,
            wants in prop::collection::vec(1u64..1 << 21, 1..60),
        ) {
            let mut now = Duration::ZERO;
            let mut bucket = TokenBucket::new(limit(size, burst, refill), now).expect("limit");
            let mut spent = 0u128;
            for tokens in wants {
                if let Some(wait) = bucket.wait(now) {
                    let filled = now.as_nanos() * u128::from(size);
                    let all = u128::from(refill) * (u128::from(burst) + u128::from(size)) + filled;
                    prop_assert!((spent + 1) * u128::from(refill) > all);
                    now += wait;
                }
                bucket.spend(tokens);
                spent += u128::from(tokens);
            }
        }
    }
}
