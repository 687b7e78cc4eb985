//! Page types: what a frame is for. All of them, side by side, with their life cycles.
//!
//! Frames that are behind guest RAM, or on the way there:
//!
//! ```text
//!            alloc(Stash)        whole block moved in
//!   Buddy ───────────────▶ Stash ───────────────────▶ Guest ◀────────┐
//!     ▲  ▲                   │ idle: stash shrinks     │  inflate    │ deflate
//!     │  └───────────────────┘                         ▼             │
//!     │                                             Balloon ─────────┘
//!     │     alloc(Guest), one frame moved in           │
//!     ├─────────────────────────▶ Guest ───────────────┤ last live page of the block goes
//!     └────────────────────────────────────────────────┘ (or the frame of a split block goes home)
//! ```
//!
//! Blocks whose last frame has come home, and what the monitor itself needs:
//!
//! ```text
//!   Buddy ── take_emptied ──▶ Return ── memory given back to the kernel ──▶ Buddy
//!   Buddy ── alloc(Kmem) ──▶ Kmem ──▶ Buddy      whole frames of the monitor's own
//!   Buddy ── a slab grows ──▶ Slab, MovableSlab ── its last object is freed, the shrinker comes ──▶ Buddy
//! ```

use serde::{Deserialize, Serialize};

/// The tag of a frame. [`PageType::Buddy`] is 0 so that a fresh table is all free.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageType {
    /// Free, in the free lists or in a per-CPU list. In its home slot: with the poison word if it was
    /// used before, or with nothing behind it. Charged to nobody.
    Buddy = 0,
    /// Zeroed, in its home slot, part of a whole block that waits for a guest fault. Charged to the
    /// monitor.
    Stash = 1,
    /// Behind a guest frame that the guest uses. Charged to the guest.
    Guest = 2,
    /// A hole: the guest has given this frame up, but the huge page that it is part of is still
    /// whole in guest space. Charged to the guest until the block is freed.
    Balloon = 3,
    /// Part of a block that is free again after it was handed out in pieces, and whose memory is being
    /// given back to the kernel. Charged to the monitor.
    Return = 4,
    /// The monitor's own: buffers, whole frames. Charged to who asked for it.
    Kmem = 5,
    /// Part of a slab, in which smaller objects of the monitor's own lie. Charged to who asked for the
    /// slab.
    Slab = 6,
    /// Part of a slab whose objects have handles, so that they can be moved elsewhere. Charged to who asked
    /// for the slab.
    MovableSlab = 7,
}

impl PageType {
    /// How many there are.
    pub const COUNT: usize = 8;

    /// All of them, in the order of their values.
    pub const ALL: [PageType; Self::COUNT] = [
        PageType::Buddy,
        PageType::Stash,
        PageType::Guest,
        PageType::Balloon,
        PageType::Return,
        PageType::Kmem,
        PageType::Slab,
        PageType::MovableSlab,
    ];

    /// True when frames of this type count against an owner; freeing such a frame uncharges it.
    pub const fn is_charged(self) -> bool {
        !matches!(self, PageType::Buddy)
    }

    /// True when a frame of this type may be handed to `free`.
    pub const fn is_freeable(self) -> bool {
        !matches!(self, PageType::Buddy)
    }

    /// True when compaction can move what is in such a frame elsewhere.
    pub const fn is_movable(self) -> bool {
        matches!(self, PageType::Guest | PageType::Balloon | PageType::MovableSlab)
    }

    /// Which tags a live frame may change between without being freed.
    pub const fn may_become(self, other: PageType) -> bool {
        use PageType::{Balloon, Guest, Stash};
        matches!((self, other), (Stash, Guest) | (Stash, Balloon) | (Guest, Balloon) | (Balloon, Guest))
    }

    /// Its name in tables and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            PageType::Buddy => "buddy",
            PageType::Stash => "stash",
            PageType::Guest => "guest",
            PageType::Balloon => "balloon",
            PageType::Return => "return",
            PageType::Kmem => "kmem",
            PageType::Slab => "slab",
            PageType::MovableSlab => "movable_slab",
        }
    }
}
