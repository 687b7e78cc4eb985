//! A limit on bytes and on operations over time, in Firecracker's terms.
//!
//! ```text
//!           is_open                      spend
//!   open ────────────▶ one operation ──────────▶ a token in both buckets? ── yes ──▶ open
//!    ▲                                                      │ no
//!    └──────────────── timer: there is a token in both ◀── closed
//! ```
//!
//! An operation is never cut or kept back for its size: it goes when both buckets hold a token, and may leave
//! them in debt, which is paid before the next one. Over time the rate is as set, and what is larger than
//! a bucket still goes.

mod bucket;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use memsvc::seldom;
use vmm_sys_util::timerfd::TimerFd;

pub use bucket::{Limit, TokenBucket};

/// What is limited; `None`: left as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub bandwidth: Option<Limit>,
    /// Operations.
    pub ops: Option<Limit>,
}

impl Limits {
    /// These, with what `later` names in the place of their own.
    pub(super) fn changed_by(self, later: Self) -> Self {
        Self { bandwidth: later.bandwidth.or(self.bandwidth), ops: later.ops.or(self.ops) }
    }
}

/// Two buckets and the timer that says when they hold a token again.
#[derive(Debug)]
pub struct RateLimiter {
    bandwidth: Option<TokenBucket>,
    ops: Option<TokenBucket>,
    /// When time began for the buckets.
    start: Instant,
    timer: TimerFd,
}

impl RateLimiter {
    /// A limiter with full buckets. Fails where the host has no timer to spare.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let timer = TimerFd::new().map_err(io::Error::from)?;
        let mut limiter = Self { bandwidth: None, ops: None, start: Instant::now(), timer };
        limiter.fill(limits);
        Ok(limiter)
    }

    /// Exchanges the buckets that `limits` names for new, full ones. Who was told to wait may ask again.
    pub fn change(&mut self, limits: Limits) {
        self.fill(limits);
        self.stay_closed(Duration::from_nanos(1));
    }

    fn fill(&mut self, limits: Limits) {
        let now = self.start.elapsed();
        for (bucket, limit) in [(&mut self.bandwidth, limits.bandwidth), (&mut self.ops, limits.ops)] {
            if let Some(limit) = limit {
                *bucket = TokenBucket::new(limit, now);
            }
        }
    }

    /// The timer: readable when it is worth asking again after [`Self::is_open`] said no.
    pub fn timer(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Whether an operation may go now. If not, the timer is set for when it may.
    pub fn is_open(&mut self) -> bool {
        if self.bandwidth.is_none() && self.ops.is_none() {
            return true;
        }
        let now = self.start.elapsed();
        let buckets = [&mut self.bandwidth, &mut self.ops];
        let wait = buckets.into_iter().flatten().filter_map(|bucket| bucket.wait(now)).max();
        wait.is_none_or(|wait| self.stay_closed(wait))
    }

    /// Takes the tokens of one operation of so many bytes.
    pub fn spend(&mut self, bytes: u64) {
        for (bucket, tokens) in [(&mut self.bandwidth, bytes), (&mut self.ops, 1)] {
            if let Some(bucket) = bucket {
                bucket.spend(tokens);
            }
        }
    }

    /// Sets the timer. Where that fails nobody would ask again: better no limit than silence.
    fn stay_closed(&mut self, wait: Duration) -> bool {
        match self.timer.reset(wait, None) {
            Ok(()) => false,
            Err(cause) => {
                seldom!(warn, %cause, "the timer of a rate limiter could not be set: the limit is not kept");
                true
            }
        }
    }
}
