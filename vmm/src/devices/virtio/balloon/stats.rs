//! Guest statistics: the driver keeps one buffer in the queue; giving it back asks for fresh ones.
//!
//! ```text
//!   driver: buffer with stats ──▶ parsed and held ── timer ──▶ given back ──▶ driver refills it …
//! ```

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

/// What the guest says of its memory; only what it said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[rustfmt::skip] // Two columns: field and tag side by side would be wrapped.
#[allow(missing_docs)] // Named as in the API and in `VIRTIO_BALLOON_S_*`; amounts are bytes.
pub struct GuestStats {
    #[serde(skip_serializing_if = "Option::is_none")] pub swap_in: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub swap_out: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub major_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub minor_faults: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub free_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub total_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub available_memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub disk_caches: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub hugetlb_allocations: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub hugetlb_failures: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub oom_kill: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub alloc_stall: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub async_scan: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub direct_scan: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub async_reclaim: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")] pub direct_reclaim: Option<u64>,
}

/// Sizes of the balloon and what the guest says of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStats {
    /// What the host wants, in pages of 4 KiB.
    pub target_pages: u32,
    /// What the guest says it gave, in pages of 4 KiB.
    pub actual_pages: u32,
    /// The same in MiB.
    pub target_mib: u32,
    /// The same in MiB, rounded down.
    pub actual_mib: u32,
    /// From the statistics queue.
    #[serde(flatten)]
    pub guest: GuestStats,
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

/// The newest statistics and the buffers that wait for the next poll.
#[derive(Debug)]
pub(super) struct StatsQueue {
    latest: GuestStats,
    held: Vec<u16>,
    bytes: Box<[u8; ENTRY * MAX_ENTRIES]>,
}

impl StatsQueue {
    pub(super) fn new() -> Self {
        Self {
            latest: GuestStats::default(),
            held: Vec::with_capacity(MAX_HELD),
            bytes: Box::new([0; ENTRY * MAX_ENTRIES]),
        }
    }

    pub(super) fn latest(&self) -> GuestStats {
        self.latest
    }

    /// Reads a chain of statistics and keeps it.
    pub(super) fn receive(
        &mut self,
        memory: &GuestRam,
        chain: Chain<'_>,
        metrics: &BalloonMetrics,
    ) -> Completion {
        let mut fresh = GuestStats::default();
        for buffer in chain.buffers {
            self.read(memory, buffer, &mut fresh, metrics);
        }
        if fresh != GuestStats::default() {
            self.latest = fresh;
            metrics.stats_updates.inc();
        }
        if !self.held.is_empty() {
            metrics.bad_stats_buffers.inc();
        }
        if self.held.len() == MAX_HELD {
            return Completion::Used(0);
        }
        self.held.push(chain.head);
        Completion::Held
    }

    /// The buffers to give back, so that the driver fills them anew.
    pub(super) fn release(&mut self) -> impl Iterator<Item = u16> {
        self.held.drain(..)
    }

    /// The driver is gone, and its buffers with it.
    pub(super) fn reset(&mut self) {
        self.held.clear();
        self.latest = GuestStats::default();
    }

    fn read(
        &mut self,
        memory: &GuestRam,
        buffer: &Descriptor,
        into: &mut GuestStats,
        metrics: &BalloonMetrics,
    ) {
        let len = buffer.len() as usize;
        let bytes = &mut self.bytes[..len.min(ENTRY * MAX_ENTRIES)];
        let bad = buffer.is_write_only()
            || bytes.len() < len
            || !len.is_multiple_of(ENTRY)
            || memory.read_slice(bytes, buffer.addr()).is_err();
        if bad {
            return metrics.bad_stats_buffers.inc();
        }
        for &[t0, t1, ref value @ ..] in bytes.as_chunks::<ENTRY>().0 {
            match into.field(u16::from_le_bytes([t0, t1])) {
                Some(field) => *field = Some(u64::from_le_bytes(*value)),
                None => metrics.unknown_stats.inc(),
            }
        }
    }
}
