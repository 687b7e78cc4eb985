//! Guest space: what is behind each guest block, and every way in which that changes.
//!
//! ```text
//!              fault: a whole block           all 512 given up, or reported free
//!   ┌────────┐ ────────────────▶ ┌────────┐ ──────────────────────────────┐
//!   │ Absent │                   │  Huge  │  inflate: hole, deflate: not  │
//!   └────────┘ ◀─────────────────└────────┘◀──────────────────────────────┘
//!       │ fault, and no whole block to be had, or it fell to pieces on its way in
//!       ▼
//!   ┌────────┐  fault: a frame comes; inflate, report: it goes home.
//!   │ Split  │  (Its page table stays, so a whole block could not be moved in: once
//!   └────────┘  split, a block stays split.)
//! ```
//!
//! | file | the ways |
//! | --- | --- |
//! | `fault` | in: somebody touches an absent page |
//! | `balloon` | out: the guest gives pages up, by balloon or report |
//! | `free` | from guest space or stash back to the arena, and to the kernel |
//! | `stash` | zeroed blocks made ahead of faults |
//! | `report` | what `GET /memory` says of it |
//!
//! All state is behind one lock. Under it only the kernel is called, for microseconds; guest memory
//! is never touched under it, since such a touch may wait for the fault handler, which wants the lock.

mod balloon;
mod fault;
mod free;
mod report;
mod stash;

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::arena::Arena;
use super::mapping::Mapping;
use super::pagemap::Pagemap;
use super::regions::Regions;
use super::uffd::Uffd;
use crate::core::alloc::FrameAllocator;
use crate::core::deferral::Deferral;
use crate::core::ledger::Ledger;
use crate::core::units::{BLOCK_SIZE, BlockId, FRAMES_PER_BLOCK, FrameId, GuestFrame};
use crate::stats::{Counter, FaultCounters, MoveCounters, RefusalCounters};

pub(crate) use stash::STASH_MAX;

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
    stash_hits: Counter,
    stash_misses: Counter,
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

    /// Lets whoever waits for a page go on, for the guest's end: an absent page is zeroed memory to them, as
    /// ever, but it is not ours from now on.
    pub(crate) fn let_go(&self) -> std::io::Result<()> {
        self.uffd.unregister(self.mapping.base(), self.mapping.len())
    }

    /// A panic under the lock is a bug of ours; the state is kept consistent step by step, so others
    /// go on with it rather than hang the guest.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self, frame: GuestFrame) -> usize {
        self.mapping.base() + frame.offset()
    }
}
