//! Requests to the allocator, and its refusals.

use std::fmt;

use super::migrate_type::MigrateType;
use super::page_type::PageType;
use super::tag::Tag;
use super::units::{FrameId, Order, OwnerId};

/// How a request may be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// Nothing special: the requester may wait.
    pub const NONE: Flags = Flags(0);
    /// Made in order to free memory: may take what is below the min watermark (`__GFP_MEMALLOC`).
    /// Never waits.
    pub const MEMALLOC: Flags = Flags(1);
    /// The requester cannot wait: no reclaim on its behalf, no throttling (`GFP_NOWAIT`).
    pub const NOWAIT: Flags = Flags(2);

    /// Both.
    pub const fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// True when all of `other` is in it.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// True when the requester may be made to wait.
    pub const fn may_wait(self) -> bool {
        self.0 & (Flags::MEMALLOC.0 | Flags::NOWAIT.0) == 0
    }
}

/// What is wanted. Made once, used often: it carries what the fast path compares.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    order: Order,
    migrate_type: MigrateType,
    page_type: PageType,
    flags: Flags,
    charge_to: OwnerId,
    leaves: u32,
    /// What a per-CPU list that serves this request is called: see `cpu.rs`.
    pub(crate) key: u32,
    pub(crate) front: u8,
}

impl Request {
    /// `2^order` contiguous frames for `page_type`, charged to the monitor; movable if the page type
    /// is.
    ///
    /// # Panics
    /// When asked for [`PageType::Buddy`]: free is not a use.
    pub const fn new(order: Order, page_type: PageType) -> Request {
        assert!(page_type.is_freeable(), "frames cannot be handed out as free");
        let migrate_type = if page_type.is_movable() { MigrateType::Movable } else { MigrateType::Unmovable };
        Request {
            order,
            migrate_type,
            page_type,
            flags: Flags::NONE,
            charge_to: OwnerId::HOST,
            leaves: 0,
            key: 0,
            front: 0,
        }
        .keyed()
    }

    /// With this migrate type.
    pub const fn migrate_type(mut self, migrate_type: MigrateType) -> Request {
        self.migrate_type = migrate_type;
        self.keyed()
    }

    /// With these flags.
    pub const fn flags(mut self, flags: Flags) -> Request {
        self.flags = flags;
        self.keyed()
    }

    /// Charged to this owner.
    ///
    /// # Panics
    /// When there cannot be such an owner.
    pub const fn charge_to(mut self, owner: OwnerId) -> Request {
        assert!((owner.0 as usize) < OwnerId::COUNT, "there are 64 owners");
        self.charge_to = owner;
        self.keyed()
    }

    /// So many frames of the reserve stay free, for others that are `MEMALLOC`.
    pub const fn leaves(mut self, frames: u32) -> Request {
        self.leaves = frames;
        self
    }

    const fn keyed(mut self) -> Request {
        self.key = super::cpu::key(self.tag(), self.migrate_type);
        self.front = super::cpu::front_of(self.tag()) as u8;
        self
    }

    /// The tag of what it gets.
    pub(crate) const fn tag(&self) -> Tag {
        Tag::live(self.page_type, self.order, self.charge_to)
    }

    pub(crate) const fn get_order(&self) -> Order {
        self.order
    }

    pub(crate) const fn get_migrate_type(&self) -> MigrateType {
        self.migrate_type
    }

    pub(crate) const fn get_page_type(&self) -> PageType {
        self.page_type
    }

    pub(crate) const fn get_flags(&self) -> Flags {
        self.flags
    }

    pub(crate) const fn get_leaves(&self) -> u32 {
        self.leaves
    }

    pub(crate) const fn get_owner(&self) -> OwnerId {
        self.charge_to
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, migrate_type, page_type, flags, charge_to, .. } = self;
        write!(f, "Request({order}, {page_type:?}, {migrate_type:?}, {flags:?}, {charge_to:?})")
    }
}

/// Why there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// There is no free chunk of this order that the request may have.
    #[error("no free memory of order {order} in the arena: {free} frames are free, {min} of them in reserve")]
    NoMemory {
        /// What was asked for.
        order: Order,
        /// Free frames.
        free: u64,
        /// The min watermark in frames: what only `MEMALLOC` may have.
        min: u64,
    },
    /// Its owner would have more than its limit.
    #[error("owner {} has {charged} frames and may have {limit}", owner.0)]
    LimitReached {
        /// Who.
        owner: OwnerId,
        /// Frames charged.
        charged: u64,
        /// Frames that may be.
        limit: u64,
    },
}

/// A refused free. The allocator is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreeError {
    /// It is free: freed twice, or never handed out.
    #[error("frame {} is free (it was {last:?}, last owner {}): freed twice, or never handed out", frame.0, owner.0)]
    NotHandedOut {
        /// The frame.
        frame: FrameId,
        /// What it was before; [`PageType::Buddy`] if it was nothing.
        last: PageType,
        /// Whose it was.
        owner: OwnerId,
    },
    /// It is inside a chunk, not its head.
    #[error("frame {} ({tag:?} of owner {}) is not the head of what was handed out", frame.0, owner.0)]
    NotHead {
        /// The frame.
        frame: FrameId,
        /// Its page type.
        tag: PageType,
        /// Whose it is.
        owner: OwnerId,
    },
    /// It was handed out with another order.
    #[error("frame {} ({tag:?} of owner {}) was handed out with order {is}, not {given}", frame.0, owner.0)]
    WrongOrder {
        /// The frame.
        frame: FrameId,
        /// Its page type.
        tag: PageType,
        /// Whose it is.
        owner: OwnerId,
        /// The order with which it was handed out.
        is: Order,
        /// The order given.
        given: Order,
    },
    /// There is no such frame.
    #[error("frame {} is not of this arena", frame.0)]
    OutOfRange {
        /// The frame.
        frame: FrameId,
    },
}
