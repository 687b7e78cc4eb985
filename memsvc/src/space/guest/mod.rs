//! Guest space: what is behind each guest block, and every way in which that changes.
//!
//! ```text
//!              fault: a whole block           all 512 given up, or reported free
//!   ┌────────┐ ────────────────▶ ┌────────┐ ──────────────────────────────┐
//!   │ Absent │                   │  Huge  │  inflate: hole, deflate: not  │
//!   └────────┘ ◀─────────────────└────────┘◀──────────────────────────────┘
//!       │ fault, and no whole        │  ▲  promoted: copied into a whole block, which is mapped here;
//!       │ block to be had, or it     │  │  or nothing was left, and a fault gets a whole block
//!       │ fell to pieces on its      │ harvested, or split in place: its holes are free
//!       ▼ way in                     ▼  │
//!   ┌───────────────────────────────────┐
//!   │               Split               │  fault: a frame comes; inflate, report: it goes home
//!   └───────────────────────────────────┘
//! ```
//!
//! | file | the ways |
//! | --- | --- |
//! | `fault` | in: somebody touches an absent page |
//! | `balloon` | out: the guest gives pages up, by balloon or report |
//! | `free` | from guest space or stash back to the arena, and to the kernel |
//! | `shortage` | faults that wait for memory |
//! | `reclaimer` | what the thread that frees memory is about to touch |
//! | `retry` | faults that the kernel did not let us resolve |
//! | `stash` | zeroed blocks made ahead of faults |
//! | `split` | where the pages of a split block are |
//! | `mover` | harvest and promotion: pages change frames while the guest runs |
//! | `report` | what `GET /memory` says of it |
//!
//! All state is behind one lock. Under it only the kernel is called, for microseconds; guest memory
//! is never touched under it, since such a touch may wait for the fault handler, which wants the lock.

mod balloon;
mod fault;
mod free;
pub(crate) mod mover;
mod poisoned;
mod reclaimer;
mod report;
mod retry;
mod shortage;
mod split;
mod stash;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use super::arena::Arena;
use super::mapping::Mapping;
use super::objects::Objects;
use super::pagemap::Pagemap;
use super::regions::Regions;
use super::uffd::Uffd;
use crate::core::alloc::{Config, FrameAllocator};
use crate::core::deferral::Deferral;
use crate::core::ledger::Ledger;
use crate::core::slab::Slabs;
use crate::core::sync::{Condvar, Mutex, MutexGuard, lock};
use crate::core::units::{BLOCK_SIZE, BlockId, CpuId, FRAMES_PER_BLOCK, GuestBlock, GuestFrame, OwnerId};
use crate::core::watermark::Watermarks;
use crate::space::bell::Bell;
use crate::space::host;
use crate::stats::{Counter, FaultCounters, MoveCounters, MoverCounters, RefusalCounters};
use mover::{Stalls, Waiter};
use poisoned::Poisoned;
use split::{Page, SplitBlock};

pub use reclaimer::Reclaimer;
pub(crate) use stash::STASH_MAX;

/// Who is charged for what is behind guest RAM.
pub(crate) const GUEST: OwnerId = OwnerId(1);
/// The per-CPU lists of guest space: one set, since all that uses them holds the lock.
const CPU: CpuId = CpuId(0);
/// Those of what is outside the lock.
pub(crate) const OUTSIDE: CpuId = CpuId(1);
/// Blocks that the per-CPU lists of guest space may hold: a refill of each sort, and as many freed.
pub(crate) const READY_MAX: usize = 32;
/// Sets of per-CPU lists: that of guest space, and one for what is outside its lock.
const CPUS: u8 = 2;

/// Why the compactor is woken.
pub(crate) mod wanted {
    use crate::space::bell::Reasons;

    /// The guest has given pages up to the balloon.
    pub(crate) const BALLOONED: Reasons = 1;
    /// It has reported pages free.
    pub(crate) const REPORTED: Reasons = 2;
    /// It has filled a split block.
    pub(crate) const FILLED: Reasons = 4;
    /// No whole block could be had.
    pub(crate) const BLOCK: Reasons = 8;
    /// Free memory is low.
    pub(crate) const LOW: Reasons = 16;
    /// The compactor is to end.
    pub(crate) const STOP: Reasons = 32;
    /// Pages of swap have been released.
    pub(crate) const RELEASED: Reasons = 64;
}

/// What is behind a guest block.
#[derive(Debug)]
enum BlockState {
    Absent,
    Huge(BlockId),
    Split(Box<SplitBlock>),
}

/// How many guest blocks are in which state.
#[derive(Clone, Copy, Debug, Default)]
struct Census {
    absent: usize,
    huge: usize,
    split: usize,
}

impl Census {
    fn of(&mut self, state: &BlockState) -> &mut usize {
        match state {
            BlockState::Absent => &mut self.absent,
            BlockState::Huge(_) => &mut self.huge,
            BlockState::Split(_) => &mut self.split,
        }
    }
}

#[derive(Debug)]
struct State {
    poisoned: Poisoned,
    /// Arena blocks that single frames have left; what was free in them carries the poison word.
    in_pieces: Vec<bool>,
    /// Whole blocks that the kernel would not map anew: nobody uses them until it does.
    set_aside: Vec<BlockId>,
    /// Frames have come home, so that a block may be whole again.
    came_home: bool,
    ledger: Ledger,
    blocks: Vec<BlockState>,
    census: Census,
    stash: Vec<BlockId>,
    /// Faults since the stash was last idle: how far the refiller goes ahead.
    burst: usize,
    last_fault: Instant,
    /// Who waits for a page that a mover has.
    waiters: Vec<Waiter>,
    /// Guest blocks that may be mappings of their own.
    mapped: HashSet<GuestBlock>,
    /// Of these, blocks that the kernel would not let us watch: nothing may be taken from them.
    unwatched: HashSet<GuestBlock>,
    huge: Deferral,
    /// Nobody serves guest space any more.
    is_abandoned: bool,
}

impl State {
    /// Something else is behind a guest block from now on.
    fn put(&mut self, block: GuestBlock, state: BlockState) {
        *self.census.of(&state) += 1;
        let before = std::mem::replace(&mut self.blocks[block.0 as usize], state);
        *self.census.of(&before) -= 1;
    }

    /// True when a touch of this page takes a frame.
    fn is_absent(&self, page: GuestFrame) -> bool {
        match &self.blocks[page.block().0 as usize] {
            BlockState::Absent => true,
            BlockState::Huge(_) => false,
            BlockState::Split(split) => split.page(page.index()) == Page::Absent,
        }
    }
}

/// Guest space with the arena under it.
#[derive(Debug)]
pub(crate) struct GuestSpace {
    regions: Regions,
    mapping: Mapping,
    arena: Arena,
    uffd: Uffd,
    pagemap: Pagemap,
    alloc: Arc<FrameAllocator>,
    /// Objects of the monitor's own, smaller than a frame.
    slabs: Slabs,
    /// Where the guest's swap is kept, if it has some.
    objects: Option<Arc<Objects>>,
    state: Mutex<State>,
    /// Pages are not busy any more.
    settled: Condvar,
    stalls: Stalls,
    /// Mappings that this process may have.
    max_mappings: usize,
    /// Wakes the refiller of the stash.
    refill: Arc<Bell>,
    shortage: shortage::Shortage,
    retry: retry::Retry,
    reclaimer: Arc<Reclaimer>,
    /// Wakes the compactor.
    compaction: Arc<Bell>,
    faults: FaultCounters,
    moves: MoveCounters,
    mover: MoverCounters,
    refusals: RefusalCounters,
    stash_hits: Counter,
    stash_misses: Counter,
}

impl GuestSpace {
    pub(crate) fn new(
        regions: Regions,
        mapping: Mapping,
        arena: Arena,
        uffd: Uffd,
        pagemap: Pagemap,
        watermarks: Watermarks,
        swap_frames: u64,
    ) -> Self {
        let guest_blocks = (mapping.len() / BLOCK_SIZE) as u32;
        let arena_blocks = arena.blocks();
        let (refill, compaction) = (Arc::<Bell>::default(), Arc::<Bell>::default());
        let reclaimer = {
            let (refill, compaction) = (Arc::clone(&refill), Arc::clone(&compaction));
            Box::new(move || {
                refill.ring(stash::reason::LOW);
                compaction.ring(wanted::LOW);
            })
        };
        let config = Config { blocks: arena_blocks, cpus: CPUS, watermarks };
        let alloc = Arc::new(FrameAllocator::new(config).with_reclaimer(reclaimer));
        let slabs = Slabs::new(Arc::clone(&alloc), OwnerId::HOST, CPUS);
        alloc.set_limit(GUEST, Some(u64::from(guest_blocks) * FRAMES_PER_BLOCK as u64 + swap_frames));
        let objects = (swap_frames > 0)
            .then(|| Arc::new(Objects::new(Arc::clone(&alloc), arena.memory(), GUEST, CPUS)));
        let reclaimer = Arc::new(Reclaimer::new(mapping.base(), mapping.len()));
        let state = State {
            poisoned: Poisoned::new(arena_blocks),
            in_pieces: vec![false; arena_blocks as usize],
            set_aside: Vec::new(),
            came_home: false,
            ledger: Ledger::new(guest_blocks),
            blocks: (0..guest_blocks).map(|_| BlockState::Absent).collect(),
            census: Census { absent: guest_blocks as usize, ..Census::default() },
            stash: Vec::with_capacity(STASH_MAX),
            burst: 0,
            last_fault: Instant::now(),
            waiters: Vec::new(),
            mapped: HashSet::new(),
            unwatched: HashSet::new(),
            huge: Deferral::default(),
            is_abandoned: false,
        };
        Self {
            regions,
            mapping,
            arena,
            uffd,
            pagemap,
            alloc,
            slabs,
            objects,
            state: Mutex::new(state),
            settled: Condvar::new(),
            stalls: Stalls::default(),
            max_mappings: host::max_mappings(),
            refill,
            shortage: shortage::Shortage::default(),
            retry: retry::Retry::default(),
            reclaimer,
            compaction,
            faults: FaultCounters::default(),
            moves: MoveCounters::default(),
            mover: MoverCounters::default(),
            refusals: RefusalCounters::default(),
            stash_hits: Default::default(),
            stash_misses: Default::default(),
        }
    }

    pub(crate) fn base(&self) -> usize {
        self.mapping.base()
    }

    /// What wakes the compactor.
    pub(crate) fn compaction(&self) -> &Bell {
        &self.compaction
    }

    /// The bell of the stash's refiller.
    #[cfg(test)]
    pub(crate) fn refill(&self) -> &Bell {
        &self.refill
    }

    /// The bell of the thread that waits for memory.
    #[cfg(test)]
    pub(crate) fn short(&self) -> &Bell {
        self.shortage.bell()
    }

    /// The bell of the thread that tries refused pages again.
    #[cfg(test)]
    pub(crate) fn retry(&self) -> &Bell {
        self.retry.bell()
    }

    /// Announcements of the thread that frees memory.
    pub(crate) fn reclaimer(&self) -> &Arc<Reclaimer> {
        &self.reclaimer
    }

    pub(crate) fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    /// Lets whoever waits for a page go on, for the guest's end: what is at home is brought in first, and an
    /// absent page is zeroed memory to them, as ever, but it is not ours from now on.
    pub(crate) fn let_go(&self) {
        self.lock().is_abandoned = true;
        self.settled.notify_all();
        self.bring_all_in();
        if let Err(error) = self.uffd.unregister(self.mapping.base(), self.mapping.len()) {
            tracing::error!(%error, "guest RAM could not be let go at once; it is let go block by block");
            for offset in (0..self.mapping.len()).step_by(BLOCK_SIZE) {
                let _ = self.uffd.unregister(self.mapping.base() + offset, BLOCK_SIZE);
            }
        }
    }

    /// The guest ends, and with it those that free memory: whoever waits for some is let go.
    pub(crate) fn end(&self) {
        self.retry.end();
        self.shortage.end();
    }

    /// A panic under the lock is a bug of ours; the state is kept consistent step by step, so others
    /// go on with it rather than hang the guest.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(crate) fn allocator(&self) -> &FrameAllocator {
        &self.alloc
    }

    pub(crate) fn slabs(&self) -> &Slabs {
        &self.slabs
    }

    /// Where the guest's swap is kept, if it has some.
    pub(crate) fn objects(&self) -> Option<&Arc<Objects>> {
        self.objects.as_ref()
    }

    fn address(&self, frame: GuestFrame) -> usize {
        self.mapping.base() + frame.offset()
    }
}
