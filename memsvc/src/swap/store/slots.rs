//! Where each page of an export is: a table of slots, in chunks.
//!
//! ```text
//!   Empty: reads as zeroes │ Same: one word, repeated │ Object: in memory, packed or not
//!   Outside: on a tier; the object in memory says where
//! ```
//! A chunk is 512 slots, 2 MiB of the export, with a lock of its own; it is made when the first of its slots is
//! filled, or before, by [`Slots::prepare`]. A slot takes nine bytes.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::core::slab::Handle;
use crate::core::sync::lock;
use crate::swap::codec::Codec;

/// Slots of a chunk.
pub(super) const CHUNK: u64 = 512;

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nowhere: it reads as zeroes.
    Empty,
    /// Filled by this word, which is not zero.
    Same(u64),
    /// Here, packed so.
    Object(Handle, Codec),
    /// On the tier of this number; the object is its record.
    Outside(Handle, u8),
}

/// When a page was used last: one of a few generations, which are numbered round and round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation(u8);

impl Generation {
    /// How many there are at a time.
    pub(super) const COUNT: u64 = 8;

    /// The one of this number.
    pub(super) fn new(number: u64) -> Self {
        Self((number % Self::COUNT) as u8)
    }
}

/// The kinds, as the table has them, in the low bits of a slot's byte.
const EMPTY: u8 = 0;
const SAME: u8 = 1;
const LZ4: u8 = 2;
const ZSTD: u8 = 3;
const WHOLE: u8 = 4;
const OUTSIDE: u8 = 5;
const KIND: u8 = 7;
/// Then the generation.
const GENERATION: u32 = KIND.count_ones();
/// And whether it is on its way to a tier.
const LEAVING: u8 = 1 << 6;

/// Some slots, locked.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: [u8; CHUNK as usize],
    values: [u64; CHUNK as usize],
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self { bytes: [EMPTY; CHUNK as usize], values: [0; CHUNK as usize] })
    }

    fn get(&self, index: usize) -> Slot {
        let value = self.values[index];
        let handle = Handle(value as u32);
        match self.bytes[index] & KIND {
            SAME => Slot::Same(value),
            LZ4 => Slot::Object(handle, Codec::Lz4),
            ZSTD => Slot::Object(handle, Codec::Zstd),
            WHOLE => Slot::Object(handle, Codec::None),
            OUTSIDE => Slot::Outside(handle, (value >> u32::BITS) as u8),
            _ => Slot::Empty,
        }
    }

    fn set(&mut self, index: usize, slot: Slot, generation: Generation) {
        let (kind, value) = match slot {
            Slot::Empty => (EMPTY, 0),
            Slot::Same(word) => (SAME, word),
            Slot::Object(handle, Codec::Lz4) => (LZ4, handle.0.into()),
            Slot::Object(handle, Codec::Zstd) => (ZSTD, handle.0.into()),
            Slot::Object(handle, Codec::None) => (WHOLE, handle.0.into()),
            Slot::Outside(handle, tier) => (OUTSIDE, u64::from(tier) << u32::BITS | u64::from(handle.0)),
        };
        (self.bytes[index], self.values[index]) = (kind | generation.0 << GENERATION, value);
    }

    fn generation(&self, index: usize) -> Generation {
        Generation::new(u64::from(self.bytes[index] >> GENERATION))
    }
}

/// One slot, locked.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    slots: &'a Slots,
    chunk: MutexGuard<'a, Option<Box<Chunk>>>,
    index: usize,
}

impl Locked<'_> {
    /// Where the page is.
    pub(super) fn get(&self) -> Slot {
        self.chunk.as_ref().map_or(Slot::Empty, |chunk| chunk.get(self.index))
    }

    /// Says where the page is from now on, and where it was. It is not leaving any more.
    pub(super) fn replace(&mut self, slot: Slot, generation: Generation) -> Slot {
        if self.chunk.is_none() && slot == Slot::Empty {
            return slot;
        }
        let chunk = self.slots.made(&mut self.chunk);
        let before = chunk.get(self.index);
        chunk.set(self.index, slot, generation);
        before
    }

    /// The page has been used.
    pub(super) fn touch(&mut self, generation: Generation) {
        if let Some(chunk) = self.chunk.as_mut() {
            let byte = &mut chunk.bytes[self.index];
            *byte = *byte & (KIND | LEAVING) | generation.0 << GENERATION;
        }
    }

    /// It leaves, unless something else is put there first.
    pub(super) fn leave(&mut self) {
        if let Some(chunk) = self.chunk.as_mut() {
            chunk.bytes[self.index] |= LEAVING;
        }
    }

    /// It stays.
    pub(super) fn stay(&mut self) {
        if let Some(chunk) = self.chunk.as_mut() {
            chunk.bytes[self.index] &= !LEAVING;
        }
    }

    /// True when it is leaving and nothing else has been put there.
    pub(super) fn is_leaving(&self) -> bool {
        self.chunk.as_ref().is_some_and(|chunk| chunk.bytes[self.index] & LEAVING != 0)
    }
}

/// All slots of an export.
#[derive(Debug)]
pub(super) struct Slots {
    chunks: Box<[Mutex<Option<Box<Chunk>>>]>,
    /// Chunks that are made.
    made: AtomicU64,
    pages: u64,
}

impl Slots {
    /// All empty.
    pub(super) fn new(pages: u64) -> Self {
        let chunks = (0..pages.div_ceil(CHUNK)).map(|_| Mutex::new(None)).collect();
        Self { chunks, made: AtomicU64::new(0), pages }
    }

    /// Pages there are slots for.
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Makes all chunks, so that filling a slot takes no memory.
    pub(super) fn prepare(&self) {
        for chunk in &self.chunks {
            self.made(&mut lock(chunk));
        }
    }

    /// Bytes of the table, as far as it is made.
    pub(super) fn bytes(&self) -> u64 {
        let chunks = self.made.load(Ordering::Relaxed) * size_of::<Chunk>() as u64;
        chunks + size_of_val(&*self.chunks) as u64
    }

    fn made<'a>(&self, chunk: &'a mut Option<Box<Chunk>>) -> &'a mut Chunk {
        chunk.get_or_insert_with(|| {
            self.made.fetch_add(1, Ordering::Relaxed);
            Chunk::new()
        })
    }

    /// The slot of a page; nobody changes it meanwhile, nor those of its chunk. `None` when there is no such
    /// page.
    pub(super) fn lock(&self, page: u64) -> Option<Locked<'_>> {
        if page >= self.pages {
            return None;
        }
        let chunk = lock(self.chunks.get((page / CHUNK) as usize)?);
        Some(Locked { slots: self, chunk, index: (page % CHUNK) as usize })
    }

    /// Where a page is. `None` when there is no such page.
    pub(super) fn get(&self, page: u64) -> Option<Slot> {
        self.lock(page).map(|slot| slot.get())
    }

    /// The first page of these of a generation that is somewhere like this, and is not leaving.
    pub(super) fn find(
        &self,
        mut pages: Range<u64>,
        generation: Generation,
        like: impl Fn(Slot) -> bool,
    ) -> Option<u64> {
        pages.end = pages.end.min(self.pages);
        while !pages.is_empty() {
            let (number, end) = (pages.start / CHUNK, pages.end.min((pages.start / CHUNK + 1) * CHUNK));
            let chunk = lock(self.chunks.get(number as usize)?);
            let found = chunk.as_ref().and_then(|chunk| {
                (pages.start..end).find(|page| {
                    let index = (page % CHUNK) as usize;
                    chunk.bytes[index] & LEAVING == 0
                        && chunk.generation(index) == generation
                        && like(chunk.get(index))
                })
            });
            if found.is_some() {
                return found;
            }
            pages.start = end;
        }
        None
    }
}
