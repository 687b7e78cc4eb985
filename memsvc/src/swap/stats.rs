//! Swap's statistics.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::tier::RemoteStats;
use crate::stats::{Counter, LatencyCounters, LatencyStats, counters};

counters! {
    /// What was asked for, by NBD or of the disk.
    NbdCounters => NbdStats {
        /// Connections made; of the disk: times that a driver brought it up.
        connections,
        /// Reads.
        reads,
        /// Pages that were sent.
        pages_read,
        /// Writes.
        writes,
        /// Pages that were stored.
        pages_written,
        /// Trims, and writes of zeroes.
        erasures,
        /// Flushes.
        flushes,
        /// Requests that were answered by an error.
        errors,
        /// Requests and options that made no sense, or that are not served.
        refused,
        /// Connections that were closed because what came was no NBD.
        malformed,
    }
}

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StoreStats {
    /// Pages of the device.
    pub pages: u64,
    /// Pages of which something is stored: those that are not all zeroes.
    pub stored_pages: u64,
    /// Of these, pages of one word repeated, which take no memory.
    pub same_filled_pages: u64,
    /// Of these, pages in memory that packing does not make smaller.
    pub incompressible_pages: u64,
    /// Of these, pages on tiers.
    pub tier_pages: u64,
    /// Bytes in memory of the pages, packed, and of the records of pages on tiers.
    pub stored_bytes: u64,
    /// Of these, bytes of the records.
    pub record_bytes: u64,
    /// What packing makes of pages in memory that are not same-filled: their bytes by those they take, in
    /// thousandths. 0 when there are none.
    pub ratio_thousandths: u64,
    /// Most of these.
    pub limit_bytes: u64,
    /// Bytes of the table that says where each page is, beside these.
    pub table_bytes: u64,
    /// Writes refused for want of room.
    pub no_room: u64,
    /// Pages that could not be read back: a bug.
    pub lost: u64,
    /// Pages that came back from a tier other than they went there, and were not believed.
    pub corrupt: u64,
    /// Writes that waited until tiers had made room.
    pub throttled: u64,
    /// What is below, from the first tier to the last.
    pub tiers: Vec<TierStats>,
}

impl StoreStats {
    /// Pages in memory that are smaller for being packed.
    pub fn packed_pages(&self) -> u64 {
        let others = self.same_filled_pages + self.incompressible_pages + self.tier_pages;
        // They are counted one after the other while pages come and go.
        self.stored_pages.saturating_sub(others)
    }
}

/// A tier below the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TierStats {
    /// Where it is, as it was configured.
    pub name: String,
    /// Pages that it can have.
    pub pages: u64,
    /// Pages that it has.
    pub stored_pages: u64,
    /// Pages that were read.
    pub pages_read: u64,
    /// Pages that were written.
    pub pages_written: u64,
    /// Pages that it was told are not needed any more.
    pub pages_discarded: u64,
    /// Operations that it refused.
    pub errors: u64,
    /// Operations that it did not answer in time.
    pub timeouts: u64,
    /// What the connection to it went through, if it is a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RemoteStats>,
}

/// How long requests took, from when their header had come until their reply could be sent; of the disk: until they were
/// done. Those that were answered by an error are not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwapLatency {
    /// Reads of which all that is sent first (256 KiB at the most) was in memory.
    pub reads: LatencyStats,
    /// The other reads: they waited for a tier.
    pub reads_from_tiers: LatencyStats,
    /// Writes; the time in which their data came is part of it.
    pub writes: LatencyStats,
}

/// The live counters of these.
#[derive(Debug, Default)]
pub(crate) struct SwapLatencies {
    pub(crate) reads: LatencyCounters,
    pub(crate) reads_from_tiers: LatencyCounters,
    pub(crate) writes: LatencyCounters,
}

impl SwapLatencies {
    /// Reads that had to wait for a tier, or the others.
    pub(crate) fn of_reads(&self, have_waited: bool) -> &LatencyCounters {
        if have_waited { &self.reads_from_tiers } else { &self.reads }
    }

    pub(crate) fn snapshot(&self) -> SwapLatency {
        SwapLatency {
            reads: self.reads.snapshot(),
            reads_from_tiers: self.reads_from_tiers.snapshot(),
            writes: self.writes.snapshot(),
        }
    }
}

/// Swap of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwapStats {
    /// How long there has been a device, microseconds. Counters began at 0 then: who reads twice knows how fast
    /// they grow.
    pub uptime_us: u64,
    /// What is stored.
    pub store: StoreStats,
    /// What was asked for.
    pub nbd: NbdStats,
    /// How long it took.
    pub latency: SwapLatency,
}
