//! The figures of `GET /swap`; the link's counters are among those of the devices.

use std::fmt;

use memsvc::swap::{SwapStats, TierStats};

use super::family::{Family, Samples, of};

/// What is stored, what was asked for, how long it took.
pub(super) const FAMILIES: &[Family<SwapStats>] = &[
    Family::gauge("aerostat_swap_pages", "Pages of the swap device", of!(store.pages)),
    Family::gauge("aerostat_swap_stored_pages", "Pages of which something is stored, by how", |from, to| {
        let store = &from.store;
        to.each(
            "how",
            [
                ("packed", store.packed_pages()),
                ("same_filled", store.same_filled_pages),
                ("incompressible", store.incompressible_pages),
                ("on_tiers", store.tier_pages),
            ],
        )
    }),
    Family::gauge(
        "aerostat_swap_stored_bytes",
        "Bytes in memory of these pages, packed, and of the records of those on tiers",
        of!(store.stored_bytes),
    ),
    Family::gauge(
        "aerostat_swap_record_bytes",
        "Of these, bytes of the records of pages on tiers",
        of!(store.record_bytes),
    ),
    Family::gauge(
        "aerostat_swap_ratio",
        "Bytes of pages in memory by those they take, without same-filled ones",
        |from, to| to.put(from.store.ratio_thousandths as f64 / 1000.0),
    ),
    Family::gauge("aerostat_swap_limit_bytes", "Most of these", of!(store.limit_bytes)),
    Family::gauge(
        "aerostat_swap_table_bytes",
        "Bytes of the table of pages, beside these",
        of!(store.table_bytes),
    ),
    Family::counter("aerostat_swap_no_room", "Pages refused for want of room", of!(store.no_room)),
    Family::counter("aerostat_swap_lost", "Pages that could not be read back: a bug", of!(store.lost)),
    Family::counter(
        "aerostat_swap_corrupt",
        "Pages that came back from a tier other than they went there",
        of!(store.corrupt),
    ),
    Family::counter(
        "aerostat_swap_throttled",
        "Writes that waited until tiers had made room",
        of!(store.throttled),
    ),
    Family::gauge("aerostat_swap_tier_pages", "Pages that a tier can have", |from, to| {
        by_tier(from, to, |tier| tier.pages)
    }),
    Family::gauge("aerostat_swap_tier_stored_pages", "Pages that it has", |from, to| {
        by_tier(from, to, |tier| tier.stored_pages)
    }),
    Family::counter("aerostat_swap_tier_read_pages", "Pages read from it", |from, to| {
        by_tier(from, to, |tier| tier.pages_read)
    }),
    Family::counter("aerostat_swap_tier_written_pages", "Pages written to it", |from, to| {
        by_tier(from, to, |tier| tier.pages_written)
    }),
    Family::counter(
        "aerostat_swap_tier_discarded_pages",
        "Pages that it was told are not needed any more",
        |from, to| by_tier(from, to, |tier| tier.pages_discarded),
    ),
    Family::counter("aerostat_swap_tier_errors", "Operations that it refused", |from, to| {
        by_tier(from, to, |tier| tier.errors)
    }),
    Family::counter(
        "aerostat_swap_tier_timeouts",
        "Operations that it did not answer in time",
        |from, to| by_tier(from, to, |tier| tier.timeouts),
    ),
    Family::counter(
        "aerostat_swap_tier_connection_events",
        "What the connection to a tier that is a server went through",
        |from, to| {
            from.store.tiers.iter().enumerate().try_for_each(|(at, tier)| {
                let Some(remote) = &tier.remote else { return Ok(()) };
                let events = [
                    ("lost", remote.lost),
                    ("reconnected", remote.reconnects),
                    ("operation_resent", remote.resent),
                    ("operation_timed_out", remote.timeouts),
                ];
                events.into_iter().try_for_each(|(event, count)| {
                    to.with([("tier", &*at.to_string()), ("name", &tier.name), ("event", event)], count)
                })
            })
        },
    ),
    Family::histogram(
        "aerostat_swap_latency_seconds",
        "From the header of a request to its reply: reads from memory, reads that waited for tiers, writes",
        |from, to| {
            let latency = &from.latency;
            to.times([("request", "read")], &latency.reads)?;
            to.times([("request", "read_from_tier")], &latency.reads_from_tiers)?;
            to.times([("request", "write")], &latency.writes)
        },
    ),
    Family::gauge("aerostat_swap_latency_max_seconds", "The longest of these", |from, to| {
        let latency = &from.latency;
        [("read", &latency.reads), ("read_from_tier", &latency.reads_from_tiers), ("write", &latency.writes)]
            .into_iter()
            .try_for_each(|(request, times)| to.with([("request", request)], times.max_us as f64 / 1e6))
    }),
    Family::counter("aerostat_swap_connections", "NBD connections made", of!(nbd.connections)),
    Family::counter("aerostat_swap_requests", "NBD requests, by kind", |from, to| {
        let nbd = &from.nbd;
        to.each(
            "kind",
            [("read", nbd.reads), ("write", nbd.writes), ("erase", nbd.erasures), ("flush", nbd.flushes)],
        )
    }),
    Family::counter("aerostat_swap_in_pages", "Pages read by the guest", of!(nbd.pages_read)),
    Family::counter("aerostat_swap_out_pages", "Pages written by the guest", of!(nbd.pages_written)),
    Family::counter("aerostat_swap_errors", "Requests that were answered by an error", of!(nbd.errors)),
    Family::counter("aerostat_swap_refused", "Requests and options that made no sense", of!(nbd.refused)),
    Family::counter(
        "aerostat_swap_malformed",
        "Connections closed because what came was no NBD",
        of!(nbd.malformed),
    ),
];

/// Tiers are numbered from the first; two may have the same name.
fn by_tier(from: &SwapStats, to: &mut Samples<'_>, value: fn(&TierStats) -> u64) -> fmt::Result {
    from.store
        .tiers
        .iter()
        .enumerate()
        .try_for_each(|(at, tier)| to.with([("tier", &*at.to_string()), ("name", &tier.name)], value(tier)))
}
