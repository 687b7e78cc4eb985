//! Counters of a link.

use crate::devices::virtio::Counter;

/// Counters of one link. Frames are counted without the virtio-net header.
#[derive(Debug, Default, serde::Serialize)]
pub struct LinkMetrics {
    /// Frames from the guest, those that were dropped included.
    pub frames_in: Counter,
    /// Bytes of these.
    pub bytes_in: Counter,
    /// Frames to the guest.
    pub frames_out: Counter,
    /// Bytes of these.
    pub bytes_out: Counter,
    /// Frames from the guest that are not what they say, and fragments.
    pub malformed: Counter,
    /// Frames with a wrong checksum.
    pub bad_checksums: Counter,
    /// Frames that are not from this link to this peer.
    pub not_for_us: Counter,
    /// Frames of protocols that nobody here speaks.
    pub unserved: Counter,
    /// Frames that have nothing to do with swap, dropped because memory was short.
    pub under_pressure: Counter,
    /// Frames that have nothing to do with swap, dropped because their answers would not have been fetched.
    pub unfetched: Counter,
    /// Answers to single frames (ARP, acknowledgements out of turn, resets) that were not fetched.
    pub replies_dropped: Counter,
    /// Connections that the service took.
    pub opened: Counter,
    /// Connections refused: all were in use, or the service did not want it.
    pub refused: Counter,
    /// Connections closed in order.
    pub closed: Counter,
    /// Connections reset by the guest, or gone with a reset of the device.
    pub reset: Counter,
    /// Connections that were silent, given up for new ones.
    pub evicted: Counter,
    /// Times the guest had no room for what was to be sent.
    pub no_room: Counter,
}
