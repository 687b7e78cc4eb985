//! `entropy`: how fast the guest gets random bytes of the host.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::RateLimiter;

/// The entropy device, which every guest has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntropyConfig {
    /// Limits on what the guest gets; none if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}
