//! Lines of the log that somebody else can cause, again and again: a guest, a client, a disk.
//!
//! The first time is said, and then ever more seldom: the second, the fourth, the eighth, with the count. So nobody can make
//! the log grow: a line that is said like this comes 64 times at the most.

use std::sync::atomic::{AtomicU64, Ordering};

/// Whether what has happened so many times is to be said this time.
pub fn is_due(times: u64) -> bool {
    times.is_power_of_two()
}

/// Counts one, and says how many that makes when it is to be said.
#[doc(hidden)]
pub fn count(times: &AtomicU64) -> Option<u64> {
    let times = times.fetch_add(1, Ordering::Relaxed) + 1;
    is_due(times).then_some(times)
}

/// Writes to the log as `tracing`'s macro of this name (`seldom!(warn, %error, "a disk failed")`), the first time at this
/// place and then ever more seldom, with the field `times`.
#[macro_export]
macro_rules! seldom {
    ($level:ident, $($said:tt)+) => {{
        static TIMES: ::std::sync::atomic::AtomicU64 = ::std::sync::atomic::AtomicU64::new(0);
        if let Some(times) = $crate::seldom::count(&TIMES) {
            ::tracing::$level!(times, $($said)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_is_said_and_then_ever_more_seldom() {
        let times = AtomicU64::new(0);
        let said: Vec<u64> = (0..1000).filter_map(|_| count(&times)).collect();
        assert_eq!(said, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
        assert_eq!((1..=u64::MAX.ilog2() + 1).filter(|power| is_due(1 << (power - 1))).count(), 64);
    }
}
