//! Tables for operators: the allocator at one moment.
//!
//! The indices are Linux's (`unusable_free_index`, `fragmentation_index`, mm/vmstat.c), in thousandths.

use super::alloc::{FrameAllocator, Mode};
use super::block::Use;
use super::buddy::Buddy;
use super::compact::Fragmentation;
use super::cpu::Cpu;
use super::migrate_type::MigrateType;
use super::page_type::PageType;
use super::sync::lock;
use super::units::{FRAMES_PER_BLOCK, Order, OwnerId};
use crate::stats::{
    BuddyInfo, ChargeInfo, CpuInfo, FramesByType, MigrateTypeInfo, OrderInfo, ReserveInfo, TypeInfo, ZoneInfo,
};

type Chunks = [u64; Order::COUNT];

/// Of `free` frames, the part in thousandths that a request of this order cannot use.
fn unusable_free_index(free: u64, chunks: &Chunks, order: Order) -> u32 {
    let usable: u64 = (order.get()..Order::BLOCK.get() + 1).map(|o| chunks[o as usize] << o).sum();
    // Without free memory nothing of it is usable, as Linux has it.
    ((free - usable) * 1000).checked_div(free).unwrap_or(1000) as u32
}

/// Why a request of this order would fail: -1000, it would not; towards 0, for lack of memory; towards
/// 1000, because of fragmentation.
fn extfrag_index(free: u64, chunks: &Chunks, order: Order) -> i32 {
    let all: u64 = chunks.iter().sum();
    if chunks[order.get() as usize..].iter().any(|&chunks| chunks > 0) {
        return -1000;
    }
    if all == 0 {
        return 0;
    }
    let wanted = u64::from(order.frames());
    1000 - ((1000 + free * 1000 / wanted) / all) as i32
}

impl<M: Mode> FrameAllocator<M> {
    /// Frames charged to an owner. Exact once nobody is getting or putting.
    pub fn charged(&self, owner: OwnerId) -> u64 {
        let buddy = lock(&self.buddy);
        PageType::ALL.iter().map(|&page_type| self.charge(&buddy, owner, page_type)).sum()
    }

    /// Frames of a type. Exact once nobody is getting or putting.
    pub fn count(&self, page_type: PageType) -> u64 {
        self.counts(&lock(&self.buddy))[page_type as usize]
    }

    /// Whole free blocks, those in per-CPU lists with them.
    pub fn free_blocks(&self) -> u64 {
        let buddy = lock(&self.buddy);
        let size = FRAMES_PER_BLOCK as u64;
        let held = self.held_fronts().filter(|(_, _, frames)| *frames == size);
        let held: u64 = held.map(|(_, front, _)| u64::from(front.ready_items() + front.freed_items())).sum();
        u64::from(buddy.whole_free()) + held
    }

    /// Blocks that are handed out in pieces.
    pub fn broken_blocks(&self) -> u64 {
        lock(&self.buddy).blocks().iter().filter(|block| block.usage == Use::Pieces).count() as u64
    }

    /// Frames by type.
    pub fn frames_by_type(&self) -> FramesByType {
        by_type(self.counts(&lock(&self.buddy)))
    }

    /// Frames of this type charged to the owner and in use: less those in per-CPU lists, which are charged
    /// ahead of time, or not yet uncharged.
    fn charge(&self, buddy: &Buddy, owner: OwnerId, page_type: PageType) -> u64 {
        let held = self.held_fronts().map(|(_, front, frames)| {
            let is = |tag: super::tag::Tag| tag.owner() == owner && tag.page_type() == page_type;
            let ready = if is(front.tag()) { front.ready_items() } else { 0 };
            let freed = if is(front.freed_tag()) { front.freed_items() } else { 0 };
            u64::from(ready + freed) * frames
        });
        buddy.charges.owner(owner).frames(page_type).saturating_sub(held.sum())
    }

    fn owner_counts(&self, buddy: &Buddy, owner: OwnerId) -> [u64; PageType::COUNT] {
        PageType::ALL.map(|page_type| self.charge(buddy, owner, page_type))
    }

    fn counts(&self, buddy: &Buddy) -> [u64; PageType::COUNT] {
        let owners = (0..OwnerId::COUNT as u8).map(OwnerId);
        let charged = owners.filter(|&owner| buddy.charges.owner(owner).total() > 0);
        self.sum(charged.map(|owner| self.owner_counts(buddy, owner)))
    }

    /// Frames by type, if this is all that is charged: the rest is free.
    fn sum(&self, owners: impl Iterator<Item = [u64; PageType::COUNT]>) -> [u64; PageType::COUNT] {
        let mut counts = [0; PageType::COUNT];
        for owner in owners {
            counts.iter_mut().zip(owner).for_each(|(count, more)| *count += more);
        }
        counts[PageType::Buddy as usize] = self.frames().saturating_sub(counts.iter().sum());
        counts
    }

    /// How much of the memory that nobody uses is no whole block.
    pub fn fragmentation(&self) -> Fragmentation {
        let buddy = lock(&self.buddy);
        let (free, whole_blocks) = (buddy.free(), u64::from(buddy.whole_free()));
        let holes = self.counts(&buddy)[PageType::Balloon as usize];
        let above_min = self.watermarks.above_min(free);
        let mut chunks = [0; Order::COUNT];
        if above_min >= FRAMES_PER_BLOCK as u64 && whole_blocks > 0 {
            chunks[Order::BLOCK.get() as usize] = whole_blocks;
        } else {
            let pieces = buddy.blocks().iter().filter(|block| block.usage == Use::Pieces);
            pieces.for_each(|block| block.count_chunks(&mut chunks));
            chunks[0] += holes;
        }
        let extfrag_index = extfrag_index(above_min + holes, &chunks, Order::BLOCK);
        Fragmentation { free, holes, whole_blocks, available: above_min + holes, extfrag_index }
    }

    /// Free chunks by order, and the fragmentation indices.
    pub fn buddy_info(&self) -> BuddyInfo {
        let buddy = lock(&self.buddy);
        let mut chunks = [0; Order::COUNT];
        buddy
            .blocks()
            .iter()
            .filter(|block| block.usage == Use::Pieces)
            .for_each(|block| block.count_chunks(&mut chunks));
        chunks[Order::BLOCK.get() as usize] += u64::from(buddy.whole_free());
        let free = buddy.free();
        let orders = Order::all().map(|order| OrderInfo {
            order: order.get(),
            free_chunks: chunks[order.get() as usize],
            unusable_free_index: unusable_free_index(free, &chunks, order),
            extfrag_index: extfrag_index(free, &chunks, order),
        });
        BuddyInfo { free_frames: free, orders: orders.collect() }
    }

    /// Free chunks by migrate type, frames by page type, charges.
    pub fn type_info(&self) -> TypeInfo {
        let buddy = lock(&self.buddy);
        let migrate_types = MigrateType::ALL.map(|migrate_type| {
            let mut chunks = [0; Order::COUNT];
            let mut blocks = 0;
            let own = |block: &&super::block::Block| {
                block.usage == Use::Pieces && block.migrate_type == migrate_type
            };
            for block in buddy.blocks().iter().filter(own) {
                blocks += 1;
                block.count_chunks(&mut chunks);
            }
            MigrateTypeInfo { migrate_type, blocks, free_chunks: chunks.into() }
        });
        // Read once: per-CPU lists change meanwhile, and the parts of a table are to agree.
        let owners: Vec<_> = (0..OwnerId::COUNT as u8)
            .map(|id| (id, buddy.charges.owner(OwnerId(id))))
            .filter(|(_, owner)| owner.is_known || owner.limit.is_some())
            .map(|(id, owner)| (id, owner, self.owner_counts(&buddy, OwnerId(id))))
            .collect();
        let frames_by_type = by_type(self.sum(owners.iter().map(|&(.., frames)| frames)));
        let charges = owners.into_iter().map(|(id, owner, frames)| ChargeInfo {
            owner: id,
            frames: by_type(frames),
            charged: frames.iter().sum(),
            limit: owner.limit,
            refused: owner.refused,
        });
        TypeInfo {
            migrate_types: migrate_types.into(),
            whole_free_blocks: buddy.whole_free().into(),
            frames_by_type,
            charges: charges.collect(),
        }
    }

    /// Watermarks, reserve, per-CPU lists, counters.
    pub fn zone_info(&self) -> ZoneInfo {
        let buddy = lock(&self.buddy);
        let mut cpus: Vec<_> =
            self.cpus.iter().map(|cpu| CpuInfo { cpu: cpu.id.0, ..CpuInfo::default() }).collect();
        for (cpu, front, frames) in self.held_fronts() {
            let (ready, freed) = (u64::from(front.ready_items()), u64::from(front.freed_items()));
            if let Some(info) = cpus.get_mut(cpu.id.0 as usize) {
                let of_frames = frames == 1;
                info.ready_frames += if of_frames { ready } else { 0 };
                info.freed_frames += if of_frames { freed } else { 0 };
                info.ready_blocks += if of_frames { 0 } else { ready };
                info.freed_blocks += if of_frames { 0 } else { freed };
            }
        }
        let marks = self.watermarks;
        let bytes = (self.table.bytes() + buddy.bytes() + self.cpus.len() * Cpu::BYTES) as u64;
        ZoneInfo {
            frames: self.frames(),
            free: buddy.free(),
            min: marks.min,
            low: marks.low,
            high: marks.high,
            metadata_millibytes_per_frame: bytes * 1000 / self.frames().max(1),
            reserve: ReserveInfo {
                frames: marks.min,
                free: buddy.free().min(marks.min),
                lowest_free: buddy.lowest_free.min(marks.min),
                in_use: buddy.reserve_in_use,
                ..self.throttle.info()
            },
            cpus,
            counters: buddy.counters.clone(),
        }
    }
}

fn by_type(counts: [u64; PageType::COUNT]) -> FramesByType {
    let of = |page_type: PageType| counts[page_type as usize];
    FramesByType {
        buddy: of(PageType::Buddy),
        stash: of(PageType::Stash),
        guest: of(PageType::Guest),
        balloon: of(PageType::Balloon),
        r#return: of(PageType::Return),
        kmem: of(PageType::Kmem),
        slab: of(PageType::Slab),
        movable_slab: of(PageType::MovableSlab),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::core::alloc::Config;
    use crate::core::request::Request;
    use crate::core::units::CpuId;
    use crate::core::watermark::Watermarks;

    /// Those whose lists hold nothing, too: a gauge that is not there is not 0.
    #[test]
    fn every_cpu_is_in_the_table() {
        let allocator: FrameAllocator =
            FrameAllocator::new(Config { blocks: 2, cpus: 2, watermarks: Watermarks::NONE });
        let ready = || allocator.zone_info().cpus.iter().map(|cpu| cpu.ready_frames > 0).collect::<Vec<_>>();
        assert_eq!(ready(), [false, false]);
        allocator.alloc(CpuId(1), &Request::new(Order::FRAME, PageType::Guest)).unwrap();
        assert_eq!(ready(), [false, true]);
    }

    /// A counter that goes from a table and comes back reads as a restart.
    #[test]
    fn who_was_charged_once_stays_in_the_table() {
        let config = Config { blocks: 2, cpus: 1, watermarks: Watermarks::NONE };
        let allocator: FrameAllocator = FrameAllocator::new(config);
        let owners =
            || allocator.type_info().charges.iter().map(|of| (of.owner, of.charged)).collect::<Vec<_>>();
        assert_eq!(owners(), []);
        let request = Request::new(Order::FRAME, PageType::Guest).charge_to(OwnerId(3));
        let frame = allocator.alloc(CpuId(0), &request).unwrap();
        assert_eq!(owners(), [(3, 1)]);
        allocator.free(CpuId(0), frame, Order::FRAME).unwrap();
        allocator.drain_all();
        assert_eq!(owners(), [(3, 0)]);
    }

    /// Frames by type and charges are one reading, whatever others get and put meanwhile.
    #[test]
    fn frames_by_type_are_what_is_charged() {
        let config = Config { blocks: 16, cpus: 1, watermarks: Watermarks::NONE };
        let allocator: FrameAllocator = FrameAllocator::new(config);
        let request = Request::new(Order::FRAME, PageType::Guest);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let frame = allocator.alloc(CpuId(0), &request).unwrap();
                    allocator.free(CpuId(0), frame, Order::FRAME).unwrap();
                }
            });
            let differs = (0..50_000).map(|_| allocator.type_info()).find(|info| {
                let charged: u64 = info.charges.iter().map(|of| of.charged).sum();
                info.frames_by_type.buddy + charged != allocator.frames()
            });
            done.store(true, Ordering::Relaxed);
            assert_eq!(differs, None);
        });
    }

    /// The worked examples are from the formulas: F = 640 free in 10 chunks of order 6.
    #[test]
    fn indices_are_linuxs() {
        let mut chunks = [0; Order::COUNT];
        chunks[6] = 10;
        let order = |order| Order::new(order).unwrap();
        assert_eq!(unusable_free_index(640, &chunks, order(6)), 0);
        assert_eq!(unusable_free_index(640, &chunks, order(7)), 1000);
        assert_eq!(extfrag_index(640, &chunks, order(6)), -1000);
        // 1000 - (1000 + 1000 · 640 / 512) / 10
        assert_eq!(extfrag_index(640, &chunks, order(9)), 775);
        chunks[9] = 1;
        assert_eq!(unusable_free_index(1152, &chunks, order(9)), 555);
        assert_eq!(extfrag_index(0, &[0; Order::COUNT], order(9)), 0);
        assert_eq!(unusable_free_index(0, &[0; Order::COUNT], order(0)), 1000);
    }
}
