//! Compaction: whole free blocks out of scattered free frames and holes.
//!
//! ```text
//!   policy.source ──▶ a block to empty ─┐                       ┌─▶ handed out whole: captured
//!   policy.receiver ─▶ frames elsewhere ┴─▶ mover: isolate, ────┤
//!                      (a holed huge page    migrate            └─▶ some of it would not move: it rejoins
//!                       is split in place)
//! ```
//! What is decided is here, and pure; what is in the frames is moved by a [`Mover`]. Two policies decide:
//!
//! | policy | empties | fills |
//! | --- | --- | --- |
//! | [`Scanner`] | blocks from the start of the arena | blocks from its end, until the two meet (`mm/compaction.c`) |
//! | [`Occupancy`] | the blocks with the fewest live frames | the fullest |

mod occupancy;
mod scanner;
mod tuning;
mod worth;

#[cfg(test)]
#[cfg(not(memsvc_loom))]
#[allow(clippy::unwrap_used)]
mod tests;

use std::fmt;

pub use occupancy::Occupancy;
pub use scanner::Scanner;
pub use tuning::{Fragmentation, PolicyKind, Tuning, TuningError};
pub use worth::{Urgency, is_worth_promoting};

use super::alloc::{FrameAllocator, Mode};
use super::isolate::{BlockUse, Isolated};
use super::request::{Flags, Request};
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::{Mutex, lock};
use super::units::{BlockId, CpuId, FRAMES_PER_BLOCK, FrameId, Order};
use crate::core::page_type::PageType;

/// What a policy can ask about the blocks of an arena.
pub trait Blocks {
    /// How many there are.
    fn count(&self) -> u32;

    /// How one is used; `None` when there is nothing to do with it.
    fn at(&self, block: BlockId) -> Option<BlockUse>;

    /// Calls back for each that there is something to do with, in the order of their numbers.
    fn for_each(&self, see: &mut dyn FnMut(BlockId, BlockUse));
}

impl<M: Mode> Blocks for FrameAllocator<M> {
    fn count(&self) -> u32 {
        (self.frames() / FRAMES_PER_BLOCK as u64) as u32
    }

    fn at(&self, block: BlockId) -> Option<BlockUse> {
        self.block_use(block)
    }

    fn for_each(&self, see: &mut dyn FnMut(BlockId, BlockUse)) {
        self.for_block_uses(see);
    }
}

/// Decides which blocks are emptied and which are filled.
pub trait Policy: fmt::Debug + Send {
    /// A run begins.
    fn begin(&mut self, blocks: &dyn Blocks);

    /// The next block to empty. `None` when there is none that is worth it: the run is over.
    fn source(&mut self, blocks: &dyn Blocks) -> Option<BlockId>;

    /// The next block to fill; never one that is or was a source in this run. `None` when there is none.
    fn receiver(&mut self, blocks: &dyn Blocks) -> Option<BlockId>;

    /// Something in a source would not move, or a receiver has no room after all.
    fn failed(&mut self, block: BlockId);
}

/// Moves what is in frames, and knows what is.
pub trait Mover<M: Mode> {
    /// Takes a block that is to be emptied off the lists; a huge page with holes is in pieces then, and its
    /// holes are free. `None` when that cannot be now.
    fn isolate<'a>(&mut self, alloc: &'a FrameAllocator<M>, block: BlockId) -> Option<Isolated<'a, M>>;

    /// Makes single frames of a huge page with holes, where it is; the holes are free then. False when that
    /// cannot be now.
    fn split(&mut self, alloc: &FrameAllocator<M>, block: BlockId) -> bool;

    /// Moves the objects of movable slabs out of a block. By default there are none.
    fn relocate(&mut self, _block: &Isolated<'_, M>) {}

    /// These frames of a block that is to be filled are ours now. By default there is nothing to do.
    fn taken(&mut self, _frames: &[FrameId]) {}

    /// Moves what is in each of the frames to that of `to`, which is ours, [`FrameAllocator::exchange`]s them
    /// and frees those of `from`. What cannot be moved stays as it is, both of it. As many of each.
    fn migrate(&mut self, alloc: &FrameAllocator<M>, from: &[FrameId], to: &[FrameId]) -> Migrated;

    /// A block was isolated and not won: what is left of it, of which these frames were live, stays in use. By default
    /// there is nothing to do.
    fn left(&mut self, _frames: &[FrameId]) {}

    /// A block was won; it is handed out as the run was asked to.
    fn captured(&mut self, block: BlockId);

    /// False when the run is to end; asked before each block.
    fn goes_on(&mut self) -> bool {
        true
    }
}

/// What moving came to: by position, true where it was done.
#[derive(Clone, Debug, Default)]
pub struct Migrated(pub Vec<bool>);

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Blocks that were emptied.
    pub emptied: u64,
    /// Frames moved.
    pub migrated: u64,
    /// Frames that would not move.
    pub failed: u64,
    /// Huge pages split where they were, to be filled.
    pub split: u64,
    /// Blocks that the policy chose to empty.
    pub sources: u64,
    /// The policy found nothing more to do.
    pub complete: bool,
}

impl Run {
    /// What both came to.
    pub fn and(self, other: Run) -> Run {
        Run {
            emptied: self.emptied + other.emptied,
            migrated: self.migrated + other.migrated,
            failed: self.failed + other.failed,
            split: self.split + other.split,
            sources: self.sources + other.sources,
            complete: self.complete || other.complete,
        }
    }
}

/// How far a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// It ends when so many blocks are won.
    pub blocks: u64,
    /// How much is copied for one.
    pub urgency: Urgency,
}

impl Goal {
    /// All that can be won.
    pub const ALL: Goal = Goal { blocks: u64::MAX, urgency: Urgency::Wanted };
}

/// What emptying one block came to.
enum Emptied {
    Captured(BlockId),
    /// Not all of it moved.
    Partly,
    /// There is nowhere to move it to.
    NoRoom,
}

/// Runs a policy.
#[derive(Debug)]
pub struct Compactor {
    policy: Box<dyn Policy>,
}

/// A run, in which several threads may take part, each with a mover of its own.
#[derive(Debug)]
pub struct Session<'a> {
    policy: Mutex<&'a mut dyn Policy>,
    goal: Goal,
    /// Blocks won, and those that somebody is about to win.
    claimed: AtomicU64,
}

/// The frames into which something is moved, until it is: the monitor's. Nobody waits for them here, and
/// neither do they come out of the reserve.
const RECEIVER: Request = Request::new(Order::FRAME, PageType::Guest).flags(Flags::NOWAIT);

impl Compactor {
    /// Nothing is compacted yet.
    pub fn new(policy: Box<dyn Policy>) -> Self {
        Self { policy }
    }

    /// Begins a run.
    pub fn begin<M: Mode>(&mut self, alloc: &FrameAllocator<M>, goal: Goal) -> Session<'_> {
        // What per-CPU lists hold looks as if it were in use.
        alloc.drain_all();
        self.policy.begin(alloc);
        Session { policy: Mutex::new(&mut *self.policy), goal, claimed: AtomicU64::new(0) }
    }

    /// A run of one thread: see [`Session::run`].
    pub fn run<M: Mode>(
        &mut self,
        alloc: &FrameAllocator<M>,
        cpu: CpuId,
        mover: &mut impl Mover<M>,
        request: &Request,
        goal: &Goal,
    ) -> Run {
        self.begin(alloc, *goal).run(alloc, cpu, mover, request)
    }
}

impl Session<'_> {
    /// Makes whole blocks up to the goal, handed out as `request` says (order 9). `cpu` is whose lists the
    /// frames left over go to.
    pub fn run<M: Mode>(
        &self,
        alloc: &FrameAllocator<M>,
        cpu: CpuId,
        mover: &mut impl Mover<M>,
        request: &Request,
    ) -> Run {
        let mut run = Run::default();
        let mut frames = Frames::default();
        while mover.goes_on() && self.claim() {
            let Some(source) = lock(&self.policy).source(alloc) else {
                run.complete = true;
                break;
            };
            if alloc.block_use(source).is_none_or(|used| !self.goal.urgency.is_worth_emptying(used.live)) {
                self.failed(source);
                self.unclaim();
                continue;
            }
            run.sources += 1;
            match self.empty(alloc, cpu, mover, source, request, &mut frames) {
                Emptied::Captured(block) => {
                    run.emptied += 1;
                    mover.captured(block);
                    continue;
                }
                Emptied::Partly => self.failed(source),
                Emptied::NoRoom => {
                    run.complete = true;
                    break;
                }
            }
            self.unclaim();
        }
        let Frames { migrated, failed, split, .. } = frames;
        Run { migrated, failed, split, ..run }
    }

    /// True when one more is wanted.
    fn claim(&self) -> bool {
        let is_wanted = self.claimed.fetch_add(1, Ordering::Relaxed) < self.goal.blocks;
        if !is_wanted {
            self.unclaim();
        }
        is_wanted
    }

    fn unclaim(&self) {
        self.claimed.fetch_sub(1, Ordering::Relaxed);
    }

    fn failed(&self, block: BlockId) {
        lock(&self.policy).failed(block);
    }

    fn empty<M: Mode>(
        &self,
        alloc: &FrameAllocator<M>,
        cpu: CpuId,
        mover: &mut impl Mover<M>,
        source: BlockId,
        request: &Request,
        frames: &mut Frames,
    ) -> Emptied {
        let Some(used) = alloc.block_use(source) else { return Emptied::Partly };
        let wanted = alloc.places_wanted(source, used);
        frames.to.clear();
        while frames.to.len() < wanted {
            let Some(receiver) = lock(&self.policy).receiver(alloc) else { break };
            if alloc.block_use(receiver).is_some_and(|receiver| receiver.whole) {
                // A huge page is split only for one that is won.
                if used.unmovable > 0 {
                    self.failed(receiver);
                    continue;
                }
                if mover.split(alloc, receiver) {
                    frames.split += 1;
                } else if alloc.block_use(receiver).is_some_and(|receiver| receiver.whole) {
                    self.failed(receiver);
                    continue;
                }
            }
            let before = frames.to.len();
            let taken = alloc.take_from(receiver, &RECEIVER, (wanted - before) as u32, &mut frames.to);
            mover.taken(&frames.to[before..]);
            // Where what is free must stay so, room comes of the next huge page that is split.
            if taken.is_err() || frames.to.len() == before {
                self.failed(receiver);
            }
        }
        let is_short = frames.to.len() < wanted;
        let no_room = is_short && frames.to.is_empty();
        // A huge page is given up only for a block that is won; others may need less room.
        let isolated = if no_room || is_short && used.whole { None } else { mover.isolate(alloc, source) };
        let Some(isolated) = isolated else {
            frames.give_back(alloc, cpu, 0);
            return if no_room { Emptied::NoRoom } else { Emptied::Partly };
        };
        mover.relocate(&isolated);
        isolated.live(&mut frames.from);
        let pairs = frames.from.len().min(frames.to.len());
        let Migrated(moved) = mover.migrate(alloc, &frames.from[..pairs], &frames.to[..pairs]);
        let done = moved.iter().filter(|moved| **moved).count();
        frames.migrated += done as u64;
        frames.failed += (pairs - done) as u64;
        for (at, _) in moved.iter().enumerate().filter(|(_, moved)| !**moved) {
            frames.to.push(frames.to[at]);
        }
        frames.give_back(alloc, cpu, pairs);
        alloc.drain_all();
        match isolated.capture(request) {
            Ok(block) => Emptied::Captured(block),
            Err(_rejoins) => {
                mover.left(&frames.from);
                Emptied::Partly
            }
        }
    }
}

/// Frames of one block that is emptied, and those that take what was in them.
#[derive(Debug, Default)]
struct Frames {
    from: Vec<FrameId>,
    to: Vec<FrameId>,
    /// In the whole run.
    migrated: u64,
    failed: u64,
    split: u64,
}

impl Frames {
    /// Frees the receivers from this one on.
    fn give_back<M: Mode>(&mut self, alloc: &FrameAllocator<M>, cpu: CpuId, first: usize) {
        for frame in self.to.drain(first..) {
            let freed = alloc.free(cpu, frame, Order::FRAME);
            debug_assert_eq!(freed, Ok(()));
        }
    }
}
