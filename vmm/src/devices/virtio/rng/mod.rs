//! Source of random bytes (section 5.4): one queue; what the driver offers is filled.

mod device;
mod metrics;

pub use device::Rng;
pub use metrics::RngMetrics;

#[cfg(test)]
mod tests;
