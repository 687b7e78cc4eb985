//! The answer of `GET /memory`: a snapshot of states, tags and counters. Those of `/memory/*` are in
//! `allocator`.

use std::sync::atomic::{AtomicU64, Ordering};

mod allocator;
mod compaction;
mod latency;
mod mover;

pub use allocator::{
    AllocCounters, BuddyInfo, CacheInfo, ChargeInfo, CpuInfo, MigrateTypeInfo, OrderInfo, ReserveInfo,
    SlabInfo, TypeInfo, ZoneInfo,
};
pub use compaction::{Compacted, CompactionInfo, Reclaimed, Trigger, TriggerInfo};
#[cfg(not(memsvc_loom))]
pub(crate) use latency::LatencyCounters;
pub use latency::{LatencyBucket, LatencyStats};
#[cfg(not(memsvc_loom))]
pub(crate) use mover::MoverCounters;
pub use mover::{MoveCounts, MoverStats};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything the service knows about its memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryStats {
    /// Guest RAM as the guest sees it.
    pub guest: GuestStats,
    /// The arena from which guest RAM comes.
    pub arena: ArenaStats,
    /// The host's memory that is behind guest RAM and arena.
    pub host: HostStats,
    /// Zeroed blocks that wait for the next fault.
    pub stash: StashStats,
    /// Faults resolved since start.
    pub faults: FaultStats,
    /// Pages moved and given back since start.
    pub moves: MoveStats,
    /// Pages moved so that blocks become whole, since start.
    pub mover: MoverStats,
    /// What the guest asked for and did not get, or should not have done, since start.
    pub refusals: RefusalStats,
}

/// Guest RAM by state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestStats {
    /// Size of guest RAM.
    pub bytes: u64,
    /// Blocks (2 MiB) of guest RAM.
    pub blocks: u64,
    /// Blocks with nothing behind them.
    pub absent_blocks: u64,
    /// Blocks with one whole block behind them.
    pub huge_blocks: u64,
    /// Blocks with single frames behind them.
    pub split_blocks: u64,
    /// Frames (4 KiB) given up inside huge blocks that are still whole.
    pub holes: u64,
    /// Frames in the balloon, by the service's own ledger.
    pub ballooned_frames: u64,
}

/// The arena by block and by page type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArenaStats {
    /// Blocks of the arena.
    pub blocks: u64,
    /// Blocks that are free; nothing is behind them.
    pub free_blocks: u64,
    /// Blocks that are handed out frame by frame.
    pub broken_blocks: u64,
    /// Frames of the arena; the sum of `frames_by_type`.
    pub frames: u64,
    /// Frames by page type.
    pub frames_by_type: FramesByType,
    /// Frames charged to the guest.
    pub charged_frames: u64,
}

/// Frames by page type; the types are those of `memsvc::core::page_type`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FramesByType {
    /// Free.
    pub buddy: u64,
    /// Zeroed, waiting for a fault.
    pub stash: u64,
    /// In use by the guest.
    pub guest: u64,
    /// Given up by the guest, in a huge page that is still whole.
    pub balloon: u64,
    /// On the way back to the kernel.
    pub r#return: u64,
    /// The monitor's own.
    pub kmem: u64,
    /// The monitor's own, in slabs.
    pub slab: u64,
    /// The monitor's own, in slabs whose objects can be moved.
    pub movable_slab: u64,
}

/// Resident memory, by the service's own state. Pages that the host has swapped are counted; a page on the move is counted as
/// the guest's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostStats {
    /// Behind guest RAM.
    pub guest_resident_bytes: u64,
    /// Of that, as whole blocks.
    pub guest_huge_bytes: u64,
    /// Behind home slots of the arena: the stash, the monitor's own frames, and free frames that keep their memory.
    pub arena_resident_bytes: u64,
    /// Of that, as whole blocks: the stash.
    pub arena_huge_bytes: u64,
}

/// The stash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StashStats {
    /// Blocks in it now.
    pub blocks: u64,
    /// Its bound.
    pub max_blocks: u64,
    /// Blocks that were ready when a fault came.
    pub hits: u64,
    /// Faults that had to wait for a block to be zeroed.
    pub misses: u64,
}

macro_rules! counters {
    ($(#[$doc:meta])* $live:ident => $snapshot:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
        pub struct $snapshot { $($(#[$field_doc])* pub $field: u64,)* }

        /// The live counters behind the snapshot of the similar name.
        #[derive(Debug, Default)]
        pub(crate) struct $live { $(pub(crate) $field: Counter,)* }

        impl $live {
            pub(crate) fn snapshot(&self) -> $snapshot {
                $snapshot { $($field: self.$field.get(),)* }
            }
        }
    };
}

counters! {
    /// Faults on guest RAM.
    FaultCounters => FaultStats {
        /// Faults that reached the handler.
        total,
        /// Resolved with a whole block.
        huge,
        /// Resolved with a single frame, because no whole block could be had.
        single,
        /// Resolved by another fault on the same block meanwhile.
        spurious,
        /// On a frame that is in the balloon: it got a zeroed page.
        on_ballooned,
        /// Times the host had no huge page to give.
        no_huge_page,
        /// Times the monitor's control group had no room for a huge page.
        limited,
        /// There was no memory above the min watermark; each waits until there is, and comes again.
        short,
        /// Could not be resolved for another reason; the guest tries again.
        failed,
    }
}

counters! {
    /// Moves between arena and guest space, and memory given back to the kernel.
    MoveCounters => MoveStats {
        /// Whole blocks moved into guest space.
        blocks_in,
        /// Single frames moved into guest space.
        frames_in,
        /// Single frames moved home.
        frames_home,
        /// Whole blocks given back to the kernel.
        blocks_returned,
        /// Frames that could not be moved home (pinned) and were discarded in place.
        home_refused,
        /// Moves that the kernel refused because the page is held or shared (EBUSY).
        refused_busy,
        /// Because something is where it was to go (EEXIST).
        refused_exists,
        /// Because nothing is where it was to come from (ENOENT).
        refused_missing,
        /// Because the kernel had no memory for page tables (ENOMEM).
        refused_memory,
        /// For another reason.
        refused_other,
        /// Times a free block could not be mapped anew: it is not used until that succeeds.
        set_aside,
        /// Free frames that the host had in its swap: they were dropped there, and not read.
        swap_dropped,
        /// Free frames whose poison word was gone: someone wrote to a free frame.
        poison_lost,
    }
}

counters! {
    /// Guest input that was refused or is odd. None of it does harm; much of it shows a broken driver.
    RefusalCounters => RefusalStats {
        /// Frame numbers that are not RAM, in the balloon's queues.
        outside_ram,
        /// Inflate of a frame that is in the balloon already.
        inflated_twice,
        /// Deflate of a frame that is not in the balloon.
        never_inflated,
        /// Frames reported free in pieces of a huge block that could not be split: kept, since the guest
        /// may use them again without a word.
        reported_kept,
    }
}

pub(crate) use counters;

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Raises it to `value`, if it is less.
    pub(crate) fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
