//! Entries for measurements and experiments only: harvest and promotion by themselves, and a host that is
//! short of memory.

use std::time::{Duration, Instant};

use super::MemoryService;
use crate::core::compact::{Compactor, PolicyKind};
use crate::core::page_type::PageType;
use crate::core::request::{Flags, Request};
use crate::core::units::{BLOCK_SIZE, Order};
use crate::space::guest::OUTSIDE;
use crate::stats::HostStats;

/// What moving came to.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Blocks won, or promoted.
    pub blocks: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Time taken.
    pub took: Duration,
}

impl MemoryService {
    /// Empties all the blocks that can be, with so many movers.
    #[doc(hidden)]
    pub fn measure_harvest(&self, movers: usize) -> Moved {
        let mut compactor = Compactor::new(PolicyKind::Occupancy.make());
        let before = self.copied_bytes();
        let start = Instant::now();
        let run = self.space.compact_with(&mut compactor, movers);
        Moved { blocks: run.emptied, bytes: self.copied_bytes() - before, took: start.elapsed() }
    }

    /// Promotes all the blocks that can be, with so many movers. That whole blocks are made first is not
    /// in the time.
    #[doc(hidden)]
    pub fn measure_promotion(&self, movers: usize) -> Moved {
        let (blocks, took) = self.space.promote_with(movers);
        Moved { blocks, bytes: blocks * BLOCK_SIZE as u64, took }
    }

    /// Takes all that is free above the min watermark, for good; says how many frames. What is released later is
    /// free again.
    #[doc(hidden)]
    pub fn occupy(&self) -> u64 {
        const FRAME: Request = Request::new(Order::FRAME, PageType::Kmem).flags(Flags::NOWAIT);
        let alloc = self.allocator();
        let mut taken = 0;
        loop {
            // What lies in the lists of CPUs is free, too.
            alloc.drain_all();
            let more = std::iter::from_fn(|| alloc.alloc(OUTSIDE, &FRAME).ok()).count();
            if more == 0 {
                return taken;
            }
            taken += more as u64;
        }
    }

    /// Resident memory by the kernel's page tables: [`MemoryStats::host`] is the same by our own state.
    ///
    /// # Errors
    /// The kernel does not say.
    #[doc(hidden)]
    pub fn walk(&self) -> std::io::Result<HostStats> {
        self.space.walk()
    }

    fn copied_bytes(&self) -> u64 {
        self.stats().mover.counts.copied_bytes
    }
}
