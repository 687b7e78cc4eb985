//! Guest statistics: the driver keeps one buffer in the queue; giving it back asks for fresh ones.
//!
//! ```text
//!   driver: buffer with stats ──▶ parsed and held ── timer, or somebody asks ──▶ given back ──▶ driver refills it …
//! ```
//! A statistic that a buffer lacks keeps the value that it had.

use serde::{Deserialize, Serialize};
use virtio_queue::desc::split::Descriptor;
use vm_memory::Bytes;

use super::BalloonMetrics;
use crate::devices::virtio::{Chain, Completion, GuestRam};

/// `struct virtio_balloon_stat`: 16-bit tag, 64-bit value, packed (section 5.5.6.4).
const ENTRY: usize = 10;
/// Entries read of one buffer; Linux sends at most 16.
const MAX_ENTRIES: usize = 256;
/// Buffers held at a time; the specification speaks of one.
const MAX_HELD: usize = 4;

/// What the guest said last of its memory (`VIRTIO_BALLOON_S_*`); only what it ever said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct GuestStats {
    /// Bytes swapped in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    /// Major faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Minor faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    /// Bytes that nobody uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_memory: Option<u64>,
    /// Bytes that the guest's kernel has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_memory: Option<u64>,
    /// Bytes that programs can have without swapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_memory: Option<u64>,
    /// Bytes of cached files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_caches: Option<u64>,
    /// Huge pages of hugetlbfs that were handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages of hugetlbfs that could not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugetlb_failures: Option<u64>,
    /// Processes killed for want of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    /// Allocations that had to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alloc_stall: Option<u64>,
    /// Pages looked at by the background reclaimer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub async_scan: Option<u64>,
    /// Pages looked at by allocating tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_scan: Option<u64>,
    /// Pages reclaimed by the background reclaimer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub async_reclaim: Option<u64>,
    /// Pages reclaimed by allocating tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_reclaim: Option<u64>,
}

impl GuestStats {
    /// The field that a tag (`VIRTIO_BALLOON_S_*`) means.
    fn field(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_memory,
            5 => &mut self.total_memory,
            6 => &mut self.available_memory,
            7 => &mut self.disk_caches,
            8 => &mut self.hugetlb_allocations,
            9 => &mut self.hugetlb_failures,
            10 => &mut self.oom_kill,
            11 => &mut self.alloc_stall,
            12 => &mut self.async_scan,
            13 => &mut self.direct_scan,
            14 => &mut self.async_reclaim,
            15 => &mut self.direct_reclaim,
            _ => return None,
        })
    }
}

/// The buffers that wait for the next poll.
#[derive(Debug)]
pub(super) struct StatsQueue {
    held: Vec<u16>,
    bytes: Box<[u8; ENTRY * MAX_ENTRIES]>,
}

impl StatsQueue {
    pub(super) fn new() -> Self {
        Self { held: Vec::with_capacity(MAX_HELD), bytes: Box::new([0; ENTRY * MAX_ENTRIES]) }
    }

    /// Reads a chain of statistics into `latest` and keeps it; whether it said anything.
    pub(super) fn receive(
        &mut self,
        memory: &GuestRam,
        chain: Chain<'_>,
        metrics: &BalloonMetrics,
        latest: &mut GuestStats,
    ) -> (bool, Completion) {
        let mut is_fresh = false;
        for buffer in chain.buffers {
            is_fresh |= self.read(memory, buffer, latest, metrics);
        }
        if is_fresh {
            metrics.stats_updates.inc();
        }
        if !self.held.is_empty() {
            metrics.bad_stats_buffers.inc();
        }
        if self.held.len() == MAX_HELD {
            return (is_fresh, Completion::Used(0));
        }
        self.held.push(chain.head);
        (is_fresh, Completion::Held)
    }

    /// The buffers to give back, so that the driver fills them anew.
    pub(super) fn release(&mut self) -> impl Iterator<Item = u16> {
        self.held.drain(..)
    }

    /// The driver is gone, and its buffers with it.
    pub(super) fn reset(&mut self) {
        self.held.clear();
    }

    /// Reads a buffer; whether it said anything.
    fn read(
        &mut self,
        memory: &GuestRam,
        buffer: &Descriptor,
        into: &mut GuestStats,
        metrics: &BalloonMetrics,
    ) -> bool {
        let len = buffer.len() as usize;
        let bytes = &mut self.bytes[..len.min(ENTRY * MAX_ENTRIES)];
        let bad = buffer.is_write_only()
            || bytes.len() < len
            || !len.is_multiple_of(ENTRY)
            || memory.read_slice(bytes, buffer.addr()).is_err();
        if bad {
            metrics.bad_stats_buffers.inc();
            return false;
        }
        let mut is_fresh = false;
        for &[t0, t1, ref value @ ..] in bytes.as_chunks::<ENTRY>().0 {
            match into.field(u16::from_le_bytes([t0, t1])) {
                Some(field) => {
                    *field = Some(u64::from_le_bytes(*value));
                    is_fresh = true;
                }
                None => metrics.unknown_stats.inc(),
            }
        }
        is_fresh
    }
}
