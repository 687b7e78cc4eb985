//! Where each page of an export is: a table of slots, in chunks.
//!
//! ```text
//!   Empty: reads as zeroes │ Same: one word, repeated │ Object: in memory, packed or not
//! ```
//! A chunk is 512 slots, 2 MiB of the export, with a lock of its own; it is made when the first of its slots is
//! filled, or before, by [`Slots::prepare`]. A slot takes nine bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::core::slab::Handle;
use crate::core::sync::lock;
use crate::swap::codec::Codec;

/// Slots of a chunk.
const CHUNK: u64 = 512;

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nowhere: it reads as zeroes.
    Empty,
    /// Filled by this word, which is not zero.
    Same(u64),
    /// Here, packed so.
    Object(Handle, Codec),
}

/// The kinds, as the table has them.
const EMPTY: u8 = 0;
const SAME: u8 = 1;
const LZ4: u8 = 2;
const ZSTD: u8 = 3;
const WHOLE: u8 = 4;

/// Some slots, locked.
#[derive(Debug)]
pub(super) struct Chunk {
    kinds: [u8; CHUNK as usize],
    values: [u64; CHUNK as usize],
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self { kinds: [EMPTY; CHUNK as usize], values: [0; CHUNK as usize] })
    }

    fn get(&self, index: usize) -> Slot {
        let value = self.values[index];
        let object = |codec| Slot::Object(Handle(value as u32), codec);
        match self.kinds[index] {
            SAME => Slot::Same(value),
            LZ4 => object(Codec::Lz4),
            ZSTD => object(Codec::Zstd),
            WHOLE => object(Codec::None),
            _ => Slot::Empty,
        }
    }

    fn set(&mut self, index: usize, slot: Slot) {
        let (kind, value) = match slot {
            Slot::Empty => (EMPTY, 0),
            Slot::Same(word) => (SAME, word),
            Slot::Object(handle, Codec::Lz4) => (LZ4, handle.0.into()),
            Slot::Object(handle, Codec::Zstd) => (ZSTD, handle.0.into()),
            Slot::Object(handle, Codec::None) => (WHOLE, handle.0.into()),
        };
        (self.kinds[index], self.values[index]) = (kind, value);
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

    /// Shows where a page is; nobody changes that meanwhile. None when there is no such page.
    pub(super) fn see<T>(&self, page: u64, see: impl FnOnce(Slot) -> T) -> Option<T> {
        let chunk = self.lock(page)?;
        let slot = chunk.as_ref().map_or(Slot::Empty, |chunk| chunk.get((page % CHUNK) as usize));
        Some(see(slot))
    }

    /// Says where a page is from now on, and where it was. Where there is no such page, it stays nowhere.
    pub(super) fn replace(&self, page: u64, slot: Slot) -> Slot {
        let index = (page % CHUNK) as usize;
        let Some(mut chunk) = self.lock(page) else { return slot };
        if chunk.is_none() && slot == Slot::Empty {
            return slot;
        }
        let chunk = self.made(&mut chunk);
        let before = chunk.get(index);
        chunk.set(index, slot);
        before
    }

    fn lock(&self, page: u64) -> Option<MutexGuard<'_, Option<Box<Chunk>>>> {
        if page >= self.pages {
            return None;
        }
        self.chunks.get((page / CHUNK) as usize).map(lock)
    }
}
