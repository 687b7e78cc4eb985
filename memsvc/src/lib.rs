//! Aerostat's guest memory service: who owns every frame of guest RAM, and how it comes and goes.
//!
//! `core` decides and is pure; `space` does what was decided to real memory. A monitor uses
//! [`MemoryService`]: it maps guest RAM, resolves the guest's faults, and is told what the guest
//! gives up and takes back. No KVM, no async runtime in here.

pub mod core;
mod service;
pub mod space;
pub mod stats;

pub use core::units::Gfn;
pub use service::{Config, MemoryService, Outcome, Region};
pub use space::host::StartError;
pub use space::regions::RegionSpec;
pub use stats::MemoryStats;
