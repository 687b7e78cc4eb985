//! The heart under loom (`ci/loom`): every interleaving of two threads, up to a number of preemptions. A load
//! sees every value that the memory model lets it see.
//!
//! An atomic costs loom time, so arenas have one block, and a limit keeps refills to a few frames.

use ::loom::model::Builder;
use ::loom::sync::Arc;
use ::loom::thread::{self, JoinHandle};

use super::alloc::{Config, FrameAllocator};
use super::page_type::PageType;
use super::request::{AllocError, FreeError, Request};
use super::sync::atomic::Ordering;
use super::units::{CpuId, FRAMES_PER_BLOCK, FrameId, Order, OwnerId};
use super::watermark::Watermarks;

const ZERO: CpuId = CpuId(0);
const ONE: CpuId = CpuId(1);
const GUEST: OwnerId = OwnerId(1);
const FRAME: Request = Request::new(Order::FRAME, PageType::Guest).charge_to(GUEST);

/// Runs a model with so many preemptions, or `LOOM_MAX_PREEMPTIONS`.
pub(super) fn model(preemptions: usize, what: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 1 << 20;
    builder.check(what);
}

/// An arena of one block, of which the guest may have `limit` frames, on two CPUs.
fn arena(limit: u64) -> Arc<FrameAllocator> {
    let alloc = FrameAllocator::new(Config { blocks: 1, cpus: 2, watermarks: Watermarks::NONE });
    alloc.set_limit(GUEST, Some(limit));
    Arc::new(alloc)
}

fn spawn<T: 'static>(
    alloc: &Arc<FrameAllocator>,
    what: impl FnOnce(&FrameAllocator) -> T + 'static,
) -> JoinHandle<T> {
    let alloc = Arc::clone(alloc);
    thread::spawn(move || what(&alloc))
}

/// When all is quiet: the frames in use are these, each once; lists that hold anything are in the mask, so
/// that draining them leaves nothing; and all invariants hold.
fn settle(alloc: &FrameAllocator, mut in_use: Vec<FrameId>) {
    let frames = in_use.len() as u64;
    in_use.sort();
    in_use.dedup();
    assert_eq!(in_use.len() as u64, frames, "a frame was given twice: {in_use:?}");
    assert_eq!(alloc.charged(GUEST), frames);
    assert_eq!(alloc.check(), Ok(()));
    alloc.drain_all();
    assert_eq!(alloc.buddy_info().free_frames + frames, FRAMES_PER_BLOCK as u64);
    assert_eq!(alloc.holding.load(Ordering::Relaxed), 0);
}

#[test]
fn loom_a_list_in_use_against_a_remote_drain() {
    model(4, || {
        let alloc = arena(3);
        let user = spawn(&alloc, |alloc| {
            let mut local = alloc.enter(ZERO);
            let kept = local.alloc(&FRAME).unwrap();
            let freed = local.alloc(&FRAME).unwrap();
            local.free(freed, Order::FRAME).unwrap();
            kept
        });
        let drained = alloc.drain_all();
        let kept = user.join().unwrap();
        if drained.busy == 1 {
            // It was told: if it did not see that when it let go, it does the next time.
            drop(alloc.enter(ZERO));
            assert_eq!(alloc.holding.load(Ordering::Relaxed), 0);
        }
        settle(&alloc, vec![kept]);
    });
}

#[test]
fn loom_two_cpus_share_what_a_limit_leaves() {
    static BOTH: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    model(2, || {
        let alloc = arena(2);
        // Each batch takes all the room there is, so that the other has to come and drain it. Lists in use
        // at that moment are not waited for: then it is refused.
        let get = |cpu| move |alloc: &FrameAllocator| alloc.alloc(cpu, &FRAME);
        let other = spawn(&alloc, get(ONE));
        let own = get(ZERO)(&alloc);
        let charged = alloc.charged(GUEST);
        assert!((u64::from(own.is_ok())..=2).contains(&charged), "{charged} of 2 are charged");
        let got = [own, other.join().unwrap()];
        assert!(got.iter().any(Result::is_ok), "{got:?}");
        for refused in got.iter().filter_map(|got| got.as_ref().err()) {
            assert!(matches!(refused, AllocError::LimitReached { limit: 2, .. }), "{refused}");
        }
        let got: Vec<_> = got.into_iter().flatten().collect();
        BOTH.fetch_or(got.len() == 2, Ordering::Relaxed);
        settle(&alloc, got);
    });
    assert!(BOTH.load(Ordering::Relaxed), "one CPU never gets what is ready on the other");
}

#[test]
fn loom_a_reader_counts_what_a_batch_holds_back() {
    model(3, || {
        let alloc = arena(3);
        let kept = alloc.alloc(ZERO, &FRAME).unwrap();
        let user = spawn(&alloc, move |alloc| {
            let mut local = alloc.enter(ZERO);
            let frame = local.alloc(&FRAME).unwrap();
            local.free(frame, Order::FRAME).unwrap();
            local.drain();
        });
        let charged = alloc.charged(GUEST);
        assert!((1..=2).contains(&charged), "1 or 2 frames are in use, not {charged}");
        user.join().unwrap();
        settle(&alloc, vec![kept]);
    });
}

#[test]
fn loom_a_frame_is_freed_on_another_cpu_while_its_group_is_ready() {
    model(2, || {
        let alloc = arena(4);
        let frame = alloc.alloc(ZERO, &FRAME).unwrap();
        let other = spawn(&alloc, move |alloc| {
            alloc.free(ONE, frame, Order::FRAME).unwrap();
            alloc.alloc(ONE, &FRAME).ok()
        });
        let mut local = alloc.enter(ZERO);
        // Refused only while the other has all in its lists, and these in use.
        if let Ok(own) = local.alloc(&FRAME) {
            local.free(own, Order::FRAME).unwrap();
        }
        let own = local.alloc(&FRAME).ok();
        drop(local);
        settle(&alloc, own.into_iter().chain(other.join().unwrap()).collect());
    });
}

#[test]
fn loom_freed_twice_at_the_same_moment_is_free_once_when_drained() {
    model(3, || {
        let alloc = arena(3);
        let frame = alloc.alloc(ZERO, &FRAME).unwrap();
        let other = spawn(&alloc, move |alloc| alloc.free(ONE, frame, Order::FRAME));
        let mut local = alloc.enter(ZERO);
        let own = local.alloc(&FRAME).unwrap();
        let first = local.free(frame, Order::FRAME);
        drop(local);
        let freed = [first, other.join().unwrap()];
        assert!(freed.iter().any(Result::is_ok), "{freed:?}");
        alloc.drain_all();
        settle(&alloc, vec![own]);
    });
}

#[test]
fn loom_a_late_second_free_is_refused_while_the_frame_becomes_ready_and_goes_back() {
    model(2, || {
        let alloc = arena(3);
        let mut local = alloc.enter(ONE);
        let [kept, freed, last] = [(); 3].map(|()| local.alloc(&FRAME).unwrap());
        local.drain();
        [kept, freed].into_iter().for_each(|frame| local.free(frame, Order::FRAME).unwrap());
        local.drain();
        // With one in the freed list the next free is a fast one.
        local.free(last, Order::FRAME).unwrap();
        let other = spawn(&alloc, |alloc| {
            let mut local = alloc.enter(ZERO);
            let kept = local.alloc(&FRAME).unwrap();
            local.drain();
            kept
        });
        let again = local.free(freed, Order::FRAME);
        assert!(matches!(again, Err(FreeError::NotHandedOut { .. })), "{again:?}");
        drop(local);
        assert_eq!(other.join().unwrap(), kept);
        settle(&alloc, vec![kept]);
    });
}
