//! The cheapest blocks first: those with the fewest live frames are emptied, the fullest are filled.
//!
//! ```text
//!   by live frames:   3  17  40  …  …  498  501   with something unmovable
//!                     └─▶ emptied           filled ◀─┘
//! ```
//! To free a number of blocks, no other choice moves fewer frames: each moves once, and those that move are
//! the fewest there are. A run stops before the first source that would not fit into what is left to fill.

use super::{Blocks, Policy};
use crate::core::isolate::BlockUse;
use crate::core::units::BlockId;

/// Empties what is nearly empty, fills what is nearly full.
#[derive(Debug, Default)]
pub struct Occupancy {
    /// All blocks with live frames and room, from the emptiest to the fullest.
    blocks: Vec<(u16, BlockId)>,
    /// Of these, the next to empty.
    next: usize,
    /// Of these, the next to fill is the one before.
    end: usize,
    /// Room in those that are left, at least.
    room: u64,
}

/// By what a block stands in the order. What cannot be emptied is filled first.
fn rank(block: BlockUse) -> u16 {
    if block.unmovable > 0 { u16::MAX } else { block.live }
}

impl Policy for Occupancy {
    fn begin(&mut self, blocks: &dyn Blocks) {
        self.blocks.clear();
        self.room = 0;
        blocks.for_each(&mut |block, used| {
            if used.room > 0 {
                self.blocks.push((rank(used), block));
                self.room += u64::from(used.room);
            }
        });
        self.blocks.sort_unstable();
        (self.next, self.end) = (0, self.blocks.len());
    }

    fn source(&mut self, blocks: &dyn Blocks) -> Option<BlockId> {
        loop {
            let &(before, block) = self.blocks[..self.end].get(self.next)?;
            let Some(used) = blocks.at(block).filter(|used| rank(*used) != u16::MAX) else {
                if before == u16::MAX {
                    return None;
                }
                self.next += 1;
                continue;
            };
            self.room = self.room.saturating_sub(used.room.into());
            if self.room < used.live.into() {
                return None;
            }
            self.room -= u64::from(used.live);
            self.next += 1;
            return Some(block);
        }
    }

    fn receiver(&mut self, blocks: &dyn Blocks) -> Option<BlockId> {
        while self.end > self.next {
            let (_, block) = self.blocks[self.end - 1];
            if blocks.at(block).is_some_and(|used| used.room > 0) {
                return Some(block);
            }
            self.end -= 1;
        }
        None
    }

    fn failed(&mut self, block: BlockId) {
        // A receiver that cannot be split now is passed over.
        if self.end.checked_sub(1).is_some_and(|last| self.blocks[last].1 == block) {
            self.end -= 1;
        }
    }
}
