//! Compaction's requests to guest space, and the fate of the blocks that it wins.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::free::Slots;
use super::super::{BlockState, CPU, GuestSpace, OUTSIDE};
use super::NotPromoted;
use crate::core::alloc::{FrameAllocator, Full};
use crate::core::compact::{Compactor, Goal, Migrated, Mover, Run, Urgency};
use crate::core::isolate::Isolated;
use crate::core::page_type::PageType;
use crate::core::request::{AllocError, Flags, FreeError, Request};
use crate::core::sync::{Mutex, lock};
use crate::core::units::{BlockId, FrameId, GuestBlock, Order};

/// A block that is won goes back to the kernel.
const WON: Request = Request::new(Order::BLOCK, PageType::Return).flags(Flags::NOWAIT);
/// A whole block for the monitor itself.
const KMEM_BLOCK: Request = Request::new(Order::BLOCK, PageType::Kmem).flags(Flags::NOWAIT);
/// A whole block for a promotion. Never out of what is kept: the allocator refuses below the min watermark,
/// and [`GuestSpace::has_block_to_spare`] above it.
const WHOLE: Request = Request::new(Order::BLOCK, PageType::Stash).flags(Flags::NOWAIT);

/// Compaction of one guest space.
struct SpaceMover<'a, W, G> {
    space: &'a GuestSpace,
    won: W,
    goes_on: G,
}

impl<W: FnMut(BlockId), G: FnMut() -> bool> Mover<Full> for SpaceMover<'_, W, G> {
    fn isolate<'a>(&mut self, alloc: &'a FrameAllocator, block: BlockId) -> Option<Isolated<'a, Full>> {
        self.space.bring_home(alloc, block)
    }

    fn split(&mut self, _alloc: &FrameAllocator, block: BlockId) -> bool {
        self.space.split_in_place(block)
    }

    fn relocate(&mut self, block: &Isolated<'_, Full>) {
        if let Some(objects) = self.space.objects() {
            objects.relocate(OUTSIDE, block);
        }
    }

    fn taken(&mut self, frames: &[FrameId]) {
        self.space.prepare(frames);
    }

    fn migrate(&mut self, _alloc: &FrameAllocator, from: &[FrameId], to: &[FrameId]) -> Migrated {
        Migrated(self.space.migrate(from, to))
    }

    fn left(&mut self, frames: &[FrameId]) {
        self.space.settle_frames(frames);
    }

    fn captured(&mut self, block: BlockId) {
        self.space.mover.harvested_blocks.add(1);
        let is_huge = self.space.pagemap.is_huge(self.space.arena.block_address(block));
        let slots = if is_huge { Slots::Filled } else { Slots::PageTable };
        if self.space.empty_slots(&mut self.space.lock_after_faults(), block, slots) {
            (self.won)(block);
        }
    }

    fn goes_on(&mut self) -> bool {
        (self.goes_on)()
    }
}

impl GuestSpace {
    /// Makes whole blocks, up to the goal, and gives them back to the kernel; `goes_on` is asked before each.
    pub(crate) fn compact(
        &self,
        compactor: &mut Compactor,
        goal: &Goal,
        goes_on: impl FnMut() -> bool,
    ) -> Run {
        let won = |block| self.put_whole(&mut self.lock_after_faults(), block);
        let mut mover = SpaceMover { space: self, won, goes_on };
        let run = compactor.run(&self.alloc, OUTSIDE, &mut mover, &WON, goal);
        if run.sources > run.emptied {
            // A list that was in use may have kept a block from being whole at that moment.
            let mut state = self.lock_after_faults();
            state.came_home = true;
            self.return_emptied(&mut state);
        }
        run
    }

    /// A block made for the monitor itself, if one can be. It is handed out as [`KMEM_BLOCK`] says, and
    /// nothing is behind it.
    pub(crate) fn compact_for_one(&self, compactor: &mut Compactor) -> (Run, Option<BlockId>) {
        let mut got = None;
        let mut mover = SpaceMover { space: self, won: |block| got = Some(block), goes_on: || true };
        let goal = Goal { blocks: 1, urgency: Urgency::Wanted };
        let run = compactor.run(&self.alloc, OUTSIDE, &mut mover, &KMEM_BLOCK, &goal);
        (run, got)
    }

    /// The same with several movers, each on a thread of its own.
    pub(crate) fn compact_with(&self, compactor: &mut Compactor, movers: usize) -> Run {
        let session = compactor.begin(&self.alloc, Goal::ALL);
        let runs: Vec<Run> = std::thread::scope(|scope| {
            let run = || {
                let won = |block| self.put_whole(&mut self.lock_after_faults(), block);
                let mut mover = SpaceMover { space: self, won, goes_on: || true };
                session.run(&self.alloc, OUTSIDE, &mut mover, &WON)
            };
            let threads: Vec<_> =
                (0..movers).filter_map(|_| mover_thread().spawn_scoped(scope, run).ok()).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        runs.into_iter().fold(Run::default(), Run::and)
    }

    /// Promotes all that is filled and for which there are whole blocks, with several movers. These are made
    /// before. Says how many, and how long it took to move what was in them.
    pub(crate) fn promote_with(&self, movers: usize) -> (u64, Duration) {
        let filled = self.filled().into_iter();
        let pairs: Vec<_> = filled.map_while(|block| Some((block, self.make_whole()?))).collect();
        let (pairs, promoted) = (Mutex::new(pairs), AtomicU64::new(0));
        let next = || lock(&pairs).pop();
        let promote_all = || {
            while let Some((guest_block, whole)) = next() {
                match self.promote(guest_block, whole) {
                    Ok(()) => _ = promoted.fetch_add(1, Ordering::Relaxed),
                    Err(_) => self.free_block(&mut self.lock(), whole, Slots::PageTable),
                }
            }
        };
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..movers {
                let _ = mover_thread().spawn_scoped(scope, promote_all);
            }
        });
        let took = start.elapsed();
        self.return_emptied(&mut self.lock());
        (promoted.into_inner(), took)
    }

    /// Gives split guest blocks that the guest has filled one whole block each, the fullest first, while
    /// there is memory to spare. Returns how many.
    pub(crate) fn promote_filled(&self, mut goes_on: impl FnMut() -> bool) -> u64 {
        let mut promoted = 0;
        for guest_block in self.filled() {
            if !goes_on() {
                break;
            }
            let Some(whole) = self.make_whole() else { break };
            match self.promote(guest_block, whole) {
                Ok(()) => {
                    promoted += 1;
                    self.return_emptied(&mut self.lock_after_faults());
                }
                Err(error) => {
                    self.free_block(&mut self.lock(), whole, Slots::PageTable);
                    if error == NotPromoted::TooManyMappings {
                        break;
                    }
                }
            }
        }
        promoted
    }

    /// A whole block for the monitor itself, if there is one; nothing is behind it.
    pub(crate) fn get_block(&self) -> Result<BlockId, AllocError> {
        let head = self.alloc.alloc(OUTSIDE, &KMEM_BLOCK)?;
        Ok(head.block())
    }

    /// Gives such a block back.
    pub(crate) fn put_block(&self, block: BlockId) -> Result<(), FreeError> {
        self.alloc.free(OUTSIDE, block.frame(0), Order::BLOCK)
    }

    /// Blocks promoted since the start.
    pub(crate) fn promoted_blocks(&self) -> u64 {
        self.mover.promoted_blocks.get()
    }

    /// True when there are such blocks.
    pub(crate) fn has_filled(&self) -> bool {
        let state = self.lock();
        (0..state.blocks.len() as u32).any(|block| state.is_filled(GuestBlock(block)))
    }

    /// Split blocks that are worth a whole one, the fullest first.
    fn filled(&self) -> Vec<GuestBlock> {
        let state = self.lock();
        let blocks = (0..).map(GuestBlock).zip(&state.blocks);
        let filled = blocks.filter_map(|(block, entry)| match entry {
            BlockState::Split(split) if state.is_filled(block) => Some((split.len(), block)),
            _ => None,
        });
        let mut filled: Vec<_> = filled.collect();
        filled.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        filled.into_iter().map(|(_, block)| block).collect()
    }

    /// A whole block, zeroed, at home. None when memory is low, or the host has no huge page.
    fn make_whole(&self) -> Option<BlockId> {
        if !self.may_have_block() {
            return None;
        }
        let block = {
            let mut state = self.lock_after_faults();
            if !self.alloc.has_block_to_spare() {
                return None;
            }
            let block = self.alloc.enter(CPU).alloc(&WHOLE).ok()?.block();
            state.begin_anew(block);
            block
        };
        if self.arena.populate(block, &self.pagemap) {
            return Some(block);
        }
        self.free_block(&mut self.lock(), block, Slots::PageTable);
        None
    }
}

fn mover_thread() -> std::thread::Builder {
    std::thread::Builder::new().name("mover".to_owned())
}
