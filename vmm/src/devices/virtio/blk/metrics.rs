//! Counters of a disk.

use crate::devices::virtio::Counter;

/// Counters of one disk.
#[derive(Debug, Default, serde::Serialize)]
pub struct BlockMetrics {
    /// Reads served.
    pub reads: Counter,
    /// Bytes read.
    pub read_bytes: Counter,
    /// Writes served.
    pub writes: Counter,
    /// Bytes written.
    pub written_bytes: Counter,
    /// Flushes served.
    pub flushes: Counter,
    /// Discards served.
    pub discards: Counter,
    /// Bytes discarded.
    pub discarded_bytes: Counter,
    /// Write zeroes served.
    pub write_zeroes: Counter,
    /// Bytes zeroed.
    pub zeroed_bytes: Counter,
    /// Times that what was written was made to survive a crash of the host: for flushes, for each write of a
    /// driver that sends none, and before another file comes.
    pub syncs: Counter,
    /// Times that the operator has put another file behind it, or the same one anew.
    pub updates: Counter,
    /// Times that the rate limiter stopped requests.
    pub rate_limited: Counter,
    /// Requests of a type that this disk does not know.
    pub unsupported: Counter,
    /// Requests without a header or a status byte, or with buffers outside RAM.
    pub bad_requests: Counter,
    /// Requests beyond the end, over a limit, not of whole sectors or ranges, or writes to a read-only disk.
    pub refused: Counter,
    /// Requests that the host could not serve.
    pub host_errors: Counter,
    /// Writes to configuration space, none of which is writable.
    pub bad_config_writes: Counter,
}
