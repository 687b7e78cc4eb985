//! What `GET /swap` says; the link's counters are among those of the devices.

use memsvc::swap::SwapStats;

use super::family::{Family, of};

/// What is stored, what was asked for.
pub(super) const FAMILIES: &[Family<SwapStats>] = &[
    Family::gauge("aerostat_swap_pages", "Pages of the swap device", of!(store.pages)),
    Family::gauge("aerostat_swap_stored_pages", "Pages of which something is stored, by how", |from, to| {
        let store = &from.store;
        let packed = store.stored_pages.saturating_sub(store.same_filled_pages + store.incompressible_pages);
        to.each(
            "how",
            [
                ("packed", packed),
                ("same_filled", store.same_filled_pages),
                ("incompressible", store.incompressible_pages),
            ],
        )
    }),
    Family::gauge("aerostat_swap_stored_bytes", "Bytes of these pages, packed", of!(store.stored_bytes)),
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
