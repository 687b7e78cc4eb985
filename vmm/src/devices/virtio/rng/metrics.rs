//! Counters of the entropy device.

use crate::devices::virtio::Counter;

/// Counters of one entropy device.
#[derive(Debug, Default, serde::Serialize)]
pub struct RngMetrics {
    /// Requests served.
    pub requests: Counter,
    /// Random bytes handed out.
    pub bytes: Counter,
    /// Requests with a buffer that is not in RAM or not writable, or none at all.
    pub bad_requests: Counter,
    /// Times that the rate limiter stopped requests.
    pub rate_limited: Counter,
    /// Times the host had no random bytes.
    pub host_errors: Counter,
}
