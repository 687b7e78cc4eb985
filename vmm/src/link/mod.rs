//! The swap link's far end: a TCP/IP peer in the process, to which a guest's NBD client connects.
//!
//! ```text
//!   guest's frame ─▶ filter ─▶ smoltcp ─▶ connection ─▶ Stream::receive
//!                      │ drop, counted        │
//!                      ▼                      ▼ one turn each
//!                   replies ─────────────▶ outgoing ─▶ Transmit ─▶ guest
//!                   ARP, echo, RST         one frame, in smoltcp's hands or waiting
//! ```
//!
//! Nothing here reads a clock, waits, or opens a socket: frames and the time come in, frames go out. All
//! memory is taken when a [`Peer`] is made; what a guest sends cannot make it larger.
//!
//! A frame to the guest is never dropped for want of room, because smoltcp's retransmission takes a second
//! at least, and so would the page-in: where there is no room, no frame is made, and where a large one
//! was made, as many of its segments go out as there is room for and the others wait.
//!
//! The time is best that in which the guest ran: a connection may have to give way to a new one when it was silent
//! for long, and who is paused is silent.

mod config;
mod connection;
mod device;
mod filter;
mod header;
mod metrics;
mod outgoing;
mod peer;
mod replies;
mod service;

pub use config::{Config, ConfigError, Offloads};
pub use metrics::LinkMetrics;
pub use peer::Peer;
pub use service::{Service, Stream, Transmit};

use crate::devices::virtio::net::Header;

#[cfg(test)]
mod tests;
