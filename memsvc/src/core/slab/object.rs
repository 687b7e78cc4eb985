//! An object: where it lies, which place of its slab that is, and how long it is, in one word.
//!
//! ```text
//!   63        52 51     47 46       39 38                    0
//!   ┌───────────┬─────────┬───────────┬───────────────────────┐
//!   │ bytes − 1 │    0    │   place   │  offset / 32 in arena │
//!   └───────────┴─────────┴───────────┴───────────────────────┘
//! ```
//! Places of a slab lie side by side, so the word of a place is that of place 0 plus a multiple of one
//! step: that is how the fast paths come from one to the other. The five bits in between are the state
//! of a handle (`handle.rs`).

use super::class::{ClassId, UNIT};
use crate::core::units::{FRAME_SIZE, FrameId};

const OFFSET_BITS: u32 = 39;
/// Where the place starts.
pub(super) const PLACE_SHIFT: u32 = OFFSET_BITS;
/// Where the state of a handle starts.
pub(super) const STATE_SHIFT: u32 = 47;
/// Where the length starts.
pub(super) const LEN_SHIFT: u32 = 52;
const UNITS_PER_FRAME: u64 = (FRAME_SIZE / UNIT) as u64;

// Every frame that a u32 can name has room, every place of a slab, and every length.
const _: () = assert!((u32::MAX as u64 * UNITS_PER_FRAME) >> OFFSET_BITS == 0);
const _: () = assert!(1 << (STATE_SHIFT - PLACE_SHIFT) == super::class::MAX_PLACES);
const _: () = assert!(1 << (64 - LEN_SHIFT) == FRAME_SIZE);

/// An object in a slab. It stays valid until it is freed; copies of it are the same object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object(u64);

impl Object {
    /// Byte offset in the arena; a multiple of 32.
    pub const fn offset(self) -> u64 {
        self.units() * UNIT as u64
    }

    /// Bytes asked for, 1 to 4096.
    #[expect(clippy::len_without_is_empty, reason = "no object is empty")]
    pub const fn len(self) -> usize {
        (self.0 >> LEN_SHIFT) as usize + 1
    }

    /// The frame in which it starts. It may reach into the next.
    pub const fn frame(self) -> FrameId {
        FrameId((self.units() / UNITS_PER_FRAME) as u32)
    }

    /// As one word, for tables.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// What [`Object::to_bits`] made; `None` for words that it cannot have made. What is none of the
    /// objects there are is found out when it is freed.
    pub const fn from_bits(bits: u64) -> Option<Object> {
        if bits << (64 - LEN_SHIFT) >> (64 - LEN_SHIFT + STATE_SHIFT) == 0 {
            Some(Object(bits))
        } else {
            None
        }
    }

    /// The place in which `first + step * n` lies, for an object of so many bytes.
    #[inline]
    pub(super) const fn at(place: u64, len_bits: u64) -> Object {
        Object(place + len_bits)
    }

    /// A word that was made of an object.
    pub(super) const fn from_word(word: u64) -> Object {
        Object(word)
    }

    /// True when it lies in the place with this word.
    pub(super) const fn lies_at(self, place: u64) -> bool {
        (self.0 ^ place) << (64 - LEN_SHIFT) == 0
    }

    #[inline]
    pub(super) const fn class(self) -> ClassId {
        ClassId::of((self.0 >> LEN_SHIFT) as u16)
    }

    #[inline]
    pub(super) const fn place(self) -> u8 {
        (self.0 >> PLACE_SHIFT) as u8
    }

    pub(super) const fn units(self) -> u64 {
        self.0 & ((1 << OFFSET_BITS) - 1)
    }
}

/// The word of a place of a slab that starts at `base`, without a length.
pub(super) fn place_word(base: FrameId, place: u64, units: u64) -> u64 {
    u64::from(base.0) * UNITS_PER_FRAME + place * step(units)
}

/// From the word of one place to that of the next, for places of so many units.
pub(super) const fn step(units: u64) -> u64 {
    1 << PLACE_SHIFT | units
}
