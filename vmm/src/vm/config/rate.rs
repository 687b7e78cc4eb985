//! Limits of rate, in Firecracker's shape.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::devices::virtio::rate::{Limit, Limits};

/// Limits of rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimiter {
    /// Bytes over time; no limit if left out.
    #[serde(default)]
    pub bandwidth: Option<TokenBucket>,
    /// Operations over time; no limit if left out.
    #[serde(default)]
    pub ops: Option<TokenBucket>,
}

/// One limit. Where `size` or `refill_time` is 0, there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBucket {
    /// Tokens in a full bucket: bytes or operations.
    pub size: u64,
    /// Tokens that are there once only, at the start.
    #[serde(default)]
    pub one_time_burst: Option<u64>,
    /// Milliseconds in which the bucket fills.
    pub refill_time: u64,
}

impl RateLimiter {
    /// This, with what `change` says of it.
    pub fn changed_by(self, change: Self) -> Self {
        Self { bandwidth: change.bandwidth.or(self.bandwidth), ops: change.ops.or(self.ops) }
    }

    /// The same for a device.
    pub fn limits(self) -> Limits {
        let Self { bandwidth, ops } = self;
        Limits { bandwidth: bandwidth.map(TokenBucket::limit), ops: ops.map(TokenBucket::limit) }
    }
}

impl TokenBucket {
    /// The same for a device.
    pub fn limit(self) -> Limit {
        Limit {
            size: self.size,
            one_time_burst: self.one_time_burst.unwrap_or_default(),
            refill_time: Duration::from_millis(self.refill_time),
        }
    }
}
