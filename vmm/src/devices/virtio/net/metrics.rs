//! Counters of a network card.

use crate::devices::virtio::Counter;

/// Counters of one network card. "rx" is what the guest receives, "tx" what it sends.
#[derive(Debug, Default, serde::Serialize)]
pub struct NetMetrics {
    /// Frames that the guest received.
    pub rx_packets: Counter,
    /// Bytes in these, without the virtio header.
    pub rx_bytes: Counter,
    /// Frames that did not fit into the guest's buffers.
    pub rx_dropped_too_large: Counter,
    /// Reads that the back end's side refused.
    pub rx_host_errors: Counter,
    /// Chains given back empty: not writable, outside RAM, or without a byte.
    pub rx_bad_chains: Counter,
    /// Times that the guest had no buffer left.
    pub rx_no_buffers: Counter,
    /// Times that the rate limiter stopped what the guest receives.
    pub rx_rate_limited: Counter,
    /// Frames that the guest sent and the back end took.
    pub tx_packets: Counter,
    /// Bytes in these, without the virtio header.
    pub tx_bytes: Counter,
    /// Frames dropped because the back end was full.
    pub tx_dropped_full: Counter,
    /// Frames that the back end did not want.
    pub tx_dropped_refused: Counter,
    /// Frames that make no sense: too short, too long, a header of what was not agreed upon, outside RAM.
    pub tx_bad_frames: Counter,
    /// Times that the rate limiter stopped what the guest sends.
    pub tx_rate_limited: Counter,
    /// Writes to configuration space, none of which is writable.
    pub bad_config_writes: Counter,
}
