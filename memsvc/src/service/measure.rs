//! Harvest and promotion by themselves, to measure them.

use std::time::{Duration, Instant};

use super::MemoryService;
use crate::core::compact::{Compactor, PolicyKind};
use crate::core::units::BLOCK_SIZE;

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

    fn copied_bytes(&self) -> u64 {
        self.stats().mover.counts.copied_bytes
    }
}
