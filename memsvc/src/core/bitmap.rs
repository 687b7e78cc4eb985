//! 512 bits: one for each frame of a block.

use super::units::FRAMES_PER_BLOCK;

const WORDS: usize = FRAMES_PER_BLOCK / 64;

/// A set of frame indices (0 to 511) in one block; 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockBitmap([u64; WORDS]);

impl BlockBitmap {
    /// The empty set.
    pub const EMPTY: Self = Self([0; WORDS]);
    /// All 512 indices.
    pub const FULL: Self = Self([u64::MAX; WORDS]);

    /// True when `index` is in the set. Panics when `index` is 512 or more.
    pub fn contains(&self, index: usize) -> bool {
        self.0[index / 64] >> (index % 64) & 1 == 1
    }

    /// Adds `index`; true when it was not there. Panics when `index` is 512 or more.
    pub fn insert(&mut self, index: usize) -> bool {
        let new = !self.contains(index);
        self.0[index / 64] |= 1 << (index % 64);
        new
    }

    /// Takes `index` out; true when it was there. Panics when `index` is 512 or more.
    pub fn remove(&mut self, index: usize) -> bool {
        let old = self.contains(index);
        self.0[index / 64] &= !(1 << (index % 64));
        old
    }

    /// How many are in the set.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// True when none is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The lowest index in the set.
    pub fn first(&self) -> Option<usize> {
        self.0
            .iter()
            .enumerate()
            .find(|(_, word)| **word != 0)
            .map(|(at, word)| at * 64 + word.trailing_zeros() as usize)
    }

    /// All indices in the set, from the lowest.
    pub fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        let mut rest = *self;
        std::iter::from_fn(move || {
            let index = rest.first()?;
            rest.remove(index);
            Some(index)
        })
    }
}
