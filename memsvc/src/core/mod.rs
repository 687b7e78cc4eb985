//! What every frame is for, and who may have it. Pure code: no system calls, no threads.
//!
//! ```text
//!   Request ──▶ FrameAllocator ──▶ FrameId        (alloc.rs; tags in frames.rs)
//!   balloon ──▶ Ledger: one bit a guest frame     (ledger.rs)
//! ```

pub mod alloc;
pub mod bitmap;
pub mod deferral;
pub mod frames;
pub mod ledger;
pub mod page_type;
pub mod units;
