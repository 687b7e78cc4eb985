//! The work of every virtio device, whatever carries it.
//!
//! ```text
//!   new ──▶ configured ── activate ──▶ live ── process_queue, process_event …
//!               ▲                       │
//!               └──────── reset ────────┘
//! ```

use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

use super::Active;

/// A device as transport, event loop and API share it.
pub type SharedDevice = Arc<Mutex<dyn VirtioDevice>>;

/// A configuration space (section 2.5); what lies beyond a device's fields is zero.
pub type ConfigBytes = [u8; 256];

/// Device types (section 5); the number is what the guest reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// Network card.
    Network = 1,
    /// Disk.
    Block = 2,
    /// Source of random bytes.
    Entropy = 4,
    /// Memory balloon.
    Balloon = 5,
}

/// Whether a queue has been emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing is left until the next kick.
    Done,
    /// The share of this turn is used up: call again.
    More,
}

/// A file descriptor that a device wants to hear of. It lives as long as the device, which hears of it each
/// time that something new can be read (edge-triggered), not for as long as something is left.
#[derive(Clone, Copy, Debug)]
pub struct OwnEvent {
    /// A descriptor to poll for input.
    pub fd: RawFd,
    /// What to hand to [`VirtioDevice::process_event`].
    pub token: u16,
}

/// Why a device did not come to life.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver gave a queue a size, address or alignment that cannot be.
    #[error("queue {index} cannot be used as the driver set it up")]
    Queue {
        /// Which one.
        index: usize,
        /// What is wrong with it.
        #[source]
        cause: virtio_queue::Error,
    },
    /// A part of a queue is not in guest RAM.
    #[error("queue {index} lies outside guest RAM")]
    OutsideRam {
        /// Which one.
        index: usize,
    },
    /// A resource of the host is missing.
    #[error("the device cannot start on this host")]
    Host(#[from] std::io::Error),
}

/// One virtio device.
pub trait VirtioDevice: Send {
    /// Its type.
    fn kind(&self) -> DeviceKind;

    /// Feature bits that it offers; the transport adds `VERSION_1`.
    fn features(&self) -> u64;

    /// How many queues there are once the driver has acknowledged `features`. More features never
    /// mean fewer queues.
    fn queue_count(&self, features: u64) -> usize;

    /// The largest size of a queue, a power of two.
    fn max_queue_size(&self) -> u16 {
        256
    }

    /// Its configuration space as it is now. If it changes for another reason than a write of the driver's, a live
    /// device says so ([`Interrupt::config_changed`](super::Interrupt::config_changed)).
    fn config_space(&self) -> ConfigBytes;

    /// The driver writes configuration space; what it may not write is counted and ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// The driver is ready: from now on queues are served.
    fn activate(&mut self, active: Active) -> Result<(), ActivateError>;

    /// Serves what waits in one queue, a bounded number of requests. Does nothing where the device
    /// is not live or the queue does not exist.
    fn process_queue(&mut self, index: usize) -> Work;

    /// Events of its own, polled from start to end whether it is live or not.
    fn own_events(&self) -> Vec<OwnEvent> {
        Vec::new()
    }

    /// There is something new to be read from one of [`Self::own_events`]. Serves a bounded part of what
    /// follows; says which queue is to be served to go on with it.
    fn process_event(&mut self, _token: u16) -> Option<usize> {
        None
    }

    /// The driver stops using one queue. Nothing is served or given back any more.
    fn stop_queue(&mut self, index: usize);

    /// Back to the state before [`Self::activate`]; it may be activated again.
    fn reset(&mut self);

    /// A descriptor to poll for input while the host still uses memory of the driver's, after [`Self::stop_queue`] or
    /// [`Self::reset`]. `None`: the memory is the driver's alone. Each of them waits for that, without the device's lock.
    fn under_way(&mut self) -> Option<Arc<OwnedFd>> {
        None
    }
}

/// A configuration space that begins with `bytes`, the rest zero.
pub(super) fn config_bytes<const LEN: usize>(bytes: [u8; LEN]) -> ConfigBytes {
    const { assert!(LEN <= size_of::<ConfigBytes>()) };
    let mut space = [0; _];
    for (to, from) in space.iter_mut().zip(bytes) {
        *to = from;
    }
    space
}
