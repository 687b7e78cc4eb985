//! The virtual machine: its configuration, its parts and their life.
//!
//! ```text
//! config      what an operator says about it
//! machine     puts it together and takes it apart
//! platform    the devices at their places
//! console     the streams of its serial console
//! event_loop  the threads on which devices serve their queues
//! kvm         the KVM virtual machine: slots, interrupt lines, notifications
//! memory      guest memory as the devices see it, over what the memory service maps
//! vcpu        one thread per CPU, and how all of them are paused
//! bus         finds the device at a port or an address
//! exit        why the process ends
//! probe       runs a tiny guest to learn what this KVM is worth
//! check       what this host has and lacks
//! ```

pub mod bus;
pub mod check;
pub mod config;
mod console;
pub mod event_loop;
pub mod exit;
pub(crate) mod exits;
pub mod kvm;
pub mod machine;
pub mod memory;
mod platform;
pub mod probe;
pub mod vcpu;
