//! The answer of `GET /memory/compaction`, and the result of a compaction or a reclaim that was asked for.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::core::compact::Tuning;

/// Compaction: how it is tuned, whether there is something to do, and what it did since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompactionInfo {
    /// What can be set.
    #[serde(flatten)]
    pub tuning: Tuning,
    /// Of the memory that nobody uses, holes with it, the part in hundredths that is no whole block.
    pub score: u32,
    /// Proactive compaction starts above this score, if `proactiveness` is not 0.
    pub start_score: u32,
    /// And rests below this.
    pub target_score: u32,
    /// Why a request for a whole block would fail, if holes were free: -1000, it would not; towards 0, for
    /// lack of memory; towards 1000, because of fragmentation.
    pub extfrag_index: i32,
    /// Frames that the guest has given up in huge pages that are still whole.
    pub holes: u64,
    /// Free frames in blocks that are handed out in pieces, and at home: memory that the host does not have
    /// back.
    pub scattered_frames: u64,
    /// Somebody is compacting now.
    pub running: bool,
    /// The background has looked at all that has changed so far, and put nothing off: it has won what it will.
    pub at_rest: bool,
    /// What was done, by why. Those that never happened are left out.
    pub triggers: Vec<TriggerInfo>,
    /// Split guest blocks that were given a whole one, in the background or by request.
    pub promoted_blocks: u64,
    /// Times that the compactor's thread woke up, because something had changed or to see whether more does.
    pub wakeups: u64,
    /// Times that it let a chance pass because attempts before had won nothing.
    pub deferred: u64,
    /// CPU time of the compactor's thread, microseconds.
    pub background_cpu_us: u64,
}

/// Compactions for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TriggerInfo {
    /// Why.
    pub trigger: Trigger,
    /// How often.
    pub runs: u64,
    /// Blocks chosen to be emptied.
    pub sources: u64,
    /// Of these, blocks won.
    pub blocks: u64,
    /// Frames moved for it.
    pub migrated_frames: u64,
    /// Frames that would not move.
    pub failed_frames: u64,
    /// Huge pages of the guest split where they were, to take what is moved.
    pub split_blocks: u64,
}

/// Why memory is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Somebody asked for it.
    Explicit,
    /// Somebody asked for memory back.
    Reclaim,
    /// Free memory is low.
    Low,
    /// No whole block could be had, and fragmentation is why.
    Direct,
    /// The guest has given pages up to the balloon.
    Balloon,
    /// The score is above its mark.
    Proactive,
}

impl Trigger {
    /// All of them, in the order of their values.
    pub const ALL: [Trigger; 6] = [
        Trigger::Explicit,
        Trigger::Reclaim,
        Trigger::Low,
        Trigger::Direct,
        Trigger::Balloon,
        Trigger::Proactive,
    ];

    /// Its name in tables and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Trigger::Explicit => "explicit",
            Trigger::Reclaim => "reclaim",
            Trigger::Low => "low",
            Trigger::Direct => "direct",
            Trigger::Balloon => "balloon",
            Trigger::Proactive => "proactive",
        }
    }
}

/// What a compaction that was asked for came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Compacted {
    /// Whole blocks (2 MiB) won and given back to the host.
    pub blocks: u64,
    /// Split guest blocks that have one whole block each again.
    pub promoted_blocks: u64,
    /// Frames moved.
    pub migrated_frames: u64,
    /// Frames that would not move.
    pub failed_frames: u64,
    /// Huge pages of the guest split where they were, to take what was moved.
    pub split_blocks: u64,
    /// There is nothing left to win; false where it was stopped.
    pub complete: bool,
    /// How long it took, microseconds.
    pub took_us: u64,
}

/// What asking for memory back came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reclaimed {
    /// Bytes asked for.
    pub asked_bytes: u64,
    /// Bytes given back to the host, in whole blocks; the sum of the next two.
    pub got_bytes: u64,
    /// Of these, zeroed blocks that were kept for the next faults.
    pub stash_bytes: u64,
    /// Of these, blocks made by compaction.
    pub compacted_bytes: u64,
    /// Frames that slabs did not need any more; compaction makes blocks of them.
    pub slab_frames: u64,
    /// Frames moved.
    pub migrated_frames: u64,
    /// Huge pages of the guest split where they were, to take what was moved.
    pub split_blocks: u64,
    /// How long it took, microseconds.
    pub took_us: u64,
}
