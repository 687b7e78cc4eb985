//! Two scanners that come towards each other, as Linux compacts a zone (`compact_zone`, mm/compaction.c).
//!
//! ```text
//!   0 ──▶ migrate: empties            fills: free ◀── end
//! ```
//! Where they are is kept from run to run. When they meet, all has been looked at: they start anew at both
//! ends the next time, and blocks of which something would not move are tried again.

use super::{Blocks, Policy};
use crate::core::isolate::BlockUse;
use crate::core::units::BlockId;

/// Empties from the start, fills from the end.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The next block to empty.
    migrate: u32,
    /// The next block to fill is the one before.
    free: Option<u32>,
    /// Blocks of which something would not move: bit by number.
    skip: Vec<u64>,
}

impl Scanner {
    fn is_skipped(&self, block: BlockId) -> bool {
        self.skip.get(block.0 as usize / 64).is_some_and(|word| word >> (block.0 % 64) & 1 == 1)
    }

    /// Blocks that can be filled, from the end.
    fn receivers(&self, blocks: &dyn Blocks, above: u32) -> impl Iterator<Item = (BlockId, u32)> {
        let all =
            (above..self.free.unwrap_or(above)).rev().map(BlockId).filter(|block| !self.is_skipped(*block));
        let room = |block| Some((block, u32::from(blocks.at(block)?.room)));
        all.filter_map(room).filter(|(_, room)| *room > 0)
    }

    /// True when what is in the block has room in those above it: mostly the first will do.
    fn fits(&self, blocks: &dyn Blocks, block: BlockId, used: BlockUse) -> bool {
        let mut room = 0;
        self.receivers(blocks, block.0 + 1).any(|(_, more)| {
            room += more;
            room >= used.live.into()
        })
    }

    fn reset(&mut self, blocks: &dyn Blocks) {
        *self = Self {
            migrate: 0,
            free: Some(blocks.count()),
            skip: vec![0; blocks.count().div_ceil(64) as usize],
        };
    }
}

impl Policy for Scanner {
    fn begin(&mut self, blocks: &dyn Blocks) {
        if self.free.is_none_or(|free| free <= self.migrate) {
            self.reset(blocks);
        }
    }

    fn source(&mut self, blocks: &dyn Blocks) -> Option<BlockId> {
        let end = self.free?;
        let is_source = |block: &BlockId| {
            // A huge page that is all in use is whole already.
            let is_worth = |used: BlockUse| used.live > 0 && used.room > 0 && self.fits(blocks, *block, used);
            !self.is_skipped(*block) && blocks.at(*block).is_some_and(is_worth)
        };
        let source = (self.migrate..end).map(BlockId).find(is_source);
        self.migrate = source.map_or(end, |source| source.0 + 1);
        source
    }

    fn receiver(&mut self, blocks: &dyn Blocks) -> Option<BlockId> {
        let receiver = self.receivers(blocks, self.migrate).next().map(|(block, _)| block);
        // What room is left in it is for the next.
        self.free = Some(receiver.map_or(self.migrate, |receiver| receiver.0 + 1));
        receiver
    }

    fn failed(&mut self, block: BlockId) {
        if let Some(word) = self.skip.get_mut(block.0 as usize / 64) {
            *word |= 1 << (block.0 % 64);
        }
    }
}
