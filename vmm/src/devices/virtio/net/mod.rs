//! Network card (section 5.1): one pair of queues between the driver and a back end.
//!
//! ```text
//!   driver ── queue 1 ──▶ outgoing: a frame in guest RAM ──▶ transmit ─┐
//!                                                                      back end: a TAP of the host, …
//!   driver ◀─ queue 0 ─── inbox: buffers held for frames ◀── receive ──┘
//!
//!   frame on both queues: [ struct virtio_net_hdr_v1, 12 bytes │ Ethernet frame ]
//! ```
//!
//! There is no control queue: one pair of queues, a MAC that stays, no filters. With merged receive buffers a
//! frame is spread over as many chains as it needs; without, it has to fit into one.
//!
//! One turn of the event loop receives at most 128 frames and sends at most a ring-full of descriptors, each of the
//! two at most 1 MiB and one frame.

mod backend;
mod config;
mod control;
mod device;
mod header;
mod held;
mod inbox;
mod metrics;
mod outgoing;
mod tap;
mod taps;

pub use backend::{NetBackend, Transmitted};
pub use control::NetControl;
pub use device::{Net, NetConfig};
pub use header::{Gso, HEADER, Header};
pub use inbox::{Inbox, Room};
pub use metrics::NetMetrics;
pub use outgoing::Outgoing;
pub use tap::{Tap, TapError};
pub use taps::Taps;

/// Feature bits (section 5.1.3).
pub mod feature {
    use virtio_bindings::bindings::virtio_net as bindings;

    /// The device completes checksums of what the driver sends.
    pub const CSUM: u32 = bindings::VIRTIO_NET_F_CSUM;
    /// The driver completes checksums of what it receives.
    pub const GUEST_CSUM: u32 = bindings::VIRTIO_NET_F_GUEST_CSUM;
    /// The device says how large packets may be.
    pub const MTU: u32 = bindings::VIRTIO_NET_F_MTU;
    /// The device has a MAC address.
    pub const MAC: u32 = bindings::VIRTIO_NET_F_MAC;
    /// The driver takes TCP segments over IPv4 that are cut no smaller than 64 KiB.
    pub const GUEST_TSO4: u32 = bindings::VIRTIO_NET_F_GUEST_TSO4;
    /// The same over IPv6.
    pub const GUEST_TSO6: u32 = bindings::VIRTIO_NET_F_GUEST_TSO6;
    /// The device takes TCP segments over IPv4 that are cut no smaller than 64 KiB.
    pub const HOST_TSO4: u32 = bindings::VIRTIO_NET_F_HOST_TSO4;
    /// The same over IPv6.
    pub const HOST_TSO6: u32 = bindings::VIRTIO_NET_F_HOST_TSO6;
    /// A frame may fill several receive chains.
    pub const MRG_RXBUF: u32 = bindings::VIRTIO_NET_F_MRG_RXBUF;

    /// What a back end may be able to do, or not.
    pub const OFFLOADS: u64 =
        1 << CSUM | 1 << GUEST_CSUM | 1 << GUEST_TSO4 | 1 << GUEST_TSO6 | 1 << HOST_TSO4 | 1 << HOST_TSO6;

    /// Those of `features` that have what they need (section 5.1.3.1): no segments without checksums.
    pub fn with_what_they_need(features: u64) -> u64 {
        let without = |from: u64, needed: u32, those: u64| match from & 1 << needed {
            0 => from & !those,
            _ => from,
        };
        let features = without(features, CSUM, 1 << HOST_TSO4 | 1 << HOST_TSO6);
        without(features, GUEST_CSUM, 1 << GUEST_TSO4 | 1 << GUEST_TSO6)
    }
}

/// Bytes of the shortest frame that we pass on: two addresses and a type.
pub const MIN_FRAME: usize = 14;

/// Bytes of the longest frame: the largest IPv4 packet (RFC 791), the Ethernet header and one VLAN tag.
pub const MAX_FRAME: usize = 65_535 + MIN_FRAME + 4;

/// Bytes of frames that one turn receives, or sends, before others on the event loop are served.
const TURN: usize = 1 << 20;

/// The queue that the device fills.
const RX: usize = 0;
/// The queue that the driver fills.
const TX: usize = 1;

#[cfg(test)]
pub(super) mod fake;
#[cfg(test)]
mod tests;
