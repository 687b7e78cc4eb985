//! A block: which of its 512 frames are free, and the chunks that these make.
//!
//! A chunk of order *o* is `2^o` free frames at a multiple of `2^o`. Chunks are not kept anywhere: they
//! are what the bits say, so that buddies merge by being free.
//!
//! ```text
//!   free  0 1 1 1 1 1 0 0 …     order 0: frame 1    order 1: 2-3, 4-5 (4-7 is not free)
//! ```

use super::migrate_type::MigrateType;
use super::page_type::PageType;
use super::units::{FRAMES_PER_BLOCK, Order};

const WORDS: usize = FRAMES_PER_BLOCK / 64;
/// Order of a chunk that fills a word.
const WORD_ORDER: u8 = 6;
/// Frames that a per-CPU list takes at once: see `cpu.rs`.
pub(crate) const GROUP: u32 = 32;
/// Groups in a block.
pub(crate) const GROUPS: u32 = FRAMES_PER_BLOCK as u32 / GROUP;

/// Bits at which an aligned chunk of each order below [`WORD_ORDER`] may start.
const STARTS: [u64; WORD_ORDER as usize] = {
    let mut starts = [0; WORD_ORDER as usize];
    let mut order = 0;
    while order < WORD_ORDER as usize {
        let mut bit = 0;
        while bit < 64 {
            starts[order] |= 1 << bit;
            bit += 1 << order;
        }
        order += 1;
    }
    starts
};

/// How a block is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// All of it is free.
    Free,
    /// Handed out whole.
    Whole,
    /// Handed out in pieces.
    Pieces,
    /// In pieces, and being emptied: what becomes free in it is not handed out.
    Isolated,
}

/// One block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    free: [u64; WORDS],
    free_frames: u16,
    /// Order of its largest free chunk; 0 where there is none.
    largest: u8,
    pub(crate) usage: Use,
    pub(crate) migrate_type: MigrateType,
    /// Frames handed out (or ready in a per-CPU list) that can be moved.
    pub(crate) movable: u16,
    /// Frames of type `Balloon`.
    pub(crate) holes: u16,
}

impl Block {
    /// A block of which all is free.
    pub(crate) const FREE: Block = Block {
        free: [u64::MAX; WORDS],
        free_frames: FRAMES_PER_BLOCK as u16,
        largest: Order::BLOCK.get(),
        usage: Use::Free,
        migrate_type: MigrateType::Movable,
        movable: 0,
        holes: 0,
    };

    pub(crate) fn free_frames(&self) -> u32 {
        self.free_frames.into()
    }

    /// Order of the largest free chunk.
    pub(crate) fn largest(&self) -> Option<Order> {
        if self.free_frames == 0 { None } else { Order::new(self.largest) }
    }

    pub(crate) fn is_free(&self, index: usize) -> bool {
        self.free[index / 64] >> (index % 64) & 1 == 1
    }

    /// Frames of this type are no longer in use.
    pub(crate) fn forget(&mut self, page_type: PageType, frames: u16) {
        self.movable -= if page_type.is_movable() { frames } else { 0 };
        self.holes -= if page_type == PageType::Balloon { frames } else { 0 };
    }

    /// A frame in use is of another type now.
    pub(crate) fn retype(&mut self, from: PageType, to: PageType) {
        self.movable += u16::from(to.is_movable());
        self.movable -= u16::from(from.is_movable());
        self.holes += u16::from(to == PageType::Balloon);
        self.holes -= u16::from(from == PageType::Balloon);
    }

    /// Which of the 32 frames from `32 * group` are free.
    pub(crate) fn group(&self, group: u32) -> u32 {
        (self.free[group as usize / 2] >> (group % 2 * GROUP)) as u32
    }

    /// Takes free frames of one group. [`Self::settle`] it after the last.
    pub(crate) fn take_group(&mut self, group: u32, bits: u32) {
        debug_assert_eq!(self.group(group) & bits, bits);
        self.free[group as usize / 2] &= !(u64::from(bits) << (group % 2 * GROUP));
        self.free_frames -= bits.count_ones() as u16;
    }

    /// Works out the largest chunk after frames were taken.
    pub(crate) fn settle(&mut self) {
        self.largest = if self.free_frames == 0 { 0 } else { largest(&self.free) };
    }

    /// Makes these frames of one word (bits of frames `64 * word` and on) free. False, and nothing
    /// changes, when one of them is free.
    #[inline]
    pub(crate) fn put(&mut self, word: usize, bits: u64) -> bool {
        let free = &mut self.free[word];
        if *free & bits != 0 {
            return false;
        }
        *free |= bits;
        let order = if *free == u64::MAX { self.merged(word) } else { largest_in(*free) };
        self.largest = self.largest.max(order);
        self.free_frames += bits.count_ones() as u16;
        true
    }

    /// Order of the chunk of whole words in which this one is.
    fn merged(&self, word: usize) -> u8 {
        let full = |order: u8| {
            let words = 1 << (order - WORD_ORDER);
            self.free[word / words * words..][..words].iter().all(|&word| word == u64::MAX)
        };
        (WORD_ORDER + 1..=Order::BLOCK.get()).take_while(|&order| full(order)).last().unwrap_or(WORD_ORDER)
    }

    /// The lowest free chunk of exactly `order` frames that is at least so large; index of its head.
    pub(crate) fn find(&self, order: Order) -> Option<usize> {
        if order.get() < WORD_ORDER {
            let heads = self.free.iter().map(|&word| heads(word, order.get()));
            let (word, heads) = heads.enumerate().find(|(_, heads)| *heads != 0)?;
            return Some(word * 64 + heads.trailing_zeros() as usize);
        }
        let words = 1 << (order.get() - WORD_ORDER);
        self.free
            .chunks(words)
            .position(|chunk| chunk.iter().all(|&word| word == u64::MAX))
            .map(|at| at * words * 64)
    }

    /// Takes the chunk that [`Self::find`] found.
    pub(crate) fn take_chunk(&mut self, index: usize, order: Order) {
        for (word, bits) in chunk_bits(index, order) {
            debug_assert_eq!(self.free[word] & bits, bits);
            self.free[word] &= !bits;
        }
        self.free_frames -= order.frames() as u16;
        self.settle();
    }

    /// Makes a chunk free. False, and nothing changes, when some of it is.
    pub(crate) fn put_chunk(&mut self, index: usize, order: Order) -> bool {
        if chunk_bits(index, order).any(|(word, bits)| self.free[word] & bits != 0) {
            return false;
        }
        chunk_bits(index, order).all(|(word, bits)| self.put(word, bits))
    }

    /// All of it, which is free, is handed out at once.
    pub(crate) fn hand_out_whole(&mut self, movable: bool) {
        debug_assert_eq!(self.free_frames(), FRAMES_PER_BLOCK as u32);
        *self = Self {
            free: [0; WORDS],
            free_frames: 0,
            largest: 0,
            usage: Use::Whole,
            movable: if movable { FRAMES_PER_BLOCK as u16 } else { 0 },
            ..Self::FREE
        };
    }

    /// Free chunks by order, each as large as it can be: what `/proc/buddyinfo` counts.
    pub(crate) fn count_chunks(&self, counts: &mut [u64; Order::COUNT]) {
        let mut rest = self.free;
        for order in Order::all().rev() {
            let step = order.frames() as usize;
            if order.get() < WORD_ORDER {
                for word in &mut rest {
                    let heads = heads(*word, order.get());
                    counts[order.get() as usize] += u64::from(heads.count_ones());
                    *word &= !(0..step).fold(0, |bits, shift| bits | heads << shift);
                }
            } else {
                for chunk in
                    rest.chunks_mut(step / 64).filter(|chunk| chunk.iter().all(|&word| word == u64::MAX))
                {
                    counts[order.get() as usize] += 1;
                    chunk.fill(0);
                }
            }
        }
    }
}

/// The words of a chunk, with its bits in each.
fn chunk_bits(index: usize, order: Order) -> impl Iterator<Item = (usize, u64)> {
    let frames = order.frames() as usize;
    let bits = if frames >= 64 { u64::MAX } else { ((1 << frames) - 1) << (index % 64) };
    (index / 64..index / 64 + frames.div_ceil(64)).map(move |word| (word, bits))
}

/// Heads of all aligned free chunks of at least this order (below [`WORD_ORDER`]) in a word.
fn heads(word: u64, order: u8) -> u64 {
    (0..order).fold(word, |heads, order| heads & heads >> (1 << order)) & STARTS[order as usize]
}

/// Order of the largest chunk in a word that has one and is not full. Without branches: where frames come
/// back at random none of them could be foretold.
fn largest_in(word: u64) -> u8 {
    let mut heads = word;
    (1..WORD_ORDER).fold(0, |largest, order| {
        heads = heads & heads >> (1 << (order - 1)) & STARTS[order as usize];
        largest + u8::from(heads != 0)
    })
}

/// Order of the largest chunk; 0 where nothing is free.
fn largest(free: &[u64; WORDS]) -> u8 {
    for order in (WORD_ORDER..=Order::BLOCK.get()).rev() {
        if free.chunks(1 << (order - WORD_ORDER)).any(|chunk| chunk.iter().all(|&word| word == u64::MAX)) {
            return order;
        }
    }
    let mut heads = *free;
    for order in 1..WORD_ORDER {
        let mut any = 0;
        for word in &mut heads {
            *word = *word & *word >> (1 << (order - 1)) & STARTS[order as usize];
            any |= *word;
        }
        if any == 0 {
            return order - 1;
        }
    }
    WORD_ORDER - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All aligned chunks of exactly this order that are free and whose buddy is not, the slow way.
    fn chunks(free: &[bool], order: Order) -> Vec<usize> {
        let size = order.frames() as usize;
        let is_free = |at: usize, size: usize| free[at..at + size].iter().all(|&free| free);
        (0..FRAMES_PER_BLOCK)
            .step_by(size)
            .filter(|&at| is_free(at, size))
            .filter(|&at| order == Order::BLOCK || !is_free(at / (2 * size) * 2 * size, 2 * size))
            .collect()
    }

    proptest! {
        /// Chunks found, taken, given back and counted are those that the frames make.
        #[test]
        fn chunks_are_what_the_bits_say(ops in prop::collection::vec((0u8..10, any::<usize>(), any::<bool>()), 1..200)) {
            let mut block = Block::FREE;
            let mut live: Vec<(usize, Order)> = Vec::new();
            let mut free = vec![true; FRAMES_PER_BLOCK];
            for (order, pick, take) in ops {
                let order = Order::new(order).unwrap();
                if take {
                    let size = order.frames() as usize;
                    let expected = (0..FRAMES_PER_BLOCK).step_by(size).find(|&at| free[at..at + size].iter().all(|&free| free));
                    prop_assert_eq!(block.find(order), expected);
                    if let Some(at) = expected {
                        block.take_chunk(at, order);
                        free[at..at + size].fill(false);
                        live.push((at, order));
                    }
                } else if !live.is_empty() {
                    let (at, order) = live.swap_remove(pick % live.len());
                    prop_assert!(block.put_chunk(at, order));
                    prop_assert!(!block.put_chunk(at, order));
                    free[at..at + order.frames() as usize].fill(true);
                }
                let mut counts = [0; Order::COUNT];
                block.count_chunks(&mut counts);
                for order in Order::all() {
                    prop_assert_eq!(counts[order.get() as usize] as usize, chunks(&free, order).len());
                }
                let largest = Order::all().rev().find(|&order| counts[order.get() as usize] > 0);
                prop_assert_eq!(block.largest(), largest);
                prop_assert_eq!(block.free_frames() as usize, free.iter().filter(|&&free| free).count());
            }
        }
    }
}
