//! The virtual machine: its configuration, its parts and their life.

pub mod bus;
pub mod config;
pub mod exit;
pub mod kvm;
pub mod memory;
pub mod probe;
pub mod vcpu;
