//! The figures of `GET /memory`.

use memsvc::MemoryStats;

use super::family::{Family, of};
use crate::api::types::by_page_type;

/// Guest RAM, arena, host, stash, then counters.
pub(super) const FAMILIES: &[Family<MemoryStats>] = &[
    Family::gauge("aerostat_memory_guest_bytes", "Size of guest RAM", of!(guest.bytes)),
    Family::gauge(
        "aerostat_memory_guest_blocks",
        "Blocks (2 MiB) of guest RAM by what is behind them: nothing, one whole block, single frames",
        |from, to| {
            let guest = &from.guest;
            to.each(
                "state",
                [("absent", guest.absent_blocks), ("huge", guest.huge_blocks), ("split", guest.split_blocks)],
            )
        },
    ),
    Family::gauge(
        "aerostat_memory_hole_frames",
        "Frames (4 KiB) that the guest has given up inside huge blocks that are still whole",
        of!(guest.holes),
    ),
    Family::gauge(
        "aerostat_memory_ballooned_frames",
        "Frames in the balloon, by the memory service's own ledger",
        of!(guest.ballooned_frames),
    ),
    Family::gauge("aerostat_memory_arena_frames", "Frames of the arena", of!(arena.frames)),
    Family::gauge(
        "aerostat_memory_arena_blocks",
        "Blocks of the arena: free, broken (handed out frame by frame), whole (handed out whole)",
        |from, to| {
            let arena = &from.arena;
            let whole = arena.blocks.saturating_sub(arena.free_blocks).saturating_sub(arena.broken_blocks);
            to.each("state", [("free", arena.free_blocks), ("broken", arena.broken_blocks), ("whole", whole)])
        },
    ),
    Family::gauge(
        "aerostat_memory_frames",
        "Frames of the arena by page type; adds up to aerostat_memory_arena_frames",
        |from, to| {
            let types = by_page_type(&from.arena.frames_by_type);
            to.each("page_type", types.map(|(page_type, frames)| (page_type.name(), frames)))
        },
    ),
    Family::gauge(
        "aerostat_memory_guest_charged_frames",
        "Frames charged to the guest",
        of!(arena.charged_frames),
    ),
    Family::gauge(
        "aerostat_memory_guest_resident_bytes",
        "Host memory mapped behind guest RAM",
        of!(host.guest_resident_bytes),
    ),
    Family::gauge(
        "aerostat_memory_guest_huge_bytes",
        "Of the host memory behind guest RAM, what is mapped by huge pages",
        of!(host.guest_huge_bytes),
    ),
    Family::gauge(
        "aerostat_memory_arena_resident_bytes",
        "Host memory mapped behind home slots of the arena",
        of!(host.arena_resident_bytes),
    ),
    Family::gauge(
        "aerostat_memory_arena_huge_bytes",
        "Of the host memory behind home slots, what is mapped by huge pages",
        of!(host.arena_huge_bytes),
    ),
    Family::gauge(
        "aerostat_memory_stash_blocks",
        "Zeroed blocks that wait for the next fault",
        of!(stash.blocks),
    ),
    Family::gauge("aerostat_memory_stash_max_blocks", "The most blocks that may wait", of!(stash.max_blocks)),
    Family::counter(
        "aerostat_memory_stash_hits",
        "Blocks that were ready when a fault came",
        of!(stash.hits),
    ),
    Family::counter(
        "aerostat_memory_stash_misses",
        "Faults that had to wait until a block was zeroed",
        of!(stash.misses),
    ),
    Family::counter(
        "aerostat_memory_faults",
        "Faults of the guest that reached the handler",
        of!(faults.total),
    ),
    Family::counter("aerostat_memory_faults_huge", "Faults resolved with a whole block", of!(faults.huge)),
    Family::counter(
        "aerostat_memory_faults_single",
        "Faults resolved with a single frame, because no whole block could be had",
        of!(faults.single),
    ),
    Family::counter(
        "aerostat_memory_faults_spurious",
        "Faults that another one on the same block had resolved already",
        of!(faults.spurious),
    ),
    Family::counter(
        "aerostat_memory_faults_on_ballooned",
        "Faults on frames in the balloon, which got a zeroed page",
        of!(faults.on_ballooned),
    ),
    Family::counter(
        "aerostat_memory_faults_no_huge_page",
        "Times the host had no huge page to give",
        of!(faults.no_huge_page),
    ),
    Family::counter(
        "aerostat_memory_faults_limited",
        "Times the monitor's control group had no room for a huge page",
        of!(faults.limited),
    ),
    Family::counter(
        "aerostat_memory_faults_short",
        "Faults that had to wait for memory, once for each time it was not there",
        of!(faults.short),
    ),
    Family::counter(
        "aerostat_memory_faults_failed",
        "Faults that could not be resolved, so that the guest tried again",
        of!(faults.failed),
    ),
    Family::counter(
        "aerostat_memory_moved_in_blocks",
        "Whole blocks moved into guest space",
        of!(moves.blocks_in),
    ),
    Family::counter(
        "aerostat_memory_moved_in_frames",
        "Single frames moved into guest space",
        of!(moves.frames_in),
    ),
    Family::counter("aerostat_memory_moved_home_frames", "Single frames moved home", of!(moves.frames_home)),
    Family::counter(
        "aerostat_memory_returned_blocks",
        "Whole blocks given back to the host's kernel",
        of!(moves.blocks_returned),
    ),
    Family::counter(
        "aerostat_memory_home_refused_frames",
        "Frames that could not be moved home and were discarded in place",
        of!(moves.home_refused),
    ),
    Family::counter(
        "aerostat_memory_moves_refused_busy",
        "Moves of pages that the kernel refused because the page is held or shared (EBUSY)",
        of!(moves.refused_busy),
    ),
    Family::counter(
        "aerostat_memory_moves_refused_exists",
        "Moves of pages that the kernel refused because something is where it was to go (EEXIST)",
        of!(moves.refused_exists),
    ),
    Family::counter(
        "aerostat_memory_moves_refused_missing",
        "Moves of pages that the kernel refused because nothing is where it was to come from (ENOENT)",
        of!(moves.refused_missing),
    ),
    Family::counter(
        "aerostat_memory_moves_refused_memory",
        "Moves of pages that the kernel refused because the kernel had no memory for page tables (ENOMEM)",
        of!(moves.refused_memory),
    ),
    Family::counter(
        "aerostat_memory_moves_refused_other",
        "Moves of pages that the kernel refused for another reason",
        of!(moves.refused_other),
    ),
    Family::counter(
        "aerostat_memory_blocks_set_aside",
        "Times a free block could not be mapped anew, and was set aside",
        of!(moves.set_aside),
    ),
    Family::counter(
        "aerostat_memory_swap_dropped_frames",
        "Free frames that the host had in its swap, and that were dropped there",
        of!(moves.swap_dropped),
    ),
    Family::counter(
        "aerostat_memory_poison_lost_frames",
        "Free frames to which somebody wrote",
        of!(moves.poison_lost),
    ),
    Family::counter(
        "aerostat_memory_harvested_blocks",
        "Blocks won by moving all that was live in them elsewhere",
        of!(mover.counts.harvested_blocks),
    ),
    Family::counter(
        "aerostat_memory_promoted_blocks",
        "Split guest blocks that got one whole block again",
        of!(mover.counts.promoted_blocks),
    ),
    Family::counter(
        "aerostat_memory_migrated_frames",
        "Frames that something was moved out of",
        of!(mover.counts.migrated_frames),
    ),
    Family::counter(
        "aerostat_memory_copied_bytes",
        "Bytes copied by harvest and promotion",
        of!(mover.counts.copied_bytes),
    ),
    Family::counter(
        "aerostat_memory_unmoved_frames",
        "Pages that could not be moved: pinned by who uses them, or refused by the kernel for another reason",
        |from, to| {
            let counts = &from.mover.counts;
            to.each("reason", [("pinned", counts.pinned), ("failed", counts.failed)])
        },
    ),
    Family::counter(
        "aerostat_memory_moves_given_up",
        "Promotions given up half-way; every page stayed readable",
        of!(mover.counts.given_up),
    ),
    Family::counter(
        "aerostat_memory_stalls",
        "Touches that had to wait for a page on the move, by how long (less than so many microseconds)",
        |from, to| {
            let buckets = &from.mover.stalls.buckets;
            buckets.iter().try_for_each(|it| to.with([("below_us", it.below_us.to_string())], it.count))
        },
    ),
    Family::counter("aerostat_memory_stall_seconds", "Time that these waited in all", |from, to| {
        to.put(from.mover.stalls.total_us as f64 / 1e6)
    }),
    Family::gauge("aerostat_memory_stall_max_seconds", "The longest of these waits", |from, to| {
        to.put(from.mover.stalls.max_us as f64 / 1e6)
    }),
    Family::counter(
        "aerostat_memory_refused_frames",
        "Frames refused because of what the guest asked: outside RAM, inflated twice, never inflated",
        |from, to| {
            let refusals = &from.refusals;
            to.each(
                "reason",
                [
                    ("outside_ram", refusals.outside_ram),
                    ("inflated_twice", refusals.inflated_twice),
                    ("never_inflated", refusals.never_inflated),
                ],
            )
        },
    ),
    Family::counter(
        "aerostat_memory_reported_kept_frames",
        "Frames reported free in pieces of a huge block that could not be split, which were kept",
        of!(refusals.reported_kept),
    ),
];
