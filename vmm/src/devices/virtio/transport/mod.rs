//! How a driver finds, sets up and resets a device.
//!
//! [`Core`] knows states, features and queues; [`MmioTransport`] maps registers onto it.

mod core;
mod metrics;
mod mmio;
mod setup;

pub use self::core::Core;
pub use metrics::TransportMetrics;
pub use mmio::{MMIO_WINDOW, MmioTransport};
pub use setup::{Half, QueuePart};

#[cfg(test)]
mod tests;
