//! The figures of `GET /memory/buddy`, `/types`, `/zone` and `/slabs`.

use std::fmt;

use memsvc::stats::{BuddyInfo, CacheInfo, CpuInfo, OrderInfo, SlabInfo, TypeInfo, ZoneInfo};

use super::family::{Family, Number, Samples, of};
use crate::api::types::{by_page_type, owner_name};

/// Free chunks by order, and the fragmentation indices.
pub(super) const BUDDY: &[Family<BuddyInfo>] = &[
    Family::gauge(
        "aerostat_memory_buddy_free_frames",
        "Frames in the free lists; those in per-CPU lists are not among them",
        of!(free_frames),
    ),
    Family::gauge(
        "aerostat_memory_free_chunks",
        "Free chunks of exactly this order (2^order frames)",
        |from, to| by_order(from, to, |order| order.free_chunks.into()),
    ),
    Family::gauge(
        "aerostat_memory_unusable_free_index",
        "Thousandths of what is free that a request of this order cannot use",
        |from, to| by_order(from, to, |order| order.unusable_free_index.into()),
    ),
    Family::gauge(
        "aerostat_memory_extfrag_index",
        "Why a request of this order would fail: -1000 it would not, to 0 lack of memory, to 1000 fragmented",
        |from, to| by_order(from, to, |order| order.extfrag_index.into()),
    ),
];

/// Migrate types, and who is charged.
pub(super) const TYPES: &[Family<TypeInfo>] = &[
    Family::gauge(
        "aerostat_memory_migrate_type_blocks",
        "Blocks that have been handed out in pieces, by migrate type",
        |from, to| {
            to.each("migrate_type", from.migrate_types.iter().map(|t| (t.migrate_type.name(), t.blocks)))
        },
    ),
    Family::gauge(
        "aerostat_memory_migrate_type_free_chunks",
        "Free chunks in these blocks, by migrate type and order",
        |from, to| {
            from.migrate_types.iter().try_for_each(|of| {
                (0_u8..).zip(&of.free_chunks).try_for_each(|(order, &chunks)| {
                    let order = order.to_string();
                    to.with([("migrate_type", of.migrate_type.name()), ("order", &order)], chunks)
                })
            })
        },
    ),
    Family::gauge(
        "aerostat_memory_whole_free_blocks",
        "Whole free blocks, which belong to no migrate type",
        of!(whole_free_blocks),
    ),
    Family::gauge("aerostat_memory_charged_frames", "Frames charged, by owner and page type", |from, to| {
        from.charges.iter().try_for_each(|charge| {
            let owner = owner_name(charge.owner);
            let charged = by_page_type(&charge.frames).into_iter().filter(|(of, _)| of.is_charged());
            charged.into_iter().try_for_each(|(page_type, frames)| {
                to.with([("owner", owner.as_ref()), ("page_type", page_type.name())], frames)
            })
        })
    }),
    Family::gauge(
        "aerostat_memory_charge_limit_frames",
        "Frames that may be charged; owners without a limit are left out",
        |from, to| {
            let mut limits = from.charges.iter().filter_map(|charge| Some((charge.owner, charge.limit?)));
            limits.try_for_each(|(owner, limit)| to.with([("owner", owner_name(owner))], limit))
        },
    ),
    Family::counter(
        "aerostat_memory_charge_refused",
        "Requests refused because of the owner's limit",
        |from, to| {
            let mut charges = from.charges.iter();
            charges.try_for_each(|charge| to.with([("owner", owner_name(charge.owner))], charge.refused))
        },
    ),
];

/// Watermarks, reserve, per-CPU lists, counters.
pub(super) const ZONE: &[Family<ZoneInfo>] = &[
    Family::gauge("aerostat_memory_zone_frames", "Frames that the allocator has", of!(frames)),
    Family::gauge("aerostat_memory_zone_free_frames", "Of these, frames in the free lists", of!(free)),
    Family::gauge(
        "aerostat_memory_watermark_frames",
        "Free frames: below min the reserve begins, below low memory is reclaimed until there are high",
        |from, to| to.each("watermark", [("min", from.min), ("low", from.low), ("high", from.high)]),
    ),
    Family::gauge("aerostat_memory_metadata_bytes", "Size of the allocator's own tables", |from, to| {
        to.put(from.frames.saturating_mul(from.metadata_millibytes_per_frame) / 1000)
    }),
    Family::gauge("aerostat_memory_reserve_frames", "Size of the reserve", of!(reserve.frames)),
    Family::gauge("aerostat_memory_reserve_free_frames", "Of the reserve, what is free", of!(reserve.free)),
    Family::gauge(
        "aerostat_memory_reserve_lowest_free_frames",
        "The least of the reserve that was ever free",
        of!(reserve.lowest_free),
    ),
    Family::gauge(
        "aerostat_memory_reserve_in_use_frames",
        "Frames in use that were had only because of MEMALLOC",
        of!(reserve.in_use),
    ),
    Family::gauge(
        "aerostat_memory_throttle_waiting",
        "Requesters that wait because half of the reserve is gone",
        of!(reserve.waiting),
    ),
    Family::counter(
        "aerostat_memory_throttled",
        "Times a requester was made to wait",
        of!(reserve.throttled),
    ),
    Family::counter(
        "aerostat_memory_throttle_timeouts",
        "Waits that were over before the reserve was back",
        of!(reserve.timed_out),
    ),
    Family::counter(
        "aerostat_memory_throttle_waited_seconds",
        "Time that requesters waited in all",
        |from, to| to.put(from.reserve.waited_us as f64 / 1e6),
    ),
    Family::gauge(
        "aerostat_memory_cpu_list_frames",
        "Frames in a per-CPU list: ready to be handed out, or freed and not yet drained",
        |from, to| by_cpu(from, to, |cpu| [cpu.ready_frames, cpu.freed_frames]),
    ),
    Family::gauge(
        "aerostat_memory_cpu_list_blocks",
        "Whole blocks in a per-CPU list: ready to be handed out, or freed and not yet drained",
        |from, to| by_cpu(from, to, |cpu| [cpu.ready_blocks, cpu.freed_blocks]),
    ),
    Family::counter(
        "aerostat_memory_refills",
        "Refills of a per-CPU list from the free lists",
        of!(counters.refills),
    ),
    Family::counter(
        "aerostat_memory_drains",
        "Drains of a per-CPU list to the free lists, by its own CPU",
        of!(counters.drains),
    ),
    Family::counter(
        "aerostat_memory_drain_all",
        "Times all per-CPU lists were drained",
        of!(counters.drain_all),
    ),
    Family::counter("aerostat_memory_drain_visits", "Lists visited to drain all", of!(counters.drain_visits)),
    Family::counter(
        "aerostat_memory_drain_visits_saved",
        "Lists not visited to drain all, because they held nothing",
        of!(counters.drain_visits_saved),
    ),
    Family::counter(
        "aerostat_memory_drain_busy",
        "Lists in use when all were drained, which were asked to drain themselves",
        of!(counters.drain_busy),
    ),
    Family::counter("aerostat_memory_alloc_failed", "Requests that found nothing", of!(counters.failed)),
    Family::counter(
        "aerostat_memory_alloc_from_reserve",
        "Requests served from the reserve",
        of!(counters.from_reserve),
    ),
    Family::counter(
        "aerostat_memory_low_watermark_hits",
        "Times free memory fell below the low watermark",
        of!(counters.low_hits),
    ),
    Family::counter(
        "aerostat_memory_steals",
        "Free chunks taken from blocks of another migrate type",
        of!(counters.steals),
    ),
    Family::counter(
        "aerostat_memory_converted_blocks",
        "Blocks that changed their migrate type",
        of!(counters.blocks_converted),
    ),
    Family::counter(
        "aerostat_memory_free_errors",
        "Frees that were refused: freed twice, not a head, wrong order",
        of!(counters.free_errors),
    ),
];

/// Slab caches.
pub(super) const SLABS: &[Family<SlabInfo>] = &[
    Family::gauge(
        "aerostat_memory_slab_objects",
        "Places for objects: active ones are in use",
        |from, to| {
            from.caches.iter().try_for_each(|cache| {
                let free = cache.objects.saturating_sub(cache.active_objects);
                [("active", cache.active_objects), ("free", free)].into_iter().try_for_each(
                    |(state, objects)| to.with([("cache", cache.name.as_str()), ("state", state)], objects),
                )
            })
        },
    ),
    Family::gauge("aerostat_memory_slab_object_bytes", "Size of the place of an object", |from, to| {
        by_cache(from, to, |cache| cache.object_size.into())
    }),
    Family::gauge("aerostat_memory_slab_objects_per_slab", "Places in a slab", |from, to| {
        by_cache(from, to, |cache| cache.objects_per_slab.into())
    }),
    Family::gauge("aerostat_memory_slabs", "Slabs", |from, to| by_cache(from, to, |cache| cache.slabs)),
    Family::gauge("aerostat_memory_slab_frames", "Frames of all slabs of the cache", |from, to| {
        by_cache(from, to, |cache| cache.slabs.saturating_mul(cache.frames_per_slab.into()))
    }),
    Family::gauge(
        "aerostat_memory_slabs_of_reserve",
        "Slabs of reserve frames, which serve only MEMALLOC requests",
        |from, to| by_cache(from, to, |cache| cache.reserve_slabs),
    ),
    Family::gauge(
        "aerostat_memory_slab_requested_bytes",
        "Bytes asked for by the objects in use; what the frames hold beyond them is waste",
        |from, to| by_cache(from, to, |cache| cache.requested_bytes),
    ),
];

fn by_order(from: &BuddyInfo, to: &mut Samples<'_>, value: fn(&OrderInfo) -> Number) -> fmt::Result {
    from.orders.iter().try_for_each(|order| to.with([("order", order.order.to_string())], value(order)))
}

/// `lists` says what is ready, and what was freed.
fn by_cpu(from: &ZoneInfo, to: &mut Samples<'_>, lists: fn(&CpuInfo) -> [u64; 2]) -> fmt::Result {
    from.cpus.iter().try_for_each(|cpu| {
        let number = cpu.cpu.to_string();
        ["ready", "freed"]
            .into_iter()
            .zip(lists(cpu))
            .try_for_each(|(state, held)| to.with([("cpu", number.as_str()), ("state", state)], held))
    })
}

fn by_cache(from: &SlabInfo, to: &mut Samples<'_>, value: fn(&CacheInfo) -> u64) -> fmt::Result {
    to.each("cache", from.caches.iter().map(|cache| (cache.name.as_str(), value(cache))))
}
