//! Disk (section 5.2): one queue of requests on a raw image file or a block device of the host.
//!
//! ```text
//!   request: [ type, reserved, sector │ data out … ]  [ data in … │ status ]
//!              16 bytes, readable                       writable     1 byte, last
//! ```
//!
//! Requests run one after another on the event loop, straight between guest RAM and the file.

mod backend;
mod config;
mod device;
mod metrics;
mod request;

pub use backend::{BlockBackend, OpenError};
pub use device::{BlockDevice, CacheType};
pub use metrics::BlockMetrics;

/// Bytes in a sector; all positions and sizes on the wire count these (section 5.2.4).
const SECTOR: u64 = 512;

#[cfg(test)]
mod tests;
