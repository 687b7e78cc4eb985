//! The tag of a frame: 16 bits that say all that `free` has to know.
//!
//! ```text
//!   15      10   9       8        7     4   3     0
//!   ┌─────────┬───────┬─────────┬─────────┬─────────┐
//!   │  owner  │ mixed │ reserve │  order  │  type   │
//!   └─────────┴───────┴─────────┴─────────┴─────────┘
//! ```
//! - *type*: [`PageType`]; 0 is free.
//! - *order* of the chunk whose head this is, 0 to 9; 15 for every other frame of the chunk. In a free
//!   frame: what it was before, for the error of who frees it again.
//! - *reserve*: taken only because the request was `MEMALLOC`. Ends with the frame.
//! - *mixed*, in the tag of a whole block: its frames have tags of their own (holes).
//! - *owner*: who is charged; in a free frame, who was.

use super::page_type::PageType;
use super::units::{Order, OwnerId};

const TYPE: u16 = 0xF;
const ORDER_SHIFT: u32 = 4;
const ORDER: u16 = 0xF << ORDER_SHIFT;
const RESERVE: u16 = 1 << 8;
const MIXED: u16 = 1 << 9;
const OWNER_SHIFT: u32 = 10;
/// Order of a frame that is not the head of its chunk.
const TAIL: u16 = 0xF << ORDER_SHIFT;

const _: () = assert!(PageType::COUNT <= 16);
const _: () = assert!(OwnerId::COUNT == 1 << (16 - OWNER_SHIFT));

/// The tag of a frame, or of a block that is handed out whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag(u16);

impl Tag {
    /// Of what was never handed out.
    pub(crate) const NEVER: Tag = Tag(0);

    /// Of the head of a chunk that is handed out.
    pub(crate) const fn live(page_type: PageType, order: Order, owner: OwnerId) -> Tag {
        Tag(page_type as u16
            | (order.get() as u16) << ORDER_SHIFT
            | (owner.0 as u16 % OwnerId::COUNT as u16) << OWNER_SHIFT)
    }

    pub(crate) const fn from_bits(bits: u16) -> Tag {
        Tag(bits)
    }

    pub(crate) const fn bits(self) -> u16 {
        self.0
    }

    pub(crate) const fn with_reserve(self, reserve: bool) -> Tag {
        if reserve { Tag(self.0 | RESERVE) } else { Tag(self.0 & !RESERVE) }
    }

    pub(crate) const fn with_mixed(self) -> Tag {
        Tag(self.0 | MIXED)
    }

    pub(crate) const fn with_type(self, page_type: PageType) -> Tag {
        Tag(self.0 & !TYPE | page_type as u16)
    }

    /// Of the other frames of the chunk of which this is the head.
    pub(crate) const fn tail(self) -> Tag {
        Tag(self.0 | TAIL)
    }

    /// As the head of a chunk of this order.
    pub(crate) const fn with_order(self, order: Order) -> Tag {
        Tag(self.0 & !ORDER & !MIXED | (order.get() as u16) << ORDER_SHIFT)
    }

    /// Of the same frame once it is free: it remembers type and owner.
    pub(crate) const fn freed(self) -> Tag {
        Tag(self.0 & !(TYPE | ORDER | RESERVE | MIXED) | (self.0 & TYPE) << ORDER_SHIFT)
    }

    pub(crate) fn page_type(self) -> PageType {
        PageType::ALL.get((self.0 & TYPE) as usize).copied().unwrap_or(PageType::Buddy)
    }

    /// What a free frame was before.
    pub(crate) fn last_type(self) -> PageType {
        let last = (self.0 & ORDER) >> ORDER_SHIFT;
        PageType::ALL.get(last as usize).copied().unwrap_or(PageType::Buddy)
    }

    /// The order of the chunk of which this is the head; `None` for a tail.
    pub(crate) const fn order(self) -> Option<Order> {
        Order::new(((self.0 & ORDER) >> ORDER_SHIFT) as u8)
    }

    pub(crate) const fn is_free(self) -> bool {
        self.0 & TYPE == 0
    }

    pub(crate) const fn is_reserve(self) -> bool {
        self.0 & RESERVE != 0
    }

    pub(crate) const fn is_mixed(self) -> bool {
        self.0 & MIXED != 0
    }

    pub(crate) const fn owner(self) -> OwnerId {
        OwnerId((self.0 >> OWNER_SHIFT) as u8)
    }
}
