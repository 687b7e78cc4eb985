//! The running machine: KVM, memory slots, CPUs and the bus between them and the devices.
//!
//! ```text
//! kvm      the KVM virtual machine: slots, interrupt lines, notifications
//! memory   guest memory as the devices see it, over what the memory service maps
//! vcpu     one thread per CPU, and how all of them are paused
//! bus      finds the device at a port or an address
//! probe    runs a tiny guest to learn what this KVM is worth
//! ```

pub mod bus;
pub mod kvm;
pub mod memory;
pub mod probe;
pub mod vcpu;
