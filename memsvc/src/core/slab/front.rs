//! Fronts: what a CPU hands out and takes back without a lock of its own making.
//!
//! ```text
//!   word    ┌───────── group ─────────┬───────── 32 bits: ready ─────────┐
//!   first   the word of the group's first place (see `object.rs`); place n of it is first + n · step
//!   puts    the same while places of the group may be put here; else what no place is
//! ```
//! Only who holds the CPU writes, but for `puts`. Others read `word`: a place that is ready here must not
//! be freed elsewhere. Whoever may free it got it from the last holder after the bit was cleared, so that it
//! is seen cleared. And what was freed elsewhere must not be put here again: so who frees a place of this
//! group elsewhere, under the lock of the class, closes the front to puts. It opens when it takes those
//! places over.

use super::class::{ClassId, GROUP, IN_USE};
use super::object::{LEN_SHIFT, Object, PLACE_SHIFT, STATE_SHIFT, step};
use crate::core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::core::sync::{Mutex, MutexGuard, lock, try_lock};

/// A group of a class: the slab's number in the class, and which of its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupId(pub(super) u32);

/// No group, in a word.
const NO_GROUP: u64 = (u32::MAX as u64) << 32;
/// What `puts` is when there is nothing to be put here: no object has this bit.
const NO_FIRST: u64 = 1 << STATE_SHIFT;
/// Fronts there is room for: an index cut to it needs no comparison.
const FRONTS: usize = IN_USE.next_power_of_two();

/// A group on its way into or out of a front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) group: GroupId,
    /// The places that are ready.
    pub(super) bits: u32,
}

/// The front of one class.
#[derive(Debug)]
pub(super) struct Front {
    word: AtomicU64,
    first: AtomicU64,
    puts: AtomicU64,
    step: u64,
    /// Sum of (length − 1) of what was handed out through this front, less what was taken back; modulo
    /// 2^64, because objects are freed elsewhere. The sum over all fronts is exact.
    lengths: AtomicU64,
}

/// What came of a free into a front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Done,
    /// It is not of the group that this front holds.
    Elsewhere,
    /// It is ready, so it cannot have been handed out.
    Ready,
}

impl Front {
    fn new(class: ClassId) -> Self {
        Self {
            word: AtomicU64::new(NO_GROUP),
            first: AtomicU64::new(NO_FIRST),
            puts: AtomicU64::new(NO_FIRST),
            step: step(class.class().units()),
            lengths: AtomicU64::new(0),
        }
    }

    /// Takes the lowest ready place.
    #[inline]
    pub(super) fn get(&self, len_bits: u64) -> Option<Object> {
        let word = self.word.load(Ordering::Relaxed);
        let bits = word as u32;
        if bits == 0 {
            return None;
        }
        self.word.store(word & (word - 1), Ordering::Release);
        let place = self.first.load(Ordering::Relaxed) + u64::from(bits.trailing_zeros()) * self.step;
        self.count(len_bits >> LEN_SHIFT);
        Some(Object::at(place, len_bits))
    }

    /// Makes the place of an object ready again, if it is of this front's group.
    #[inline]
    pub(super) fn put<const CHECKED: bool>(&self, object: Object) -> Put {
        let bit = u64::from(object.place()) % GROUP as u64;
        let place = self.puts.load(Ordering::Relaxed) + bit * self.step;
        // One comparison for the group, the start of the place and its number: all but the length.
        if !object.lies_at(place) {
            return Put::Elsewhere;
        }
        let word = self.word.load(Ordering::Relaxed);
        let with = word | 1 << bit;
        if CHECKED && with == word {
            return Put::Ready;
        }
        self.word.store(with, Ordering::Release);
        self.count((object.to_bits() >> LEN_SHIFT).wrapping_neg());
        Put::Done
    }

    /// Counts a length, or takes it back.
    #[inline]
    pub(super) fn count(&self, length: u64) {
        self.lengths.store(self.lengths.load(Ordering::Relaxed).wrapping_add(length), Ordering::Relaxed);
    }

    /// What it counted.
    pub(super) fn counted(&self) -> u64 {
        self.lengths.load(Ordering::Relaxed)
    }

    /// What it holds.
    pub(super) fn held(&self) -> Option<Ready> {
        let word = self.word.load(Ordering::Acquire);
        (word >> 32 != NO_GROUP >> 32)
            .then_some(Ready { group: GroupId((word >> 32) as u32), bits: word as u32 })
    }

    /// Takes over a group whose first place is `first`. What it held before must have been taken out.
    pub(super) fn hold(&self, ready: Ready, first: u64) {
        debug_assert_eq!(first >> PLACE_SHIFT & (GROUP as u64 - 1), 0);
        self.first.store(first, Ordering::Relaxed);
        self.puts.store(first, Ordering::Relaxed);
        self.word.store(u64::from(ready.group.0) << 32 | u64::from(ready.bits), Ordering::Release);
    }

    /// Places of its group are free that are not ready here: no puts until it has taken them over.
    pub(super) fn close(&self) {
        self.puts.store(NO_FIRST, Ordering::Relaxed);
    }

    /// Lets go of what it holds.
    pub(super) fn let_go(&self) {
        self.close();
        self.word.store(NO_GROUP, Ordering::Release);
    }
}

/// One front for each class.
#[derive(Debug)]
pub(super) struct Fronts([Front; FRONTS]);

impl Fronts {
    #[inline]
    pub(super) fn of(&self, class: ClassId) -> &Front {
        &self.0[usize::from(class.0) % FRONTS]
    }
}

/// The fronts of one CPU.
#[derive(Debug)]
pub(super) struct Cpu {
    holder: Mutex<()>,
    /// Somebody found the CPU held and wants what its fronts hold.
    pub(super) wanted: AtomicBool,
    normal: Box<Fronts>,
    reserve: Box<Fronts>,
}

impl Cpu {
    pub(super) fn new() -> Self {
        let fronts = || Box::new(Fronts(std::array::from_fn(|class| Front::new(ClassId(class as u8)))));
        Self { holder: Mutex::new(()), wanted: AtomicBool::new(false), normal: fronts(), reserve: fronts() }
    }

    /// Waits until nobody else has it.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        lock(&self.holder)
    }

    /// Takes it if nobody has it.
    pub(super) fn try_hold(&self) -> Option<MutexGuard<'_, ()>> {
        try_lock(&self.holder)
    }

    /// The fronts that serve everybody.
    pub(super) fn normal(&self) -> &Fronts {
        &self.normal
    }

    /// The front of reserve slabs, or that which serves everybody.
    pub(super) fn front(&self, class: ClassId, reserve: bool) -> &Front {
        if reserve { self.reserve.of(class) } else { self.normal.of(class) }
    }
}
