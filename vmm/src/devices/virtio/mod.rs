//! Virtio devices (Virtual I/O Device specification, version 1.2).
//!
//! ```text
//!   transport/mmio   registers              active     queues, memory and interrupt of a live device
//!        │                                     │
//!   transport/core   states, negotiation ─▶ device     what every device does
//!        │                                     │
//!   interrupt, seen  status and irq         queue      one ring: chains out, used entries in
//!        │                                     │
//!   face             what the API asks and sees    balloon/  blk/  net/  rng/   a room for each device
//! ```
//!
//! What the guest writes is checked where it enters. A request that makes no sense is counted and
//! given back; a ring that makes no sense stops the device until the driver resets it.

mod active;
pub mod balloon;
pub mod blk;
mod device;
mod face;
mod interrupt;
mod metrics;
pub mod net;
mod queue;
mod ram;
pub mod rate;
pub mod rng;
mod seen;
pub mod transport;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod testing;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use active::{Active, ActiveQueue};
pub use device::{ActivateError, ConfigBytes, DeviceKind, OwnEvent, SharedDevice, VirtioDevice, Work};
pub use interrupt::{Interrupt, Status};
pub use metrics::Counter;
pub use queue::{Chain, Completion, QueueError, Used, VirtQueue};
pub use ram::{GuestRam, RamRegion};
pub use seen::Seen;

/// Locks a mutex even after another thread panicked while holding it: device state is checked on
/// every use, so serving on is better than taking the guest down.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
