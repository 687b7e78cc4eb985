//! Results of moving pages, and how long somebody had to wait for one.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Counter, LatencyStats, counters};

counters! {
    /// Pages moved so that blocks become whole.
    MoverCounters => MoveCounts {
        /// Blocks won: all that was live in them was moved elsewhere.
        harvested_blocks,
        /// Guest blocks that have one whole block behind them again.
        promoted_blocks,
        /// Frames that something was moved out of.
        migrated_frames,
        /// Bytes copied, promotions included.
        copied_bytes,
        /// Pages that could not be moved because somebody holds them: pinned by a device's request.
        pinned,
        /// Pages that the kernel did not move for another reason.
        failed,
        /// Promotions given up half-way; every page stayed readable.
        given_up,
    }
}

/// Pages moved so that blocks become whole, since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoverStats {
    /// How many.
    #[serde(flatten)]
    pub counts: MoveCounts,
    /// What those who touched a page that was on the move had to wait, from when the fault handler heard of it.
    pub stalls: LatencyStats,
}
