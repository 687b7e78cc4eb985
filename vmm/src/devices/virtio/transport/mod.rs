//! The transport, by which a driver finds, sets up and resets a device.
//!
//! [`Core`] knows states, features and queues; [`MmioTransport`] maps registers onto it; the driver reads them from a
//! [`RegisterPage`].

mod core;
mod metrics;
mod mmio;
mod registers;
mod setup;

pub use self::core::Core;
pub use metrics::TransportMetrics;
pub use mmio::MmioTransport;
pub use registers::RegisterPage;
pub(super) use registers::reg;
pub use setup::{Half, QueuePart};

#[cfg(test)]
mod tests;
