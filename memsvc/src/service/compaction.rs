//! When memory is compacted, and by whom.
//!
//! ```text
//!   bell: ballooned, reported, filled ─▶ quiet for a while? ─┐
//!         no whole block, memory low ─────────────────────────┴▶ what is worth it, at its pace
//!   PUT /memory/compact, /memory/reclaim ─▶ on the caller's thread; the background makes way
//! ```
//! The compactor's thread sleeps until something has changed, or for half a second while something is put off:
//! nothing is polled.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::core::compact::{Compactor, Goal, PolicyKind, Run, Tuning, Urgency};
use crate::core::deferral::Deferral;
use crate::core::request::AllocError;
use crate::core::sync::{Mutex, MutexGuard, lock};
use crate::core::units::{BLOCK_SIZE, BlockId, FRAMES_PER_BLOCK};
use crate::space::bell::Reasons;
use crate::space::guest::{GuestSpace, wanted};
use crate::stats::{Compacted, CompactionInfo, Counter, Reclaimed, Trigger, TriggerInfo};
use crate::swap::Swap;

/// Nothing may have changed for so long before what has is looked at: a balloon that is being inflated
/// empties many blocks by itself.
const QUIET: Duration = Duration::from_millis(100);
/// But it is looked at after so long in any case.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// What cannot wait.
const AT_ONCE: Reasons = wanted::LOW | wanted::BLOCK | wanted::STOP;
/// Of one CPU, the part that work takes that nobody waits for: one in so many.
const SHARE: u32 = 5;
/// The same for what the balloon has left: the operator waits for it, but it is the guest that decides how
/// much work it is.
const BALLOON_SHARE: u32 = 2;
/// What was put off, to make way or because it was worth nothing of late, is tried again after so long.
const AGAIN: Duration = Duration::from_millis(500);
/// What is made for a fault that found no whole block: a stash full.
const DIRECT_BLOCKS: u64 = 8;

/// Drives compaction of one guest space.
#[derive(Debug)]
pub(super) struct Compaction {
    space: Arc<GuestSpace>,
    /// Of which pages may leave for tiers.
    swap: Option<Swap>,
    work: Mutex<Work>,
    tuning: Mutex<Tuning>,
    /// Somebody waits for the background to make way.
    urgent: AtomicU32,
    running: AtomicBool,
    /// The compactor's thread has nothing to do.
    at_rest: AtomicBool,
    stopping: AtomicBool,
    counters: [TriggerCounters; Trigger::ALL.len()],
    wakeups: Counter,
    deferred: Counter,
    cpu_us: Counter,
}

/// What one at a time has.
#[derive(Debug)]
struct Work {
    compactor: Compactor,
    policy: PolicyKind,
    /// Requests for a whole block that compaction could not help make it try less often.
    direct: Deferral,
}

impl Work {
    fn new(policy: PolicyKind) -> Self {
        Self { compactor: Compactor::new(policy.make()), policy, direct: Deferral::default() }
    }
}

#[derive(Debug, Default)]
struct TriggerCounters {
    runs: Counter,
    sources: Counter,
    blocks: Counter,
    migrated: Counter,
    failed: Counter,
    split: Counter,
}

/// Attempts of the background that were worth nothing make it try less often.
#[derive(Debug, Default)]
struct Deferrals {
    direct: Deferral,
    balloon: Deferral,
    proactive: Deferral,
    promote: Deferral,
}

/// Something that the background is at.
#[derive(Debug)]
struct Turn<'a> {
    compaction: &'a Compaction,
    /// What cannot wait is what it is at.
    is_urgent: bool,
    put_off: Cell<bool>,
}

impl Turn<'_> {
    /// False when it is put off: somebody waits for it to make way, the policy is off, or the bell has rung for
    /// what cannot wait.
    fn goes_on(&self) -> bool {
        let goes_on = self.compaction.may_go_on() && (self.is_urgent || self.compaction.is_quiet());
        if !goes_on {
            self.put_off.set(true);
        }
        goes_on
    }

    /// Attempts that won nothing make for fewer, unless they were put off. Returns whether it was.
    fn end(self, deferral: &mut Deferral, won: u64) -> bool {
        match (won, self.put_off.get()) {
            (0, false) => deferral.failed(),
            (0, true) => {}
            _ => deferral.succeeded(),
        }
        self.put_off.get()
    }
}

impl Compaction {
    pub(super) fn new(space: Arc<GuestSpace>, swap: Option<Swap>, tuning: Tuning) -> Self {
        Self {
            space,
            swap,
            work: Mutex::new(Work::new(tuning.policy)),
            tuning: Mutex::new(tuning),
            urgent: AtomicU32::new(0),
            running: AtomicBool::new(false),
            at_rest: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            counters: Default::default(),
            wakeups: Counter::default(),
            deferred: Counter::default(),
            cpu_us: Counter::default(),
        }
    }

    pub(super) fn tuning(&self) -> Tuning {
        *lock(&self.tuning)
    }

    /// What runs goes on as it was, unless the policy is off now; what is there to do is looked for anew.
    pub(super) fn tune(&self, tuning: Tuning) {
        *lock(&self.tuning) = tuning;
        self.space.compaction().ring(wanted::BALLOONED | wanted::REPORTED | wanted::FILLED);
    }

    /// Ends the thread, and whatever runs, after the block at which it is.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.space.compaction().ring(wanted::STOP);
    }

    /// Compacts all that can be, on this thread: blocks of the guest are made whole, and memory is won, in
    /// turn. Whoever asks for it gets it, with the background off, too (as `vm.compact_memory`).
    pub(super) fn compact(&self, mut goes_on: impl FnMut() -> bool) -> Compacted {
        let start = Instant::now();
        let mut work = self.make_way();
        let mut goes_on = || goes_on() && !self.stopping.load(Ordering::Relaxed);
        self.space.shrink_slabs(true, &mut goes_on);
        let (mut promoted_blocks, mut run) = (0, Run::default());
        // What is won is what the next are promoted with.
        loop {
            let promoted = self.while_running(|| self.space.promote_filled(&mut goes_on));
            promoted_blocks += promoted;
            let more = self.run(&mut work, Trigger::Explicit, &Goal::ALL, &mut goes_on);
            run = Run { complete: more.complete, ..run.and(more) };
            if promoted + more.emptied == 0 || !self.space.has_filled() || !goes_on() {
                break;
            }
        }
        Compacted {
            blocks: run.emptied,
            promoted_blocks,
            migrated_frames: run.migrated,
            failed_frames: run.failed,
            split_blocks: run.split,
            complete: run.complete,
            took_us: micros(start.elapsed()),
        }
    }

    /// Gives so many bytes back to the host, on this thread; whole blocks, so it may be a little more.
    pub(super) fn reclaim(&self, bytes: u64, mut goes_on: impl FnMut() -> bool) -> Reclaimed {
        let start = Instant::now();
        let mut work = self.make_way();
        let block = BLOCK_SIZE as u64;
        let stash_bytes = self.space.give_stash_back() * block;
        let mut goes_on = || goes_on() && !self.stopping.load(Ordering::Relaxed);
        let slab_frames = self.space.shrink_slabs(true, &mut goes_on);
        let blocks = bytes.saturating_sub(stash_bytes).div_ceil(block);
        let goal = Goal { blocks, urgency: Urgency::Wanted };
        let run = self.run(&mut work, Trigger::Reclaim, &goal, goes_on);
        let compacted_bytes = run.emptied * block;
        Reclaimed {
            asked_bytes: bytes,
            got_bytes: stash_bytes + compacted_bytes,
            stash_bytes,
            compacted_bytes,
            slab_frames,
            migrated_frames: run.migrated,
            split_blocks: run.split,
            took_us: micros(start.elapsed()),
        }
    }

    /// A whole block for the monitor, compacted for if need be.
    pub(super) fn get_block(&self) -> Result<BlockId, AllocError> {
        let alloc = self.space.allocator();
        let error = match self.space.get_block() {
            Ok(block) => return Ok(block),
            Err(error) => error,
        };
        let tuning = self.tuning();
        if tuning.policy == PolicyKind::Off || !tuning.helps(&alloc.fragmentation()) {
            return Err(error);
        }
        let mut work = self.make_way();
        if work.direct.skip() {
            self.deferred.add(1);
            return Err(error);
        }
        let for_one = |compactor: &mut Compactor| self.space.compact_for_one(compactor);
        let (run, got) = self.counted(&mut work, Trigger::Direct, for_one);
        match run.emptied {
            0 => work.direct.failed(),
            _ => work.direct.succeeded(),
        }
        got.ok_or(error)
    }

    pub(super) fn info(&self) -> CompactionInfo {
        let (tuning, now) = (self.tuning(), self.space.allocator().fragmentation());
        let trigger = |(&trigger, counters): (&Trigger, &TriggerCounters)| TriggerInfo {
            trigger,
            runs: counters.runs.get(),
            sources: counters.sources.get(),
            blocks: counters.blocks.get(),
            migrated_frames: counters.migrated.get(),
            failed_frames: counters.failed.get(),
            split_blocks: counters.split.get(),
        };
        CompactionInfo {
            tuning,
            score: now.score(),
            start_score: tuning.start_score(),
            target_score: tuning.target_score(),
            extfrag_index: now.extfrag_index,
            holes: now.holes,
            scattered_frames: now.free.saturating_sub(now.whole_blocks * FRAMES_PER_BLOCK as u64),
            running: self.running.load(Ordering::Relaxed),
            at_rest: self.is_at_rest(),
            triggers: Trigger::ALL
                .iter()
                .zip(&self.counters)
                .map(trigger)
                .filter(|info| info.runs > 0)
                .collect(),
            promoted_blocks: self.space.promoted_blocks(),
            wakeups: self.wakeups.get(),
            deferred: self.deferred.get(),
            background_cpu_us: self.cpu_us.get(),
        }
    }

    /// Waits until the background has stopped, at its next block.
    fn make_way(&self) -> MutexGuard<'_, Work> {
        self.urgent.fetch_add(1, Ordering::Relaxed);
        let work = lock(&self.work);
        self.urgent.fetch_sub(1, Ordering::Relaxed);
        work
    }

    fn run(&self, work: &mut Work, trigger: Trigger, goal: &Goal, goes_on: impl FnMut() -> bool) -> Run {
        self.counted(work, trigger, |compactor| (self.space.compact(compactor, goal, goes_on), ())).0
    }

    /// Runs a compactor that is tuned as it is to be, and counts what that came to.
    fn counted<T>(
        &self,
        work: &mut Work,
        trigger: Trigger,
        run: impl FnOnce(&mut Compactor) -> (Run, T),
    ) -> (Run, T) {
        let policy = self.tuning().policy;
        if policy != work.policy {
            *work = Work::new(policy);
        }
        let (run, result) = self.while_running(|| run(&mut work.compactor));
        let counters = &self.counters[trigger as usize];
        counters.runs.add(1);
        counters.sources.add(run.sources);
        counters.blocks.add(run.emptied);
        counters.migrated.add(run.migrated);
        counters.failed.add(run.failed);
        counters.split.add(run.split);
        (run, result)
    }

    fn while_running<T>(&self, moves: impl FnOnce() -> T) -> T {
        self.running.store(true, Ordering::Relaxed);
        let result = moves();
        self.running.store(false, Ordering::Relaxed);
        result
    }

    /// The compactor's thread. Ends at [`Self::stop`].
    pub(super) fn attend(&self) {
        let bell = self.space.compaction();
        bell.hear_here();
        let mut deferrals = Deferrals::default();
        let mut put_off = 0;
        loop {
            let mut reasons = put_off | if put_off == 0 { self.rest() } else { bell.sleep(AGAIN, AT_ONCE) };
            let mut wakeups = 1;
            let since = Instant::now();
            while since.elapsed() < BUSY_LIMIT {
                if reasons & AT_ONCE != 0 {
                    break;
                }
                let more = bell.sleep(QUIET, AT_ONCE);
                wakeups += 1;
                // Pages of swap are released all the time: nobody waits for that to end.
                if more & !wanted::RELEASED == 0 {
                    reasons |= more;
                    break;
                }
                reasons |= more;
            }
            if reasons & wanted::STOP != 0 || self.stopping.load(Ordering::Relaxed) {
                return;
            }
            put_off = self.look(reasons, &mut deferrals);
            self.wakeups.add(wakeups);
            self.cpu_us.raise(thread_cpu_us());
        }
    }

    /// Sleeps until something has changed.
    fn rest(&self) -> Reasons {
        let bell = self.space.compaction();
        self.at_rest.store(true, Ordering::SeqCst);
        bell.await_ring();
        // Before it is heard: see `is_at_rest`.
        self.at_rest.store(false, Ordering::SeqCst);
        bell.take()
    }

    /// True when all that had changed by now has been looked at, and nothing is put off.
    fn is_at_rest(&self) -> bool {
        // In this order: who hears the bell is not at rest any more.
        !self.space.compaction().has_rung(Reasons::MAX) && self.at_rest.load(Ordering::SeqCst)
    }

    /// Does what there is to do, for these reasons. Returns those for which something was put off.
    fn look(&self, reasons: Reasons, deferrals: &mut Deferrals) -> Reasons {
        let alloc = self.space.allocator();
        // Who needs memory may be a guest that waits for its own, and so swaps nothing.
        if let Some(swap) = &self.swap
            && reasons & wanted::LOW != 0
        {
            swap.make_room();
        }
        let mut put_off = self.shrink_slabs(reasons & (wanted::RELEASED | wanted::LOW));
        let (tuning, now) = (self.tuning(), alloc.fragmentation());
        if tuning.policy == PolicyKind::Off {
            return put_off;
        }
        let mut note = |reason, is_put_off| put_off |= if is_put_off { reason } else { 0 };
        if reasons & wanted::LOW != 0 {
            let missing = alloc.watermarks().high.saturating_sub(now.free);
            let blocks = missing.div_ceil(FRAMES_PER_BLOCK as u64);
            let goal = Goal { blocks, urgency: Urgency::Wanted };
            let turn = self.turn(true);
            self.run(&mut lock(&self.work), Trigger::Low, &goal, || turn.goes_on());
            note(wanted::LOW, turn.put_off.get());
        }
        if reasons & wanted::BLOCK != 0 && tuning.helps(&now) {
            let goal = Goal { blocks: DIRECT_BLOCKS, urgency: Urgency::Wanted };
            note(wanted::BLOCK, self.try_for(Trigger::Direct, goal, &mut deferrals.direct, None, || true));
        }
        let ahead = |urgency| Goal { blocks: u64::MAX, urgency };
        if reasons & wanted::BALLOONED != 0 && now.holes > 0 {
            let (goal, share) = (ahead(Urgency::Asked), Some(BALLOON_SHARE));
            note(
                wanted::BALLOONED,
                self.try_for(Trigger::Balloon, goal, &mut deferrals.balloon, share, || true),
            );
        }
        if tuning.starts_at(alloc.fragmentation().score()) {
            let (goal, share) = (ahead(Urgency::Ahead), Some(SHARE));
            let is_above = || alloc.fragmentation().score() > tuning.target_score();
            note(
                wanted::REPORTED,
                self.try_for(Trigger::Proactive, goal, &mut deferrals.proactive, share, is_above),
            );
        }
        if self.space.has_filled() {
            note(wanted::FILLED, self.promote(&mut deferrals.promote));
        }
        put_off
    }

    /// Makes slabs fewer, for these reasons: in any case where memory is low. Else it keeps to its share and makes
    /// way. Returns the reasons if it did.
    fn shrink_slabs(&self, reasons: Reasons) -> Reasons {
        if reasons == 0 {
            return 0;
        }
        let is_low = reasons & wanted::LOW != 0;
        let mut pace = Pace::new(if is_low { 1 } else { SHARE });
        let mut put_off = 0;
        self.space.shrink_slabs(is_low, || {
            pace.rest();
            let goes_on = !self.is_in_the_way() && (is_low || self.is_quiet());
            put_off = if goes_on { 0 } else { reasons };
            goes_on
        });
        put_off
    }

    fn turn(&self, is_urgent: bool) -> Turn<'_> {
        Turn { compaction: self, is_urgent, put_off: Cell::new(false) }
    }

    /// Compacts for one reason, at so much of one CPU; without a share, at once. Returns whether it was put off.
    fn try_for(
        &self,
        trigger: Trigger,
        goal: Goal,
        deferral: &mut Deferral,
        share: Option<u32>,
        goes_on: impl Fn() -> bool,
    ) -> bool {
        if deferral.skip() {
            self.deferred.add(1);
            return true;
        }
        let turn = self.turn(share.is_none());
        let mut pace = share.map(Pace::new);
        let run = self.run(&mut lock(&self.work), trigger, &goal, || {
            if let Some(pace) = &mut pace {
                pace.rest();
            }
            turn.goes_on() && goes_on()
        });
        turn.end(deferral, run.emptied)
    }

    /// Gives blocks that the guest has filled whole ones. Returns whether it was put off.
    fn promote(&self, deferral: &mut Deferral) -> bool {
        if deferral.skip() {
            self.deferred.add(1);
            return true;
        }
        let mut work = lock(&self.work);
        let (turn, mut pace) = (self.turn(false), Pace::new(SHARE));
        let mut goes_on = || {
            pace.rest();
            turn.goes_on()
        };
        let (mut all, mut made) = (0, 0);
        loop {
            let promoted = self.while_running(|| self.space.promote_filled(&mut goes_on));
            all += promoted;
            if made > 0 && promoted == 0 {
                break;
            }
            // Blocks to promote with may be what is missing. A few are made whatever is live in them: each
            // promotion frees all of a block elsewhere.
            let is_stuck = self.space.has_filled() && !self.space.allocator().has_block_to_spare();
            if !is_stuck || !goes_on() {
                break;
            }
            let goal = Goal { blocks: DIRECT_BLOCKS, urgency: Urgency::Wanted };
            made = self.run(&mut work, Trigger::Direct, &goal, &mut goes_on).emptied;
            if made == 0 {
                break;
            }
        }
        turn.end(deferral, all)
    }

    /// True when the bell has not rung for what cannot wait.
    fn is_quiet(&self) -> bool {
        !self.space.compaction().has_rung(AT_ONCE)
    }

    fn may_go_on(&self) -> bool {
        !self.is_in_the_way() && self.tuning().policy != PolicyKind::Off
    }

    /// True when somebody waits for the background to make way, or to end.
    fn is_in_the_way(&self) -> bool {
        self.urgent.load(Ordering::Relaxed) > 0 || self.stopping.load(Ordering::Relaxed)
    }
}

/// Keeps work to its share of one CPU: after each piece it rests so many times as long as that took.
#[derive(Debug)]
struct Pace {
    /// None before the first piece.
    since: Option<Instant>,
    share: u32,
}

impl Pace {
    fn new(share: u32) -> Self {
        Self { since: None, share }
    }

    fn rest(&mut self) {
        if let Some(since) = self.since {
            thread::sleep(since.elapsed() * (self.share - 1));
        }
        self.since = Some(Instant::now());
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn thread_cpu_us() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1000
}
