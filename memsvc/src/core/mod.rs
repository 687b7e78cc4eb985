//! What every frame is for, and who may have it. Pure code: no system calls, no threads.

pub mod alloc;
pub mod bitmap;
pub mod deferral;
pub mod ledger;
pub mod migrate_type;
pub mod frames;
pub mod page_type;
pub mod plain;
pub mod request;
pub mod units;
pub mod watermark;
mod cpu;
mod sync;
mod tag;
