//! The protocol between guest agent and host, and code that both need: patterns, latencies, network
//! interfaces, the NBD handshake.
//!
//! They share the guest's first serial port with the kernel's console, so every message is one line with
//! a marker, and everything else on the wire is console text:
//!
//! ```text
//! host  ▶ @> {"id":7,"request":{"allocate":{"name":"a","mib":64}}}
//! guest ◀ [    1.234567] some kernel message
//! guest ◀ @< {"id":7,"answer":{"region":{"mib":64,"micros":81234}}}
//! ```
//!
//! The first answer has id 0 and is [`Answer::Ready`]. An answer carries the id of its request, so one that
//! comes after its time-out is not taken for the next one's.

pub mod content;
pub mod interface;
pub mod latency;
pub mod nbd;
pub mod pattern;
pub mod protocol;

pub use protocol::{
    Answer, Block, Call, Churn, Content, Echoed, FROM_GUEST, Flood, Flooded, Hogs, HogsRequest, Latency,
    Link, NbdDevice, NetRequest, Pages, Pinged, Ready, Reply, Request, SwapRequest, TO_GUEST, Verified,
};
