//! The tiers below a store, and what it takes to choose who goes there.
//!
//! Pages are in a few generations by when they were used last, as in the kernel's multi-generational LRU
//! (mm/vmscan.c, `lru_gen`): those that are stored or read join the youngest; a new one is begun when enough
//! pages have been stored, unless the oldest has not been emptied yet.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::level::{Level, Place};
use super::pressure::Pressure;
use super::reader::Reader;
use super::seat::Seat;
use super::slots::Generation;
use crate::core::sync::lock;
use crate::core::units::FRAME_SIZE;
use crate::stats::Counter;
use crate::swap::stats::TierStats;
use crate::swap::tier::Sealer;
use crate::swap::waker::Waker;

/// What is below a store.
#[derive(Debug)]
pub(crate) struct Tiers {
    levels: Vec<Level>,
    sealer: Arc<Sealer>,
    readers: Mutex<Vec<Weak<Reader>>>,
    corrupt: Arc<Counter>,
    pub(super) pressure: Pressure,
    /// Bytes in memory above which pages leave, and down to which.
    marks: (u64, u64),
    /// Pages stored since the youngest generation began, and how many it may have.
    stored: AtomicU64,
    generation_size: u64,
    youngest: AtomicU64,
    oldest: AtomicU64,
}

impl Tiers {
    /// Tiers from the first to the last, below a store with so many bytes of memory.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub(crate) fn new(levels: Vec<Level>, memory: u64) -> std::io::Result<Self> {
        Ok(Self {
            levels,
            sealer: Arc::new(Sealer::new()?),
            readers: Mutex::default(),
            corrupt: Arc::default(),
            pressure: Pressure::default(),
            marks: (memory - memory / 16, memory - memory / 8),
            stored: AtomicU64::new(0),
            generation_size: (memory / FRAME_SIZE as u64 / Generation::COUNT).max(1),
            youngest: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
        })
    }

    pub(super) fn level(&self, number: u8) -> Option<&Level> {
        self.levels.get(usize::from(number))
    }

    /// A place on the first tier that has one, whether nothing lies there, and which tier that is.
    pub(super) fn take_place(&self) -> Option<(u8, &Level, Place)> {
        (0..).zip(&self.levels).find_map(|(number, level)| Some((number, level, level.take_place()?)))
    }

    /// True when none of them can be written now.
    pub(super) fn all_rest(&self) -> bool {
        self.levels.iter().all(Level::rests)
    }

    /// What lies at a place is not needed any more.
    pub(super) fn free_place(&self, level: &Level, place: u64) {
        level.free_place(place);
        self.pressure.freed();
    }

    /// Nothing was written there.
    pub(super) fn give_back(&self, level: &Level, place: Place) {
        if place.is_free {
            level.give_back(place.number);
        } else {
            self.free_place(level, place.number);
        }
    }

    pub(super) fn levels(&self) -> &[Level] {
        &self.levels
    }

    pub(super) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// For a new connection.
    pub(super) fn reader(&self, waker: &Arc<Waker>) -> Arc<Reader> {
        let reader = Reader::new(Arc::clone(&self.sealer), Arc::clone(waker), Arc::clone(&self.corrupt));
        let reader = Arc::new(reader);
        let mut readers = lock(&self.readers);
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(&reader));
        reader
    }

    /// True when a connection has been promised this page where it is.
    pub(super) fn is_pinned(&self, page: u64) -> bool {
        lock(&self.readers).iter().filter_map(Weak::upgrade).any(|reader| reader.has_pinned(page))
    }

    /// True when it is worth waiting for room that a write did not find.
    pub(super) fn has_hope(&self, seat: &mut Seat) -> bool {
        let Seat { reader, waits, .. } = seat;
        // One that was away may be back, though nobody has asked it for room since.
        let is_away = self.pressure.is_away() && self.all_rest();
        reader.as_ref().is_some_and(|reader| self.pressure.wait(waits, reader.waker(), is_away))
    }

    /// Bytes in memory above which pages leave.
    pub(super) fn high(&self) -> u64 {
        self.marks.0
    }

    /// Bytes in memory down to which they do.
    pub(super) fn low(&self) -> u64 {
        self.marks.1
    }

    /// A page has been stored, and there is hardly room for more, or there is.
    pub(super) fn stored_one(&self, is_tight: bool) {
        if self.stored.fetch_add(1, Ordering::Relaxed) + 1 >= self.generation_size {
            let (oldest, youngest) =
                (self.oldest.load(Ordering::Relaxed), self.youngest.load(Ordering::Relaxed));
            if youngest + 1 < oldest + Generation::COUNT {
                // Who comes second begins none.
                let _ = self.youngest.compare_exchange(
                    youngest,
                    youngest + 1,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                self.stored.store(0, Ordering::Relaxed);
            }
        }
        if is_tight {
            self.pressure.want();
        }
    }

    pub(super) fn youngest(&self) -> Generation {
        Generation::new(self.youngest.load(Ordering::Relaxed))
    }

    pub(super) fn oldest(&self) -> Generation {
        Generation::new(self.oldest.load(Ordering::Relaxed))
    }

    /// Nothing is left of the oldest generation. False when it is the youngest as well.
    pub(super) fn oldest_is_empty(&self) -> bool {
        let oldest = self.oldest.load(Ordering::Relaxed);
        let is_older = oldest < self.youngest.load(Ordering::Relaxed);
        if is_older {
            self.oldest.store(oldest + 1, Ordering::Relaxed);
        }
        is_older
    }

    pub(super) fn corrupt(&self) -> u64 {
        self.corrupt.get()
    }

    pub(super) fn stats(&self) -> impl Iterator<Item = TierStats> {
        self.levels.iter().map(Level::stats)
    }
}
