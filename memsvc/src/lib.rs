//! Aerostat's guest memory service: who owns every frame of guest RAM, and how it comes and goes.
//!
//! `core` decides and is pure; `space` does what was decided to real memory. A monitor uses
//! [`MemoryService`]: it maps guest RAM, resolves the guest's faults, and is told what the guest
//! gives up and takes back. No KVM, no async runtime in here.
//!
//! Under `--cfg memsvc_loom` (`ci/loom`) there are only `core` and `stats`, on loom's synchronization.

pub mod core;
#[cfg(not(memsvc_loom))]
pub mod guard;
#[cfg(not(memsvc_loom))]
pub mod seldom;
#[cfg(not(memsvc_loom))]
mod service;
#[cfg(not(memsvc_loom))]
pub mod space;
pub mod stats;
#[cfg(not(memsvc_loom))]
pub mod swap;

pub use core::units::Gfn;
#[cfg(not(memsvc_loom))]
#[doc(hidden)]
pub use service::Moved;
#[cfg(not(memsvc_loom))]
pub use service::{Config, MemoryService, Outcome, Region, least_limit};
#[cfg(not(memsvc_loom))]
pub use space::guest::Reclaimer;
#[cfg(not(memsvc_loom))]
pub use space::host::StartError;
#[cfg(not(memsvc_loom))]
pub use space::regions::{MAX_RAM, RegionSpec};
pub use stats::MemoryStats;
