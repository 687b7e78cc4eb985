//! Per-CPU lists: memory that a CPU (a thread that allocates) gets and gives without the allocator's lock.
//!
//! A CPU has a *front* for each kind of request that it serves, and there are two sorts: fronts of
//! frames (order 0) and fronts of blocks (order 9). In a front:
//!
//! ```text
//!   ready    one word: which of the 32 frames of one group can be handed out
//!            ┌───────────── group ─────────────┬────────── 32 bits ──────────┐
//!            get: clear the lowest bit. put of a frame of this group: set its bit.
//!   stack    more groups, from the last refill; the next becomes ready when the word is empty
//!   freed    frames of other groups that were freed here; nothing is handed out from it. When it is
//!            full it is drained to the free lists, where the bits decide what is free
//! ```
//! The frames of the ready group are tagged as handed out already, and charged: so getting one costs
//! nothing for tags, charges or reserve. A refill takes more each time, up to a block (of blocks, 16), and
//! a drain of all lists sets it back: lists are sized by use. Where little is free it takes less.
//!
//! Putting one back costs a look at a second word, `mine`: the frames of the ready group that this front
//! has tagged, and that are tagged so still. Whoever changes the tag of a frame, by freeing it elsewhere
//! or by retagging it, takes it out of there first, if the claims of its group say that it may be in
//! anybody's. So `mine` stands for the tags, and the fast paths touch nothing that is not their CPU's own.
//! And two fronts may have the same group ready: each takes only what it has handed out itself.
//!
//! Others may read `ready` too: `free` does, when the claims of a group say that frames of it may be
//! ready somewhere.

use super::block::GROUP;
use super::buddy::GroupStack;
use super::migrate_type::MigrateType;
use super::sync::Mutex;
use super::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use super::tag::Tag;
use super::units::{CpuId, FrameId, Order};

/// Fronts of each sort.
const SORT: usize = 8;
/// Fronts of a CPU: first those of frames, then those of blocks.
pub(crate) const FRONTS: usize = 2 * SORT;
/// Most frames that a `freed` list holds.
const FREED: usize = 128;
/// Most blocks that a front of blocks takes in a refill, or holds as freed.
const MOST_BLOCKS: u32 = 16;
/// The part of what is free that a refill takes at most: what lists in use hold is lost to others.
pub(crate) const MOST_OF_FREE: u64 = 16;

/// Which front serves requests with this tag. Two that meet in one front take turns.
pub(crate) const fn front_of(tag: Tag) -> usize {
    let sort = match tag.order() {
        Some(Order::BLOCK) => SORT,
        _ => 0,
    };
    sort + (tag.bits() as usize + 3 * tag.owner().0 as usize) % SORT
}

/// No group: what is ready in a front that has nothing. Groups of frames have 27 bits.
pub(crate) const NO_GROUP: u64 = (NO_GROUP_ID as u64) << 32;
const NO_GROUP_ID: u32 = u32::MAX;

/// What a front calls the requests that it serves: their tag and migrate type. 0 is none.
pub(crate) const fn key(tag: Tag, migrate_type: MigrateType) -> u32 {
    tag.bits() as u32 | (migrate_type as u32) << 16
}

/// The orders for which there are fronts.
pub(crate) const fn sort_of(front: usize) -> Order {
    if front < SORT { Order::FRAME } else { Order::BLOCK }
}

/// The part of a front that others may read.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) ready: AtomicU64,
    /// Of the ready group, those that may be put back into it.
    pub(crate) mine: AtomicU32,
    pub(crate) key: AtomicU32,
    /// Frames, or blocks, in the stack.
    pub(crate) stacked: AtomicU32,
    pub(crate) freed_len: AtomicU32,
    pub(crate) freed_tag: AtomicU16,
}

impl Front {
    fn new() -> Self {
        Self {
            ready: AtomicU64::new(NO_GROUP),
            mine: AtomicU32::new(0),
            key: AtomicU32::new(0),
            stacked: AtomicU32::new(0),
            freed_len: AtomicU32::new(0),
            freed_tag: AtomicU16::new(0),
        }
    }

    /// The tag of what is ready and stacked.
    pub(crate) fn tag(&self) -> Tag {
        Tag::from_bits(self.key.load(Ordering::Relaxed) as u16)
    }

    /// The tag of what is in `freed`.
    pub(crate) fn freed_tag(&self) -> Tag {
        Tag::from_bits(self.freed_tag.load(Ordering::Relaxed))
    }

    /// Frames or blocks that can be handed out.
    pub(crate) fn ready_items(&self) -> u32 {
        (self.ready.load(Ordering::Relaxed) as u32).count_ones() + self.stacked.load(Ordering::Relaxed)
    }

    pub(crate) fn freed_items(&self) -> u32 {
        self.freed_len.load(Ordering::Relaxed)
    }

    /// The tag of this frame (or block) changes: it is not put back into the ready group.
    pub(crate) fn disown(&self, item: u32) {
        if group_of(self.ready.load(Ordering::Acquire)) == item / GROUP {
            // If the group has just changed, a frame of the new one goes the long way: no harm.
            self.mine.fetch_and(!(1 << (item % GROUP)), Ordering::Relaxed);
        }
    }

    /// True when this very frame (or block) is ready.
    pub(crate) fn has_ready(&self, item: u32) -> bool {
        let ready = self.ready.load(Ordering::Acquire);
        group_of(ready) == item / GROUP && ready >> (item % GROUP) & 1 == 1
    }
}

/// The group of a `ready` word; a number that no group has if there is none.
#[inline]
pub(crate) fn group_of(ready: u64) -> u32 {
    (ready >> 32) as u32
}

/// The group of a `ready` word, if it has one.
pub(crate) fn any_group_of(ready: u64) -> Option<u32> {
    let group = group_of(ready);
    (group != NO_GROUP_ID).then_some(group)
}

/// The lowest ready item of a word that has one.
#[inline]
pub(crate) fn lowest_item(ready: u64) -> u32 {
    group_of(ready).wrapping_mul(GROUP) | (ready as u32).trailing_zeros()
}

/// The `ready` word of a group.
#[inline]
pub(crate) fn word_of(group: u32, bits: u32) -> u64 {
    u64::from(group) << 32 | u64::from(bits)
}

/// The part of a front that only its holder uses.
#[derive(Debug)]
pub(crate) struct FrontLists {
    pub(crate) stack: GroupStack,
    pub(crate) freed: [u32; FREED],
    /// Frames or blocks that the next refill takes.
    pub(crate) batch: u32,
    /// How many `freed` may hold.
    pub(crate) freed_limit: u32,
}

impl FrontLists {
    fn new(order: Order) -> Self {
        let mut lists = Self { stack: GroupStack::new(), freed: [0; FREED], batch: 0, freed_limit: 0 };
        lists.shrink(order);
        lists
    }

    /// Used up: the next batch is larger.
    pub(crate) fn grow_batch(&mut self, order: Order) {
        let most = if order == Order::FRAME { GROUP * GroupStack::CAPACITY as u32 } else { MOST_BLOCKS };
        self.batch = (self.batch * 2).min(most);
    }

    /// Full: it may hold more next time.
    pub(crate) fn grow_freed(&mut self, order: Order) {
        let most = if order == Order::FRAME { FREED as u32 } else { MOST_BLOCKS };
        self.freed_limit = (self.freed_limit * 2).min(most);
    }

    /// Others need memory: back to the smallest size.
    pub(crate) fn shrink(&mut self, order: Order) {
        (self.batch, self.freed_limit) = if order == Order::FRAME { (GROUP, GROUP) } else { (1, 1) };
    }
}

/// What is behind a CPU's lock.
#[derive(Debug)]
pub(crate) struct Lists {
    pub(crate) fronts: Box<[FrontLists; FRONTS]>,
    /// The CPU is in the allocator's mask of those that hold anything.
    pub(crate) marked: bool,
    /// The fronts of which something was got last: of frames, of blocks.
    pub(crate) recent: [usize; 2],
}

/// One CPU. Aligned so that no two share a cache line, nor a pair that is fetched together.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Cpu {
    pub(crate) id: CpuId,
    pub(crate) fronts: [Front; FRONTS],
    /// Somebody found the lists in use and wants what they hold.
    pub(crate) wanted: AtomicBool,
    pub(crate) lists: Mutex<Lists>,
}

impl Cpu {
    /// Bytes of one, with its lists.
    pub(crate) const BYTES: usize = size_of::<Self>() + FRONTS * size_of::<FrontLists>();

    pub(crate) fn new(id: CpuId) -> Self {
        let fronts = Box::new(std::array::from_fn(|front| FrontLists::new(sort_of(front))));
        Self {
            id,
            fronts: std::array::from_fn(|_| Front::new()),
            wanted: AtomicBool::new(false),
            lists: Mutex::new(Lists { fronts, marked: false, recent: [0, SORT] }),
        }
    }

    /// The fronts of one sort.
    pub(crate) fn sort(&self, order: Order) -> &[Front] {
        let (frames, blocks) = self.fronts.split_at(SORT);
        if order == Order::FRAME { frames } else { blocks }
    }
}

/// The head of a frame or block of a front.
#[inline]
pub(crate) fn head_of(item: u32, order: Order) -> FrameId {
    FrameId(item << order.get())
}
