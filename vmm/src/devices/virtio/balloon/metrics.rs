//! Counters of the balloon's work, and of the guest's mistakes.

use crate::devices::virtio::Counter;

/// Counters of one balloon. A page is 4 KiB.
#[derive(Debug, Default, serde::Serialize)]
pub struct BalloonMetrics {
    /// Buffers of pages to give up.
    pub inflate_buffers: Counter,
    /// Pages given up.
    pub inflated_pages: Counter,
    /// Buffers of pages to take back.
    pub deflate_buffers: Counter,
    /// Pages taken back.
    pub deflated_pages: Counter,
    /// Pages refused: outside RAM, twice the same, or never given up.
    pub refused_pages: Counter,
    /// Buffers of page numbers that are too long, not of whole numbers, not readable or not in RAM.
    pub bad_page_buffers: Counter,
    /// Ranges reported free.
    pub reported_ranges: Counter,
    /// Pages in them that were freed.
    pub reported_pages: Counter,
    /// Ranges hinted free.
    pub hinted_ranges: Counter,
    /// Pages in them that were freed.
    pub hinted_pages: Counter,
    /// Hinted ranges that belong to no command in force.
    pub stale_hints: Counter,
    /// Ranges kept, because the guest wants its poison value back from free pages.
    pub poisoned_ranges: Counter,
    /// Ranges that are empty, not of whole pages, or come in a buffer of the wrong direction.
    pub bad_ranges: Counter,
    /// Hinting commands of the guest that were no number.
    pub bad_commands: Counter,
    /// Statistics received.
    pub stats_updates: Counter,
    /// Statistics with a tag that nobody knows.
    pub unknown_stats: Counter,
    /// Statistics buffers too long, cut short, not readable, not in RAM, or one too many.
    pub bad_stats_buffers: Counter,
    /// Writes to fields of configuration space that are not the driver's.
    pub bad_config_writes: Counter,
    /// Times the polling timer could not be set.
    pub timer_errors: Counter,
}
