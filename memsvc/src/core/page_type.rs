//! Page types: what a frame is for. All of them, side by side, with their life cycles.
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

use serde::{Deserialize, Serialize};

/// The tag of a frame. Stored as one byte; [`PageType::Buddy`] is 0 so that a fresh table is all free.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageType {
    /// Free. In its home slot: with the poison word if its block has been split, or with nothing
    /// behind it if the block went back to the kernel.
    Buddy = 0,
    /// Zeroed, in its home slot, part of a whole block that waits for a guest fault.
    Stash = 1,
    /// Behind a guest frame that the guest uses. Charged.
    Guest = 2,
    /// A hole: the guest has given this frame up, but the huge page that it is part of is still
    /// whole in guest space. Charged until the block is freed.
    Balloon = 3,
}

impl PageType {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// All of them, in the order of their values.
    pub const ALL: [PageType; Self::COUNT] =
        [PageType::Buddy, PageType::Stash, PageType::Guest, PageType::Balloon];

    /// True when frames of this type count against the guest; freeing such a frame uncharges it.
    pub fn is_charged(self) -> bool {
        matches!(self, PageType::Guest | PageType::Balloon)
    }

    /// True when a frame of this type may be handed to `free`.
    pub fn is_freeable(self) -> bool {
        self != PageType::Buddy
    }

    /// Which tags a live frame may change between without being freed.
    pub fn may_become(self, other: PageType) -> bool {
        use PageType::{Balloon, Guest, Stash};
        matches!((self, other), (Stash, Guest) | (Stash, Balloon) | (Guest, Balloon) | (Balloon, Guest))
    }
}
