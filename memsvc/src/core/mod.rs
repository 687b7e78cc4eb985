//! The purpose of every frame, and its owner. Pure code: no system calls, no threads.

pub mod alloc;
pub mod bitmap;
pub mod compact;
pub mod deferral;
pub mod isolate;
pub mod ledger;
pub mod migrate_type;
pub mod page_type;
pub mod request;
pub mod slab;
pub mod units;
pub mod watermark;

mod block;
mod blockset;
mod buddy;
mod charge;
mod check;
mod cpu;
mod drain;
mod local;
mod put;
mod refill;
mod report;
mod retag;
pub(crate) mod sync;
mod table;
mod tag;
mod throttle;

#[cfg(test)]
mod faults;

#[cfg(all(any(test, fuzzing), not(memsvc_loom)))]
pub mod bytes;
#[cfg(all(any(test, fuzzing), not(memsvc_loom)))]
#[allow(clippy::unwrap_used)] // a model, for tests only
mod model;

#[cfg(all(test, memsvc_loom))]
mod loom;
