//! The frame allocator's tables, as operators know them from `/proc`.
//!
//! | here | there |
//! | --- | --- |
//! | [`BuddyInfo`] | `/proc/buddyinfo`, `/sys/kernel/debug/extfrag/*` |
//! | [`TypeInfo`] | `/proc/pagetypeinfo`, `memory.stat` of a cgroup |
//! | [`ZoneInfo`] | `/proc/zoneinfo`, `/proc/vmstat` |
//! | [`SlabInfo`] | `/proc/slabinfo` |

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::FramesByType;
use crate::core::migrate_type::MigrateType;

/// Free chunks by order, and what that means for a request of each order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuddyInfo {
    /// Frames (4 KiB) in the free lists; those in per-CPU lists are not among them.
    pub free_frames: u64,
    /// By order, from 0 (4 KiB) to 9 (2 MiB).
    pub orders: Vec<OrderInfo>,
}

/// One order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OrderInfo {
    /// A chunk is `2^order` frames.
    pub order: u8,
    /// Free chunks of exactly this order.
    pub free_chunks: u64,
    /// Of what is free, the part in thousandths that a request of this order cannot use: 0 to 1000.
    pub unusable_free_index: u32,
    /// Why a request of this order would fail: -1000, it would not; towards 0, for lack of memory;
    /// towards 1000, because of fragmentation.
    pub extfrag_index: i32,
}

/// Free chunks by migrate type and order, frames by page type, and who is charged for them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TypeInfo {
    /// By migrate type.
    pub migrate_types: Vec<MigrateTypeInfo>,
    /// Whole free blocks (2 MiB), which belong to no migrate type.
    pub whole_free_blocks: u64,
    /// Frames by page type; adds up to the arena.
    pub frames_by_type: FramesByType,
    /// Who is charged; owners that never had a frame and have no limit are left out.
    pub charges: Vec<ChargeInfo>,
}

/// Free chunks of one migrate type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrateTypeInfo {
    /// Which.
    pub migrate_type: MigrateType,
    /// Blocks of this type that have been handed out in pieces.
    pub blocks: u64,
    /// Free chunks by order, from 0 to 9, in these blocks.
    pub free_chunks: Vec<u64>,
}

/// Frames charged to one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChargeInfo {
    /// 0 is the monitor itself, 1 its guest.
    pub owner: u8,
    /// Frames by page type; `buddy` is 0.
    pub frames: FramesByType,
    /// Frames in all.
    pub charged: u64,
    /// Frames that may be charged; absent where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Requests refused because of the limit.
    pub refused: u64,
}

/// Watermarks, reserve, per-CPU lists, and what the allocator did since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ZoneInfo {
    /// Frames of the arena.
    pub frames: u64,
    /// Frames in the free lists.
    pub free: u64,
    /// Free frames below which only `MEMALLOC` requests are served: the reserve.
    pub min: u64,
    /// Free frames below which the background reclaimer is woken.
    pub low: u64,
    /// Free frames at which it may rest.
    pub high: u64,
    /// Bytes of the allocator's own tables for each frame of the arena, in thousandths.
    pub metadata_millibytes_per_frame: u64,
    /// The reserve.
    pub reserve: ReserveInfo,
    /// The per-CPU lists, empty ones too.
    pub cpus: Vec<CpuInfo>,
    /// Since start.
    pub counters: AllocCounters,
}

/// The reserve: what is free below the min watermark.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReserveInfo {
    /// Its size in frames: the min watermark.
    pub frames: u64,
    /// Of these, free now.
    pub free: u64,
    /// The fewest that were free.
    pub lowest_free: u64,
    /// Frames in use that were had only because of `MEMALLOC`.
    pub in_use: u64,
    /// Requesters that wait now because half of it is gone.
    pub waiting: u64,
    /// Times a requester was made to wait.
    pub throttled: u64,
    /// Of these, how often the stated time was over before the reserve was back.
    pub timed_out: u64,
    /// Time waited in all, microseconds.
    pub waited_us: u64,
}

/// The lists of one CPU (one thread that allocates).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CpuInfo {
    /// Its number.
    pub cpu: u8,
    /// Frames ready to be handed out.
    pub ready_frames: u64,
    /// Whole blocks ready to be handed out.
    pub ready_blocks: u64,
    /// Frames freed and not yet drained to the free lists.
    pub freed_frames: u64,
    /// Whole blocks freed and not yet drained.
    pub freed_blocks: u64,
}

/// What the allocator did since start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AllocCounters {
    /// Refills of a per-CPU list from the free lists.
    pub refills: u64,
    /// Drains of a per-CPU list to the free lists, by its own CPU.
    pub drains: u64,
    /// Times all lists were drained.
    pub drain_all: u64,
    /// Lists visited by these.
    pub drain_visits: u64,
    /// Lists not visited, because they held nothing.
    pub drain_visits_saved: u64,
    /// Lists that were in use at that moment and were asked to drain themselves.
    pub drain_busy: u64,
    /// Requests that found nothing.
    pub failed: u64,
    /// Requests served from the reserve.
    pub from_reserve: u64,
    /// Times free memory fell below the low watermark.
    pub low_hits: u64,
    /// Free chunks taken from blocks of another migrate type.
    pub steals: u64,
    /// Blocks that changed their migrate type that way.
    pub blocks_converted: u64,
    /// Frees that were refused: freed twice, not a head, wrong order.
    pub free_errors: u64,
}

/// The slab caches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlabInfo {
    /// By size class; those that were never used are left out.
    pub caches: Vec<CacheInfo>,
}

/// The cache of one size class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CacheInfo {
    /// Its name: `kmem-96`, or `movable-96` where objects have handles and can be moved.
    pub name: String,
    /// Bytes of an object's place.
    pub object_size: u32,
    /// Objects in use.
    pub active_objects: u64,
    /// Places there are.
    pub objects: u64,
    /// Places in a slab.
    pub objects_per_slab: u32,
    /// Frames of a slab.
    pub frames_per_slab: u32,
    /// Slabs there are.
    pub slabs: u64,
    /// Of these, slabs of reserve frames, which serve only `MEMALLOC` requests.
    pub reserve_slabs: u64,
    /// Bytes asked for by the objects in use. What the frames hold beyond it is waste.
    pub requested_bytes: u64,
}
