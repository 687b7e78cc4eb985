//! Disk (section 5.2): one queue of requests on a raw image file or a block device of the host.
//!
//! ```text
//!   request: [ type, reserved, sector │ data out … ]  [ data in … │ status ]
//!              16 bytes, readable                       writable     1 byte, last
//! ```
//!
//! Requests run one after another on the event loop, straight between guest RAM and the file. One turn of it moves
//! at most 4 MiB, discards at most 128 MiB, and waits for the host's disk once; the rest of a request that is longer,
//! and what is behind it, is for the next turn. With the asynchronous engine the kernel reads, writes and syncs beside the
//! loop, as many requests at a time as there is room for in a ring; they end in any order.
//!
//! The guest's swap can be a disk, too ([`swap`]): it shares what a request is, and nothing of how it is served.

mod backend;
mod config;
mod control;
mod device;
mod drives;
mod hole;
mod metrics;
mod parts;
mod ranges;
mod request;
mod ring;
mod service;
mod swap;

use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

pub use backend::{BlockBackend, FileId, OpenError};
pub use control::BlockControl;
pub use device::{BlockConfig, BlockDevice, CacheType, Engine};
pub use drives::Drives;
pub use metrics::BlockMetrics;
pub use ring::{NoRing, check as check_ring};
pub use swap::{SwapDisk, SwapMemory};

/// Bytes in a sector; all positions and sizes on the wire count these (section 5.2.4).
const SECTOR: u64 = 512;

/// The work of one turn, in bytes that are moved: then others on the event loop are served. A guest may name the same
/// memory in all buffers of all requests, so a ring-full of the largest ones costs it nothing.
const TURN: u64 = 4 << 20;

/// The serial number of a disk called so: the first 20 bytes.
fn serial(name: &str) -> [u8; VIRTIO_BLK_ID_BYTES as usize] {
    let mut id = [0; _];
    for (to, from) in id.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    id
}

#[cfg(test)]
mod tests;
