//! A set of blocks in address order: one bit a block, and above it a tree of words. The tree says which words
//! below are not empty, so that the lowest block is found in one step a level.
//!
//! It takes the place of Linux's list heads: nothing is linked through the blocks, so moving one from
//! set to set touches no neighbour, and what is taken is always the lowest, which keeps the high end of
//! the arena free.

use super::units::BlockId;

const BITS: usize = 64;

/// A set of blocks.
#[derive(Clone, Debug)]
pub(crate) struct BlockSet {
    /// `levels[0]` has a bit for each block, `levels[n + 1]` one for each word of `levels[n]`; the last
    /// is one word.
    levels: Vec<Vec<u64>>,
    len: u32,
}

impl BlockSet {
    /// An empty set that has room for blocks 0 to `blocks - 1`.
    pub(crate) fn new(blocks: u32) -> Self {
        let mut levels = Vec::new();
        let mut size = blocks as usize;
        loop {
            size = size.div_ceil(BITS).max(1);
            levels.push(vec![0; size]);
            if size == 1 {
                return Self { levels, len: 0 };
            }
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn contains(&self, block: BlockId) -> bool {
        self.levels[0][block.0 as usize / BITS] >> (block.0 as usize % BITS) & 1 == 1
    }

    /// Adds a block that is not in it.
    pub(crate) fn insert(&mut self, block: BlockId) {
        debug_assert!(!self.contains(block));
        self.len += 1;
        let mut at = block.0 as usize;
        for level in &mut self.levels {
            let word = &mut level[at / BITS];
            let was_empty = *word == 0;
            *word |= 1 << (at % BITS);
            if !was_empty {
                break;
            }
            at /= BITS;
        }
    }

    /// Takes out a block that is in it.
    pub(crate) fn remove(&mut self, block: BlockId) {
        debug_assert!(self.contains(block));
        self.len -= 1;
        let mut at = block.0 as usize;
        for level in &mut self.levels {
            let word = &mut level[at / BITS];
            *word &= !(1 << (at % BITS));
            if *word != 0 {
                break;
            }
            at /= BITS;
        }
    }

    /// The lowest block.
    #[inline]
    pub(crate) fn first(&self) -> Option<BlockId> {
        if self.len == 0 {
            return None;
        }
        let down = |at: usize, level: &Vec<u64>| at * BITS + level[at].trailing_zeros() as usize;
        Some(BlockId(self.levels.iter().rev().fold(0, down) as u32))
    }

    /// Which of the 32 blocks from `32 * group` are in it.
    pub(crate) fn group(&self, group: u32) -> u32 {
        let word = self.levels[0][group as usize / 2];
        (word >> (group % 2 * 32)) as u32
    }

    /// Groups from this one on of which any block is in it.
    pub(crate) fn groups_from(&self, group: u32) -> impl Iterator<Item = u32> {
        let groups = self.levels[0].len() as u32 * 2;
        (group..groups).filter(|&group| self.group(group) != 0)
    }

    /// Bytes that its words take.
    pub(crate) fn bytes(&self) -> usize {
        self.levels.iter().map(|level| level.len() * 8).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// It is a set, whatever its size, and knows its lowest.
        #[test]
        fn is_an_ordered_set(size in 1u32..10_000, ops in prop::collection::vec((any::<u32>(), any::<bool>()), 1..300)) {
            let mut set = BlockSet::new(size);
            let mut model = BTreeSet::new();
            for (at, add) in ops {
                let block = BlockId(if at % 3 == 0 { at % size } else { at % size.min(70) });
                if add && model.insert(block) {
                    set.insert(block);
                } else if !add && model.remove(&block) {
                    set.remove(block);
                }
                prop_assert_eq!(set.first(), model.first().copied());
                prop_assert_eq!(set.len() as usize, model.len());
                prop_assert_eq!(set.contains(block), model.contains(&block));
                let group = block.0 / 32;
                let bits = (0..32).filter(|bit| model.contains(&BlockId(group * 32 + bit)));
                let groups: BTreeSet<_> = model.iter().map(|block| block.0 / 32).filter(|at| *at >= group).collect();
                prop_assert!(set.groups_from(group).eq(groups));
                prop_assert_eq!(set.group(group), bits.fold(0, |word, bit| word | 1 << bit));
            }
        }
    }
}
