//! Memory balloon (section 5.5; Linux: `include/uapi/linux/virtio_balloon.h`,
//! `drivers/virtio/virtio_balloon.c`, `mm/page_reporting.c`).
//!
//! ```text
//!   queue       who fills it                     what it carries                     file
//!   inflate     driver: "take these"             u32 page numbers, ≤ 256 a buffer    pfns
//!   deflate     driver: "I want these back"      the same                            pfns
//!   stats       driver, answered by the timer    10-byte tag and value pairs         stats
//!   hinting     driver, on command               command ids, then free ranges       hinting
//!   reporting   driver, by itself                free ranges                         ranges
//! ```
//!
//! The last three exist only where their feature is acknowledged, and queues are numbered without
//! gaps: see `queues`. The operator asks through [`BalloonControl`], without the device's lock. What a guest gives up goes to [`BalloonBackend`], which keeps the ledger;
//! nothing that the guest says about sizes is believed here.
//!
//! One turn of the event loop takes, gives back or frees at most 4096 frames (`turn`), in whole buffers of page numbers
//! and whole blocks of ranges, and reads a ring-full of statistics.

mod backend;
mod config;
mod control;
mod device;
mod error;
mod hinting;
mod metrics;
mod pfns;
mod queues;
mod ranges;
mod stats;
mod turn;

pub use backend::BalloonBackend;
pub use control::BalloonControl;
pub use device::{Balloon, BalloonConfig, NewBalloonError};
pub use error::BalloonError;
pub use hinting::HintingStatus;
pub use metrics::BalloonMetrics;
pub use stats::GuestStats;

/// Balloon pages are 4 KiB, whatever the guest's pages are (section 5.5.6).
const PAGE: u64 = 4096;

/// Balloon pages in a MiB.
const PAGES_PER_MIB: u32 = (1 << 20) / PAGE as u32;

/// Feature bits (section 5.5.3).
mod feature {
    /// The driver deflates before it uses a page again.
    pub(super) const MUST_TELL_HOST: u32 = 0;
    /// There is a statistics queue.
    pub(super) const STATS_VQ: u32 = 1;
    /// The driver takes pages back rather than run out of memory.
    pub(super) const DEFLATE_ON_OOM: u32 = 2;
    /// There is a hinting queue.
    pub(super) const FREE_PAGE_HINT: u32 = 3;
    /// The driver says what it fills free pages with.
    pub(super) const PAGE_POISON: u32 = 4;
    /// There is a reporting queue.
    pub(super) const REPORTING: u32 = 5;
}

#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;
