//! Processes that use more memory than there is: what can be asked of them, and the answer.

use serde::{Deserialize, Serialize};

use super::{Latency, Pages};

/// What the host can ask of hogs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HogsRequest {
    /// Starts processes that each map memory, write every page of it, and wait then.
    Start {
        /// How many, 1 to 64.
        processes: u32,
        /// Memory of each.
        mib: u64,
        /// Page size.
        #[serde(default)]
        pages: Pages,
        /// Seed of the pages.
        seed: u64,
        /// What they hold.
        content: Content,
    },
    /// Those that have written begin to read, page after page, again and again, and check each. How long page-ins take,
    /// and touches at the most, is counted anew.
    Read,
    /// How far they are; answered with [`Hogs`](super::Answer::Hogs).
    Status,
    /// Ends them; answered with [`Hogs`](super::Answer::Hogs).
    Stop,
}

/// How well pages compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Pages that are zero, of a hundred.
    pub zero_percent: u8,
    /// Of every other page one part in this many does not compress at all, and the rest to nothing: 1 does
    /// not compress, 3 is about 3:1.
    pub ratio: u8,
}

/// Hogs so far, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hogs {
    /// Processes that live.
    pub alive: u32,
    /// Processes that ended before they were told to: the OOM killer took them, or a page could not be
    /// brought back.
    pub lost: u32,
    /// Pages written.
    pub written: u64,
    /// Processes that have written all of theirs.
    pub ready: u32,
    /// From the start until the last of those had.
    pub write_micros: u64,
    /// Times that each process has read all of its pages, at least.
    pub passes: u64,
    /// Pages read and checked.
    pub verified: u64,
    /// Pages that held something else.
    pub wrong: u64,
    /// How long reads waited for a page to come from the device (major faults).
    pub page_in: Latency,
    /// The longest that a read waited, for whatever reason.
    pub longest_ns: u64,
}
