//! Guest space: what is behind each guest block, and every way in which that changes.
//!
//! ```text
//!              fault: a whole block           all 512 given up, or reported free
//!   ┌────────┐ ────────────────▶ ┌────────┐ ──────────────────────────────┐
//!   │ Absent │                   │  Huge  │  inflate: hole, deflate: not  │
//!   └────────┘ ◀─────────────────└────────┘◀──────────────────────────────┘
//!       │ fault, and no whole block to be had
//!       ▼
//!   ┌────────┐  fault: a frame comes; inflate, report: it goes home.
//!   │ Split  │  (Its page table stays, so a whole block could not be moved in: once
//!   └────────┘  split, a block stays split.)
//! ```
//!
//! All state is behind one lock. Under it only the kernel is called, for microseconds; guest memory
//! is never touched under it, since such a touch may wait for the fault handler, which wants the lock.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::arena::Arena;
use super::mapping::Mapping;
use super::pagemap::Pagemap;
use super::regions::Regions;
use super::uffd::{Fault, Uffd};
use crate::core::alloc::{FrameAllocator, Freed, Request};
use crate::core::deferral::Deferral;
use crate::core::ledger::{Ledger, Refusal};
use crate::core::page_type::PageType;
use crate::core::units::{
    BLOCK_SIZE, BlockId, FRAME_SIZE, FRAMES_PER_BLOCK, FrameId, Gfn, GuestBlock, GuestFrame, Order,
};
use crate::stats::{
    ArenaStats, FaultCounters, FramesByType, GuestStats, HostStats, MemoryStats, MoveCounters,
    RefusalCounters, StashStats,
};

/// Bound of the stash. Enough for the refiller to stay ahead of a guest that touches memory
/// linearly; what idles goes back after [`STASH_IDLE`].
pub(crate) const STASH_MAX: usize = 8;
/// A stash that no fault has used for so long goes back to the kernel.
const STASH_IDLE: Duration = Duration::from_millis(500);

/// What is behind a guest block.
#[derive(Debug)]
enum BlockState {
    Absent,
    Huge(BlockId),
    Split(Box<SplitBlock>),
}

/// Frames behind a split block, by index.
#[derive(Debug)]
struct SplitBlock([Option<FrameId>; FRAMES_PER_BLOCK]);

#[derive(Debug)]
struct State {
    alloc: FrameAllocator,
    ledger: Ledger,
    blocks: Vec<BlockState>,
    absent: usize,
    stash: Vec<BlockId>,
    /// Faults since the stash was last idle: how far the refiller goes ahead.
    burst: usize,
    last_fault: Instant,
    huge: Deferral,
    stopping: bool,
}

/// What became of an attempt to have a zeroed block.
enum Made {
    Block,
    NoHugePage,
}

/// Guest space with the arena under it.
#[derive(Debug)]
pub(crate) struct GuestSpace {
    regions: Regions,
    mapping: Mapping,
    arena: Arena,
    uffd: Uffd,
    pagemap: Pagemap,
    state: Mutex<State>,
    refill: Condvar,
    faults: FaultCounters,
    moves: MoveCounters,
    refusals: RefusalCounters,
    stash_hits: crate::stats::Counter,
    stash_misses: crate::stats::Counter,
}

impl GuestSpace {
    pub(crate) fn new(
        regions: Regions,
        mapping: Mapping,
        arena: Arena,
        arena_blocks: u32,
        uffd: Uffd,
        pagemap: Pagemap,
    ) -> Self {
        let guest_blocks = (mapping.len() / BLOCK_SIZE) as u32;
        let state = State {
            alloc: FrameAllocator::new(arena_blocks),
            ledger: Ledger::new(guest_blocks),
            blocks: (0..guest_blocks).map(|_| BlockState::Absent).collect(),
            absent: guest_blocks as usize,
            stash: Vec::with_capacity(STASH_MAX),
            burst: 0,
            last_fault: Instant::now(),
            huge: Deferral::default(),
            stopping: false,
        };
        Self {
            regions,
            mapping,
            arena,
            uffd,
            pagemap,
            state: Mutex::new(state),
            refill: Condvar::new(),
            faults: FaultCounters::default(),
            moves: MoveCounters::default(),
            refusals: RefusalCounters::default(),
            stash_hits: Default::default(),
            stash_misses: Default::default(),
        }
    }

    pub(crate) fn base(&self) -> usize {
        self.mapping.base()
    }

    pub(crate) fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    /// A panic under the lock is a bug of ours; the state is kept consistent step by step, so others
    /// go on with it rather than hang the guest.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self, frame: GuestFrame) -> usize {
        self.mapping.base() + frame.offset()
    }

    // ---- faults ----------------------------------------------------------------------------

    /// Puts memory behind the page that somebody waits for, and wakes them.
    pub(crate) fn resolve(&self, fault: Fault) {
        self.faults.total.add(1);
        let offset = fault.address.wrapping_sub(self.mapping.base());
        if offset >= self.mapping.len() {
            self.faults.failed.add(1);
            return;
        }
        let frame = GuestFrame((offset / FRAME_SIZE) as u32);
        let result = self.populate(frame);
        if let Err(error) = result {
            tracing::error!(?frame, %error, "a guest fault could not be resolved; it will be tried again");
            self.faults.failed.add(1);
            let _ = self.uffd.wake(self.address(frame), FRAME_SIZE);
        }
    }

    fn populate(&self, frame: GuestFrame) -> io::Result<()> {
        let mut waited = false;
        loop {
            let mut state = self.lock();
            state.last_fault = Instant::now();
            match &state.blocks[frame.block().0 as usize] {
                BlockState::Huge(_) => return self.already_there(frame),
                BlockState::Split(split) if split.0[frame.index()].is_some() => {
                    return self.already_there(frame);
                }
                BlockState::Split(_) => return self.move_frame_in(&mut state, frame),
                BlockState::Absent => {}
            }
            if let Some(block) = state.stash.pop() {
                if waited { &self.stash_misses } else { &self.stash_hits }.add(1);
                state.burst = state.burst.saturating_add(1);
                let result = self.move_block_in(&mut state, frame, block);
                drop(state);
                self.refill.notify_one();
                return result;
            }
            drop(state);
            waited = true;
            if let Made::NoHugePage = self.make_zeroed_block()? {
                let mut state = self.lock();
                let entry = &mut state.blocks[frame.block().0 as usize];
                if let BlockState::Absent = entry {
                    *entry = BlockState::Split(Box::new(SplitBlock([None; FRAMES_PER_BLOCK])));
                    state.absent -= 1;
                }
            }
        }
    }

    fn already_there(&self, frame: GuestFrame) -> io::Result<()> {
        self.faults.spurious.add(1);
        self.uffd.wake(self.address(frame), FRAME_SIZE)
    }

    fn move_block_in(&self, state: &mut State, frame: GuestFrame, block: BlockId) -> io::Result<()> {
        let guest_block = frame.block();
        let to = self.mapping.base() + guest_block.offset();
        if let Err(error) = self.uffd.move_pages(to, self.arena.block_address(block), BLOCK_SIZE) {
            self.free_whole(state, block)?;
            return Err(error);
        }
        let holes = *state.ledger.block(guest_block);
        for index in 0..FRAMES_PER_BLOCK {
            let tag = if holes.contains(index) { PageType::Balloon } else { PageType::Guest };
            state.alloc.retag(block.frame(index), tag);
        }
        state.blocks[guest_block.0 as usize] = BlockState::Huge(block);
        state.absent -= 1;
        self.moves.blocks_in.add(1);
        self.faults.huge.add(1);
        self.count_ballooned(state, frame);
        Ok(())
    }

    fn move_frame_in(&self, state: &mut State, frame: GuestFrame) -> io::Result<()> {
        let request = Request { order: Order::FRAME, page_type: PageType::Guest };
        let got = match state.alloc.alloc(request) {
            Ok(got) => got,
            Err(_) if self.release_stash(state)? > 0 => {
                state.alloc.alloc(request).map_err(io::Error::other)?
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        if !self.arena.zero_frame(got.head) && got.poisoned {
            self.moves.poison_lost.add(1);
        }
        let from = self.arena.frame_address(got.head);
        if let Err(error) = self.uffd.move_pages(self.address(frame), from, FRAME_SIZE) {
            self.free_frame(state, got.head)?;
            return Err(error);
        }
        if let BlockState::Split(split) = &mut state.blocks[frame.block().0 as usize] {
            split.0[frame.index()] = Some(got.head);
        }
        self.moves.frames_in.add(1);
        self.faults.single.add(1);
        self.count_ballooned(state, frame);
        Ok(())
    }

    fn count_ballooned(&self, state: &State, frame: GuestFrame) {
        if state.ledger.contains(frame) {
            self.faults.on_ballooned.add(1);
        }
    }

    // ---- balloon and reporting ---------------------------------------------------------------

    /// The guest gives frames up. Returns how many were taken.
    pub(crate) fn inflate(&self, gfns: &[Gfn]) -> u32 {
        let mut state = self.lock();
        self.each(gfns, |frame| {
            let last = state.ledger.inflate(frame)?;
            let guest_block = frame.block();
            let done = match &state.blocks[guest_block.0 as usize] {
                BlockState::Absent => Ok(()),
                BlockState::Huge(_) if last => self.take_block(&mut state, guest_block),
                BlockState::Huge(block) => {
                    let frame = block.frame(frame.index());
                    state.alloc.retag(frame, PageType::Balloon);
                    Ok(())
                }
                BlockState::Split(_) => self.take_frame_home(&mut state, frame),
            };
            if let Err(error) = done {
                tracing::error!(?frame, %error, "a frame that the guest gave up could not be taken");
            }
            Ok(())
        })
    }

    /// The guest takes frames back. Returns how many it may have.
    pub(crate) fn deflate(&self, gfns: &[Gfn]) -> u32 {
        let mut state = self.lock();
        self.each(gfns, |frame| {
            state.ledger.deflate(frame)?;
            if let BlockState::Huge(block) = state.blocks[frame.block().0 as usize] {
                state.alloc.retag(block.frame(frame.index()), PageType::Guest);
            }
            Ok(())
        })
    }

    fn each(&self, gfns: &[Gfn], mut one: impl FnMut(GuestFrame) -> Result<(), Refusal>) -> u32 {
        let mut accepted = 0;
        for &gfn in gfns {
            let result = self.regions.frame(gfn).ok_or(Refusal::OutsideRam).and_then(&mut one);
            match result {
                Ok(()) => accepted += 1,
                Err(Refusal::OutsideRam) => self.refusals.outside_ram.add(1),
                Err(Refusal::InflatedTwice) => self.refusals.inflated_twice.add(1),
                Err(Refusal::NeverInflated) => self.refusals.never_inflated.add(1),
            }
        }
        accepted
    }

    /// All that is in the balloon is the guest's again.
    pub(crate) fn reset_balloon(&self) {
        let mut state = self.lock();
        for index in 0..state.blocks.len() {
            let guest_block = GuestBlock(index as u32);
            let holes = *state.ledger.block(guest_block);
            for hole in holes.iter() {
                let _ = state.ledger.deflate(guest_block.frame(hole));
                if let BlockState::Huge(block) = state.blocks[index] {
                    state.alloc.retag(block.frame(hole), PageType::Guest);
                }
            }
        }
    }

    /// The guest says that it does not use `frames` frames from `first`, for the moment. Whole
    /// blocks go back to the kernel, frames of split blocks go home; a piece of a huge block stays,
    /// because the guest may use it again without a word. Returns how many frames were taken.
    pub(crate) fn report_free(&self, first: Gfn, frames: u64) -> u64 {
        let mut taken = 0;
        let mut at = first.0;
        let end = first.0.saturating_add(frames);
        while at < end {
            let Some(frame) = self.regions.frame(Gfn(at)) else {
                // Nothing of what follows up to the next region is RAM.
                let next = self.regions.next_start(Gfn(at)).map_or(end, |gfn| gfn.0.min(end));
                self.refusals.outside_ram.add(next - at);
                at = next;
                continue;
            };
            let count = (end - at).min((FRAMES_PER_BLOCK - frame.index()) as u64) as usize;
            taken += self.report_in_block(frame, count) as u64;
            at += count as u64;
        }
        taken
    }

    fn report_in_block(&self, first: GuestFrame, count: usize) -> usize {
        let mut state = self.lock();
        let guest_block = first.block();
        let done = match &state.blocks[guest_block.0 as usize] {
            BlockState::Absent => Ok(()),
            BlockState::Huge(_) if count == FRAMES_PER_BLOCK => self.take_block(&mut state, guest_block),
            BlockState::Huge(_) => {
                self.refusals.reported_kept.add(count as u64);
                return 0;
            }
            BlockState::Split(_) => (first.index()..first.index() + count)
                .try_for_each(|index| self.take_frame_home(&mut state, guest_block.frame(index))),
        };
        match done {
            Ok(()) => count,
            Err(error) => {
                tracing::error!(?guest_block, %error, "reported memory could not be taken");
                0
            }
        }
    }

    /// A huge block of which nothing is live goes back to the kernel, whole, at once.
    fn take_block(&self, state: &mut State, guest_block: GuestBlock) -> io::Result<()> {
        let BlockState::Huge(block) = state.blocks[guest_block.0 as usize] else {
            return Ok(());
        };
        self.mapping.discard(guest_block.offset(), BLOCK_SIZE)?;
        state.blocks[guest_block.0 as usize] = BlockState::Absent;
        state.absent += 1;
        // Nothing is left in the home slots: they were emptied when the block was moved in.
        state.alloc.free(block.frame(0), Order::BLOCK).map_err(io::Error::other)?;
        self.moves.blocks_returned.add(1);
        Ok(())
    }

    /// The frame behind a page of a split block goes home.
    fn take_frame_home(&self, state: &mut State, frame: GuestFrame) -> io::Result<()> {
        let BlockState::Split(split) = &mut state.blocks[frame.block().0 as usize] else {
            return Ok(());
        };
        let Some(home) = split.0[frame.index()] else {
            return Ok(());
        };
        let to = self.arena.frame_address(home);
        if self.uffd.move_pages(to, self.address(frame), FRAME_SIZE).is_err() {
            // Pinned. Discarding leaves the pinned page to who pinned it; the home slot gets new
            // memory from the poison word.
            self.mapping.discard(frame.offset(), FRAME_SIZE)?;
            self.moves.home_refused.add(1);
        }
        split.0[frame.index()] = None;
        self.moves.frames_home.add(1);
        self.free_frame(state, home)
    }

    // ---- the way back ------------------------------------------------------------------------

    fn free_frame(&self, state: &mut State, frame: FrameId) -> io::Result<()> {
        match state.alloc.free(frame, Order::FRAME).map_err(io::Error::other)? {
            Freed::Frame => self.arena.poison_frame(frame),
            Freed::Block { block, broken } => self.return_block(block, broken)?,
        }
        Ok(())
    }

    fn free_whole(&self, state: &mut State, block: BlockId) -> io::Result<()> {
        state.alloc.free(block.frame(0), Order::BLOCK).map_err(io::Error::other)?;
        self.return_block(block, false)
    }

    fn return_block(&self, block: BlockId, broken: bool) -> io::Result<()> {
        self.arena.release(block, broken, &self.uffd)?;
        self.moves.blocks_returned.add(1);
        Ok(())
    }

    fn release_stash(&self, state: &mut State) -> io::Result<usize> {
        let blocks = std::mem::take(&mut state.stash);
        for &block in &blocks {
            self.free_whole(state, block)?;
        }
        Ok(blocks.len())
    }

    // ---- stash -------------------------------------------------------------------------------

    /// Takes a free block, has the kernel put zeroed memory behind it and adds it to the stash.
    /// Waits for the zeroing, without the lock.
    fn make_zeroed_block(&self) -> io::Result<Made> {
        let block = {
            let mut state = self.lock();
            if state.huge.skip() {
                return Ok(Made::NoHugePage);
            }
            match state.alloc.alloc(Request { order: Order::BLOCK, page_type: PageType::Stash }) {
                Ok(got) => got.head.block(),
                Err(_) => return Ok(Made::NoHugePage),
            }
        };
        let huge = self.arena.populate(block, &self.pagemap);
        let mut state = self.lock();
        if let Ok(true) = huge {
            state.huge.succeeded();
            state.stash.push(block);
            return Ok(Made::Block);
        }
        self.faults.no_huge_page.add(1);
        state.huge.failed();
        // Its slots have a page table now: good for single frames only, until it is whole again.
        state.alloc.break_up(block).map_err(io::Error::other)?;
        huge.map(|_| Made::NoHugePage)
    }

    /// The refiller's loop: keeps the stash ahead of a burst of faults, and gives it back when idle.
    /// Ends at [`Self::stop`].
    pub(crate) fn keep_stash(&self) {
        loop {
            let mut state = self.lock();
            if state.stopping {
                return;
            }
            let idle = state.last_fault.elapsed() >= STASH_IDLE;
            if idle {
                state.burst = 0;
                if let Err(error) = self.release_stash(&mut state) {
                    tracing::error!(%error, "a stash block could not be given back to the kernel");
                }
            }
            let wanted = state.burst.min(STASH_MAX).min(state.absent);
            if state.stash.len() < wanted {
                drop(state);
                match self.make_zeroed_block() {
                    Ok(Made::Block) => continue,
                    Ok(Made::NoHugePage) => {}
                    Err(error) => tracing::error!(%error, "the stash could not be refilled"),
                }
                state = self.lock();
                if state.stopping {
                    return;
                }
            }
            if idle && state.burst == 0 {
                drop(self.refill.wait(state).unwrap_or_else(PoisonError::into_inner));
            } else {
                drop(self.refill.wait_timeout(state, STASH_IDLE).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    /// Ends the refiller.
    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.refill.notify_all();
    }

    // ---- statistics --------------------------------------------------------------------------

    pub(crate) fn ballooned_frames(&self) -> u64 {
        self.lock().ledger.frames()
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        let guest_resident =
            self.pagemap.resident(self.mapping.base(), self.mapping.len()).unwrap_or_default();
        let arena_resident = self.arena.resident(&self.pagemap).unwrap_or_default();
        let state = self.lock();
        let count = |wanted: fn(&BlockState) -> bool| {
            state.blocks.iter().filter(|block| wanted(block)).count() as u64
        };
        let table = state.alloc.table();
        MemoryStats {
            guest: GuestStats {
                bytes: self.regions.bytes(),
                blocks: state.blocks.len() as u64,
                absent_blocks: state.absent as u64,
                huge_blocks: count(|block| matches!(block, BlockState::Huge(_))),
                split_blocks: count(|block| matches!(block, BlockState::Split(_))),
                holes: table.count(PageType::Balloon),
                ballooned_frames: state.ledger.frames(),
            },
            arena: ArenaStats {
                blocks: table.len() / FRAMES_PER_BLOCK as u64,
                free_blocks: state.alloc.free_blocks() as u64,
                broken_blocks: state.alloc.broken_blocks() as u64,
                frames: table.len(),
                frames_by_type: FramesByType {
                    buddy: table.count(PageType::Buddy),
                    stash: table.count(PageType::Stash),
                    guest: table.count(PageType::Guest),
                    balloon: table.count(PageType::Balloon),
                },
                charged_frames: table.charged(),
            },
            host: HostStats {
                guest_resident_bytes: guest_resident.bytes,
                guest_huge_bytes: guest_resident.huge,
                arena_resident_bytes: arena_resident.bytes,
                arena_huge_bytes: arena_resident.huge,
            },
            stash: StashStats {
                blocks: state.stash.len() as u64,
                max_blocks: STASH_MAX as u64,
                hits: self.stash_hits.get(),
                misses: self.stash_misses.get(),
            },
            faults: self.faults.snapshot(),
            moves: self.moves.snapshot(),
            refusals: self.refusals.snapshot(),
        }
    }
}
