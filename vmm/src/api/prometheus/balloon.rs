//! The balloon device, and what the guest tells through it.

use super::family::{Family, of};
use crate::api::types::{BalloonProgress, GuestStats};

/// How far the balloon is.
pub(super) const DEVICE: &[Family<BalloonProgress>] = &[
    Family::gauge("aerostat_balloon_target_bytes", "What the guest is asked to give up", |from, to| {
        to.put_known(from.target_mib.bytes())
    }),
    Family::gauge("aerostat_balloon_actual_bytes", "What the guest has given up", |from, to| {
        to.put_known(from.actual_mib.bytes())
    }),
    Family::gauge("aerostat_balloon_host_freed_bytes", "Of that, what the host has back", |from, to| {
        to.put_known(from.host_freed_mib.bytes())
    }),
];

/// What the guest told last; it may leave out any of it.
pub(super) const GUEST: &[Family<GuestStats>] = &[
    Family::gauge("aerostat_guest_total_bytes", "Memory that the guest's kernel has", of!(total_memory?)),
    Family::gauge("aerostat_guest_free_bytes", "Memory of the guest that nobody uses", of!(free_memory?)),
    Family::gauge(
        "aerostat_guest_available_bytes",
        "Memory that the guest's programs can have without swapping",
        of!(available_memory?),
    ),
    Family::gauge("aerostat_guest_disk_caches_bytes", "Files that the guest has cached", of!(disk_caches?)),
    Family::counter("aerostat_guest_swapped_in_bytes", "What the guest swapped in", of!(swap_in?)),
    Family::counter("aerostat_guest_swapped_out_bytes", "What the guest swapped out", of!(swap_out?)),
    Family::counter("aerostat_guest_major_faults", "Major faults in the guest", of!(major_faults?)),
    Family::counter("aerostat_guest_minor_faults", "Minor faults in the guest", of!(minor_faults?)),
    Family::counter(
        "aerostat_guest_hugetlb_allocations",
        "Huge pages of hugetlbfs that the guest handed out",
        of!(hugetlb_allocations?),
    ),
    Family::counter(
        "aerostat_guest_hugetlb_failures",
        "Huge pages of hugetlbfs that the guest could not hand out",
        of!(hugetlb_failures?),
    ),
    Family::counter(
        "aerostat_guest_oom_kills",
        "Processes that the guest killed for want of memory",
        of!(oom_kill?),
    ),
    Family::counter(
        "aerostat_guest_alloc_stalls",
        "Allocations in the guest that had to wait",
        of!(alloc_stall?),
    ),
    Family::counter(
        "aerostat_guest_background_scanned_pages",
        "Pages looked at by the guest's background reclaimer",
        of!(async_scan?),
    ),
    Family::counter(
        "aerostat_guest_direct_scanned_pages",
        "Pages looked at by the guest's allocating tasks",
        of!(direct_scan?),
    ),
    Family::counter(
        "aerostat_guest_background_reclaimed_pages",
        "Pages reclaimed by the guest's background reclaimer",
        of!(async_reclaim?),
    ),
    Family::counter(
        "aerostat_guest_direct_reclaimed_pages",
        "Pages reclaimed by the guest's allocating tasks",
        of!(direct_reclaim?),
    ),
];
