//! The free lists: all free memory, by block.
//!
//! ```text
//!   whole free blocks     clean    nothing was behind them since they were last whole
//!                         emptied  handed out in pieces before: there may be memory behind
//!   blocks in pieces      by migrate type, by the order of the largest free chunk, 0 to 8
//!   (blocks with nothing free, and those that are isolated, are in no set)
//! ```
//! What is small is taken from the block whose largest chunk is smallest, and among these from the
//! lowest: large chunks stay. Where a migrate type has nothing, a whole free block becomes its own;
//! where there is none, it takes from blocks of the other types, the largest chunk first, and the block
//! with it when half of it fits (`__rmqueue_fallback`, mm/page_alloc.c).

use super::block::{Block, GROUP, GROUPS, Use};
use super::blockset::BlockSet;
use super::charge::Charges;
use super::migrate_type::MigrateType;
use super::page_type::PageType;
use super::units::{BlockId, CpuId, FRAMES_PER_BLOCK, FrameId, Order};
use crate::stats::AllocCounters;

/// Orders of free chunks in a block that is in pieces.
const PIECES: usize = Order::BLOCK.get() as usize;
/// From this order on a movable request converts the block that it takes from (`pageblock_order / 2`).
const CONVERT_ORDER: u8 = Order::BLOCK.get() / 2;

/// Groups taken for a per-CPU list: number, and bits of what was free in each.
#[derive(Debug)]
pub(crate) struct GroupStack {
    groups: [(u32, u32); Self::CAPACITY],
    len: usize,
}

impl GroupStack {
    pub(crate) const CAPACITY: usize = GROUPS as usize;

    pub(crate) const fn new() -> Self {
        Self { groups: [(0, 0); Self::CAPACITY], len: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == Self::CAPACITY
    }

    fn push(&mut self, group: u32, bits: u32) {
        self.groups[self.len] = (group, bits);
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<(u32, u32)> {
        self.len = self.len.checked_sub(1)?;
        Some(self.groups[self.len])
    }
}

/// All free memory, and who is charged for the rest.
#[derive(Debug)]
pub(crate) struct Buddy {
    blocks: Vec<Block>,
    pieces: [[BlockSet; PIECES]; MigrateType::COUNT],
    clean: BlockSet,
    emptied: BlockSet,
    free: u64,
    pub(crate) charges: Charges,
    pub(crate) counters: AllocCounters,
    /// Frames in use that were had only because of `MEMALLOC`.
    pub(crate) reserve_in_use: u64,
    /// The fewest frames that were ever free.
    pub(crate) lowest_free: u64,
    #[cfg(test)]
    pub(crate) faults: super::faults::Faults,
}

impl Buddy {
    /// All blocks free.
    pub(crate) fn new(blocks: u32) -> Self {
        let empty = || BlockSet::new(blocks);
        let mut clean = empty();
        (0..blocks).map(BlockId).for_each(|block| clean.insert(block));
        let free = u64::from(blocks) * FRAMES_PER_BLOCK as u64;
        Self {
            blocks: vec![Block::FREE; blocks as usize],
            pieces: std::array::from_fn(|_| std::array::from_fn(|_| empty())),
            clean,
            emptied: empty(),
            free,
            charges: Charges::new(),
            counters: AllocCounters::default(),
            reserve_in_use: 0,
            lowest_free: free,
            #[cfg(test)]
            faults: super::faults::Faults::default(),
        }
    }

    /// True when a test wants that nothing is found this time.
    fn finds_nothing(&mut self) -> bool {
        #[cfg(test)]
        return self.faults.strikes();
        #[cfg(not(test))]
        false
    }

    /// Free frames.
    pub(crate) fn free(&self) -> u64 {
        self.free
    }

    pub(crate) fn block(&self, block: BlockId) -> &Block {
        &self.blocks[block.0 as usize]
    }

    pub(crate) fn block_mut(&mut self, block: BlockId) -> &mut Block {
        &mut self.blocks[block.0 as usize]
    }

    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Whole free blocks.
    pub(crate) fn whole_free(&self) -> u32 {
        self.clean.len() + self.emptied.len()
    }

    /// Bytes of its tables.
    pub(crate) fn bytes(&self) -> usize {
        let sets = self.pieces.iter().flatten().chain([&self.clean, &self.emptied]);
        size_of_val(&*self.blocks) + sets.map(BlockSet::bytes).sum::<usize>()
    }

    /// Takes up to `max` frames for single use, in groups, and says how many. Stops early where the
    /// groups are nearly empty, so that one refill is never long. A group that somebody uses is taken from
    /// only where there is no other: see `cpu.rs`.
    pub(crate) fn take_frames(
        &mut self,
        migrate_type: MigrateType,
        max: u32,
        movable: bool,
        is_claimed: impl Fn(u32) -> bool,
        out: &mut GroupStack,
    ) -> u32 {
        /// Blocks looked at in one refill.
        const LOOKS: u32 = 2;
        if self.finds_nothing() {
            return 0;
        }
        let mut taken = 0;
        for _ in 0..LOOKS {
            let Some(block) = self.block_for(Order::FRAME, migrate_type) else { break };
            let entry = &mut self.blocks[block.0 as usize];
            let before = entry.largest();
            let mut some = take_groups(entry, block, max - taken, |group| !is_claimed(group), out);
            if some == 0 {
                some = take_groups(entry, block, max - taken, |_| true, out);
            }
            self.taken(block, before, some, movable);
            taken += some;
            if taken >= max.min(GROUP) || out.is_full() {
                break;
            }
        }
        taken
    }

    /// Takes a chunk of order 1 to 8.
    pub(crate) fn take_chunk(
        &mut self,
        order: Order,
        migrate_type: MigrateType,
        movable: bool,
    ) -> Option<FrameId> {
        if self.finds_nothing() {
            return None;
        }
        let block = self.block_for(order, migrate_type)?;
        let entry = &mut self.blocks[block.0 as usize];
        let before = entry.largest();
        let index = entry.find(order)?;
        entry.take_chunk(index, order);
        entry.movable += if movable { order.frames() as u16 } else { 0 };
        self.take_free(u64::from(order.frames()));
        self.relist(block, before);
        Some(block.frame(index))
    }

    /// Takes up to `max` whole blocks that lie in one group of 32, one that nobody else uses if it finds
    /// any, and says how many.
    pub(crate) fn take_blocks(
        &mut self,
        max: u32,
        movable: bool,
        is_claimed: impl Fn(u32) -> bool,
        out: &mut GroupStack,
    ) -> u32 {
        /// More than there are CPUs.
        const LOOKS: usize = 2 * CpuId::MAX;
        if self.finds_nothing() {
            return 0;
        }
        let set = if self.clean.len() > 0 { &mut self.clean } else { &mut self.emptied };
        let Some(first) = set.first() else { return 0 };
        let first = first.0 / GROUP;
        let free = set.groups_from(first).take(LOOKS).find(|&group| !is_claimed(group));
        let group = free.unwrap_or(first);
        let mut rest = set.group(group);
        let mut bits = 0u32;
        while rest != 0 && bits.count_ones() < max {
            let block = BlockId(group * GROUP + rest.trailing_zeros());
            bits |= rest & rest.wrapping_neg();
            rest &= rest - 1;
            set.remove(block);
            self.blocks[block.0 as usize].hand_out_whole(movable);
        }
        let taken = bits.count_ones();
        if taken > 0 {
            out.push(group, bits);
            self.take_free(u64::from(taken) * FRAMES_PER_BLOCK as u64);
        }
        taken
    }

    /// Takes a whole free block that was handed out in pieces before.
    pub(crate) fn take_emptied(&mut self) -> Option<BlockId> {
        if self.finds_nothing() {
            return None;
        }
        let block = self.emptied.first()?;
        self.emptied.remove(block);
        self.blocks[block.0 as usize].hand_out_whole(false);
        self.take_free(FRAMES_PER_BLOCK as u64);
        Some(block)
    }

    /// Takes a block in pieces off the lists: what is and becomes free in it is handed out to nobody. False,
    /// and nothing changes, when it is not in pieces, or when fewer than `keep` frames would stay free.
    pub(crate) fn isolate(&mut self, block: BlockId, keep: u64) -> bool {
        let entry = &mut self.blocks[block.0 as usize];
        let free = u64::from(entry.free_frames());
        if entry.usage != Use::Pieces || self.free < keep + free {
            return false;
        }
        if let Some(order) = entry.largest() {
            self.pieces[entry.migrate_type as usize][order.get() as usize].remove(block);
        }
        entry.usage = Use::Isolated;
        self.take_free(free);
        true
    }

    /// An isolated block is as the others again.
    pub(crate) fn rejoin(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block.0 as usize];
        debug_assert_eq!(entry.usage, Use::Isolated);
        entry.usage = Use::Pieces;
        self.free += u64::from(entry.free_frames());
        self.relist(block, None);
    }

    /// An isolated block of which all is free is handed out whole. False, and nothing changes, when some of it
    /// is in use.
    pub(crate) fn take_isolated(&mut self, block: BlockId, movable: bool) -> bool {
        let entry = &mut self.blocks[block.0 as usize];
        if entry.usage != Use::Isolated || entry.free_frames() < FRAMES_PER_BLOCK as u32 {
            return false;
        }
        entry.hand_out_whole(movable);
        true
    }

    /// Takes up to `max` free frames of a block in pieces, the lowest first, and says how many.
    pub(crate) fn take_frames_of(
        &mut self,
        block: BlockId,
        max: u32,
        movable: bool,
        out: &mut GroupStack,
    ) -> u32 {
        let entry = &mut self.blocks[block.0 as usize];
        if entry.usage != Use::Pieces {
            return 0;
        }
        let before = entry.largest();
        let taken = take_groups(entry, block, max, |_| true, out);
        self.taken(block, before, taken, movable);
        taken
    }

    /// So many frames of a block in pieces were taken.
    fn taken(&mut self, block: BlockId, before: Option<Order>, frames: u32, movable: bool) {
        let entry = &mut self.blocks[block.0 as usize];
        entry.settle();
        entry.movable += if movable { frames as u16 } else { 0 };
        self.take_free(u64::from(frames));
        self.relist(block, before);
    }

    /// So many frames are not free any more.
    fn take_free(&mut self, frames: u64) {
        self.free -= frames;
        self.lowest_free = self.lowest_free.min(self.free);
    }

    /// A block in which there is a free chunk of this order for requests of this migrate type.
    fn block_for(&mut self, order: Order, migrate_type: MigrateType) -> Option<BlockId> {
        let own = &self.pieces[migrate_type as usize];
        let best = own.iter().skip(order.get().into()).find_map(BlockSet::first);
        best.or_else(|| self.open(migrate_type)).or_else(|| self.steal(order, migrate_type))
    }

    /// Makes a whole free block one of this migrate type, to be handed out in pieces.
    fn open(&mut self, migrate_type: MigrateType) -> Option<BlockId> {
        let set = if self.emptied.len() > 0 { &mut self.emptied } else { &mut self.clean };
        let block = set.first()?;
        set.remove(block);
        let entry = &mut self.blocks[block.0 as usize];
        entry.usage = Use::Pieces;
        entry.migrate_type = migrate_type;
        Some(block)
    }

    fn steal(&mut self, order: Order, migrate_type: MigrateType) -> Option<BlockId> {
        let fallbacks = migrate_type.fallbacks();
        let largest_first = (order.get()..Order::BLOCK.get()).rev();
        let (from, largest, block) = largest_first
            .flat_map(|largest| fallbacks.map(|from| (from, largest)))
            .find_map(|(from, largest)| {
                let block = self.pieces[from as usize][largest as usize].first()?;
                Some((from, largest, block))
            })?;
        self.counters.steals += 1;
        let entry = &mut self.blocks[block.0 as usize];
        let used = FRAMES_PER_BLOCK as u32 - entry.free_frames();
        let movable = u32::from(entry.movable);
        let alike = if migrate_type == MigrateType::Movable { movable } else { used - movable };
        let may_convert = largest >= CONVERT_ORDER || migrate_type != MigrateType::Movable;
        if may_convert && entry.free_frames() + alike >= FRAMES_PER_BLOCK as u32 / 2 {
            self.counters.blocks_converted += 1;
            entry.migrate_type = migrate_type;
            self.pieces[from as usize][largest as usize].remove(block);
            self.pieces[migrate_type as usize][largest as usize].insert(block);
        }
        Some(block)
    }

    /// Reads something of each of these blocks, so that the memory is fetched for all at once rather than
    /// for one after the other.
    pub(crate) fn touch(&self, blocks: impl Iterator<Item = BlockId>) {
        std::hint::black_box(blocks.fold(0, |all, block| all | self.block(block).movable));
    }

    /// Makes frames of one word of a block in pieces free. False, and nothing changes, when one is.
    #[inline]
    pub(crate) fn put_frames(&mut self, block: BlockId, word: usize, bits: u64, page_type: PageType) -> bool {
        let entry = &mut self.blocks[block.0 as usize];
        let before = entry.largest();
        if !matches!(entry.usage, Use::Pieces | Use::Isolated) || !entry.put(word, bits) {
            return false;
        }
        let frames = bits.count_ones();
        entry.forget(page_type, frames as u16);
        if entry.usage == Use::Isolated {
            return true;
        }
        self.free += u64::from(frames);
        if before != entry.largest() {
            self.relist(block, before);
        }
        true
    }

    /// Makes a chunk of order 1 to 8 free. False, and nothing changes, when some of it is.
    pub(crate) fn put_chunk(&mut self, head: FrameId, order: Order, page_type: PageType) -> bool {
        let entry = &mut self.blocks[head.block().0 as usize];
        let before = entry.largest();
        if !matches!(entry.usage, Use::Pieces | Use::Isolated) || !entry.put_chunk(head.index(), order) {
            return false;
        }
        entry.forget(page_type, order.frames() as u16);
        if entry.usage == Use::Isolated {
            return true;
        }
        self.free += u64::from(order.frames());
        self.relist(head.block(), before);
        true
    }

    /// Makes a block that was handed out whole free. False, and nothing changes, when it was not.
    pub(crate) fn put_block(&mut self, block: BlockId) -> bool {
        let entry = &mut self.blocks[block.0 as usize];
        if entry.usage != Use::Whole {
            return false;
        }
        *entry = Block::FREE;
        self.free += FRAMES_PER_BLOCK as u64;
        self.clean.insert(block);
        true
    }

    /// A block that is handed out whole is one in pieces now, all in use.
    pub(crate) fn break_whole(&mut self, block: BlockId, migrate_type: MigrateType) {
        let entry = &mut self.blocks[block.0 as usize];
        entry.usage = Use::Pieces;
        entry.migrate_type = migrate_type;
    }

    /// Puts a block in pieces into the set where it belongs now, out of that where it was.
    fn relist(&mut self, block: BlockId, before: Option<Order>) {
        let entry = &mut self.blocks[block.0 as usize];
        let sets = &mut self.pieces[entry.migrate_type as usize];
        let after = entry.largest();
        // A block of order 9 is whole and free, or was a moment ago: it is in none of these sets.
        if let Some(set) = before.and_then(|order| sets.get_mut(order.get() as usize))
            && set.contains(block)
        {
            if before == after {
                return;
            }
            set.remove(block);
        }
        match after {
            None => {}
            Some(Order::BLOCK) => {
                debug_assert_eq!(entry.movable, 0);
                *entry = Block::FREE;
                self.emptied.insert(block);
            }
            Some(order) => sets[order.get() as usize].insert(block),
        }
    }

    /// True when the block stands in the one set in which it belongs.
    pub(crate) fn is_listed_right(&self, block: BlockId) -> bool {
        let entry = self.block(block);
        let whole = u32::from(self.clean.contains(block)) + u32::from(self.emptied.contains(block));
        let (mut right, mut all) = (0, 0);
        for migrate_type in MigrateType::ALL {
            for (order, set) in self.pieces[migrate_type as usize].iter().enumerate() {
                let here = u32::from(set.contains(block));
                all += here;
                if entry.migrate_type == migrate_type
                    && entry.largest().map(|o| o.get() as usize) == Some(order)
                {
                    right += here;
                }
            }
        }
        match entry.usage {
            Use::Free => whole == 1 && all == 0,
            Use::Whole => whole == 0 && all == 0,
            Use::Isolated => whole == 0 && all == 0,
            Use::Pieces if entry.free_frames() == 0 => whole == 0 && all == 0,
            Use::Pieces => whole == 0 && all == 1 && right == 1,
        }
    }
}

/// Takes up to `max` frames of a block out of those groups that may be taken from, and says how many.
fn take_groups(
    entry: &mut Block,
    block: BlockId,
    max: u32,
    may_take: impl Fn(u32) -> bool,
    out: &mut GroupStack,
) -> u32 {
    let mut left = max;
    for nth in 0..GROUPS {
        if left == 0 || out.is_full() {
            break;
        }
        let (group, mut bits) = (block.0 * GROUPS + nth, entry.group(nth));
        if bits == 0 || !may_take(group) {
            continue;
        }
        while bits.count_ones() > left {
            bits &= !(1 << (31 - bits.leading_zeros()));
        }
        entry.take_group(nth, bits);
        out.push(group, bits);
        left -= bits.count_ones();
    }
    max - left
}
