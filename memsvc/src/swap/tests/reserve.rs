//! Swap and guest RAM in an arena that is too small for both: who gets what is left, and who waits.
#![allow(unsafe_code)] // touches guest memory, as a CPU would

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::core::page_type::PageType;
use crate::core::request::{Flags, Request};
use crate::core::units::{FRAMES_PER_BLOCK, FrameId, Order};
use crate::core::watermark::Choice;
use crate::least_limit;
use crate::swap::nbd::NbdError;
use crate::swap::session::{Fetch, Stored};
use crate::swap::tier::TierConfig;

const RAM: u64 = 16 << 20;
const DEVICE: u64 = 32 << 20;
const RAM_PAGES: u64 = RAM >> 12;
/// Frames of the reserve where there is one.
const MIN: u64 = 256;

const HOG: Request = Request::new(Order::FRAME, PageType::Kmem).flags(Flags::NOWAIT);

/// A guest of 16 MiB with swap of 32 MiB, of which pages are stored as they are, in the least arena.
struct Tight(Arc<MemoryService>, Seat);

impl Tight {
    fn new(min: u64) -> Self {
        Self::over(min, vec![])
    }

    /// The same, with these below.
    fn over(min: u64, tiers: Vec<TierConfig>) -> Self {
        let regions = vec![RegionSpec { gpa: 0, len: RAM }];
        let swap =
            SwapConfig { name: "swap".into(), bytes: DEVICE, memory: DEVICE, codec: Codec::None, tiers };
        let watermarks = Choice::Min(min);
        let limit = Some(least_limit(RAM, watermarks));
        let config = Config { swap: Some(swap), watermarks, limit, ..Config::new(regions) };
        let service = MemoryService::new(&config, |why| panic!("{why}")).unwrap();
        let seat = seat(&service.swap().unwrap().export.store, Codec::None);
        Self(service, seat)
    }

    fn store(&self) -> &Store {
        &self.0.swap().unwrap().export.store
    }

    /// Once tiers have made room, if they have to.
    fn write(&mut self, page: u64) -> Result<(), NbdError> {
        self.write_data(page, &whole_page(page))
    }

    fn write_data(&mut self, page: u64, data: &session::Page) -> Result<(), NbdError> {
        let Self(service, seat) = self;
        let store = &service.swap().unwrap().export.store;
        until_done(|| match store.write(seat, page, data) {
            Ok(Stored::Later) => None,
            Ok(Stored::Now) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        })
    }

    /// Stores pages until there is no room; says how many.
    fn fill(&mut self) -> u64 {
        (0..).find(|page| self.write(*page).is_err()).unwrap()
    }

    fn check(&mut self, page: u64) {
        let mut read = [0; FRAME_SIZE];
        let store = &self.0.swap().unwrap().export.store;
        until_done(|| match store.fetch(&self.1, page..page + 1, true) {
            Fetch::Later => None,
            Fetch::Ready => Some(()),
            Fetch::Failed(error) => panic!("page {page} of swap: {error:?}"),
        });
        store.read(&mut self.1, page, &mut read).unwrap();
        assert!(read == whole_page(page), "page {page} of swap");
    }

    /// Takes all that is not the reserve.
    fn hog(&self) -> Vec<FrameId> {
        let mut hog = Vec::new();
        self.until_nothing_comes(|| {
            let before = hog.len();
            hog.extend(std::iter::from_fn(|| self.0.allocator().alloc(OUTSIDE, &HOG).ok()));
            hog.len() > before
        });
        hog
    }

    /// The same, for good.
    fn occupy(&self) {
        self.until_nothing_comes(|| self.0.occupy() > 0);
    }

    /// Until nothing is taken for longer than the stash keeps what nobody asks for; on a busy machine its thread may still
    /// be about to fill it when it is empty, and gives that back.
    fn until_nothing_comes(&self, mut takes: impl FnMut() -> bool) {
        let mut last = Instant::now();
        while last.elapsed() < Duration::from_secs(1) {
            self.settle();
            if takes() {
                last = Instant::now();
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn word(&self, page: u64) -> &AtomicU64 {
        let address = self.0.regions()[0].host + page as usize * FRAME_SIZE;
        // SAFETY: inside guest RAM, which lives as long as the service.
        unsafe { AtomicU64::from_ptr(address as *mut u64) }
    }

    /// The same, for who has said that it frees memory.
    fn announced(&self, page: u64) -> &AtomicU64 {
        let word = self.word(page);
        self.0.reclaimer().announce(word.as_ptr() as usize, 8);
        word
    }

    /// Frames of the reserve that are for records.
    fn records(&self) -> u64 {
        self.store().record_frames().into()
    }

    /// Frames of the reserve that are for this guest's memory.
    fn touched(&self) -> u64 {
        let frames = self.0.zone_info().min.saturating_sub(self.records());
        touched(frames).into()
    }

    fn free(&self) -> u64 {
        self.0.allocator().drain_all();
        self.0.zone_info().free
    }

    /// Once what comes and goes by itself has gone.
    fn settle(&self) {
        until(|| self.0.stats().arena.frames_by_type.stash == 0);
    }
}

fn until(what: impl Fn() -> bool) {
    until_done(|| what().then_some(()));
}

fn until_done<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = what() {
            return done;
        }
        assert!(start.elapsed().as_secs() < 60, "it does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

fn disk() -> (tempfile::TempDir, Vec<TierConfig>) {
    let directory = tempfile::tempdir().unwrap();
    let tiers = vec![TierConfig::File(directory.path().to_path_buf())];
    (directory, tiers)
}

/// A page that takes a frame.
fn whole_page(number: u64) -> session::Page {
    let mut random = fastrand::Rng::with_seed(number);
    std::array::from_fn(|_| random.u8(..))
}

/// All memory is the guest's and the hog's, down to the min watermark. The store goes on as far as the reserve, but for what
/// the thread that serves it may have to touch.
#[test]
fn pages_are_stored_when_nobody_else_gets_memory() {
    let mut tight = Tight::new(MIN);
    (0..RAM_PAGES).for_each(|page| tight.word(page).store(page + 1, Ordering::Relaxed));
    let hog = tight.hog();
    assert_eq!(tight.free(), MIN);
    let pages = MIN - tight.touched();
    assert_eq!(tight.fill(), pages, "a page for each frame of the reserve");
    let reserve = tight.0.zone_info().reserve;
    assert_eq!((reserve.in_use, reserve.lowest_free), (pages, MIN - pages));
    assert_eq!(tight.write(pages), Err(NbdError::NoSpace));
    // Written again, a page is as long as it was: that takes no memory.
    assert_eq!(tight.write(0), Ok(()));
    (0..pages).for_each(|page| tight.check(page));
    // What is released is the reserve again, and not for others.
    tight.store().erase(OUTSIDE, 0..pages);
    assert_eq!((tight.0.zone_info().reserve.in_use, tight.free()), (0, MIN));
    assert!(tight.0.allocator().alloc(OUTSIDE, &HOG).is_err());
    for frame in hog {
        tight.0.allocator().free(OUTSIDE, frame, Order::FRAME).unwrap();
    }
    (0..RAM_PAGES).for_each(|page| assert_eq!(tight.word(page).load(Ordering::Relaxed), page + 1));
}

/// The control: without a reserve the first page finds no room.
#[test]
fn without_a_reserve_nothing_is_stored_then() {
    let mut tight = Tight::new(0);
    (0..RAM_PAGES).for_each(|page| tight.word(page).store(page + 1, Ordering::Relaxed));
    let _hog = tight.hog();
    assert_eq!(tight.free(), 0);
    assert_eq!(tight.fill(), 0);
}

/// What a store needs at the least: a frame for a page that is written while what it takes the place of is there
/// still. With less it stops.
#[test]
fn the_least_reserve_is_enough_to_go_on() {
    for (min, enough) in [(STORING, true), (STORING - 1, false)] {
        let tight = Tight::new(min);
        (0..RAM_PAGES).for_each(|page| tight.word(page).store(page, Ordering::Relaxed));
        let _hog = tight.hog();
        let mut seat = seat(tight.store(), Codec::Lz4);
        let went_on = (0..2000).all(|n| tight.store().write(&mut seat, 0, &page_of(n)).is_ok());
        assert_eq!(went_on, enough, "with {min}");
    }
}

/// Swap has all memory before the guest touches its own. The guest waits, and goes on as pages are erased.
#[test]
fn a_guest_that_finds_no_memory_waits_and_goes_on_when_there_is_some() {
    for min in [MIN, 0] {
        let mut tight = Tight::new(min);
        let stored = tight.fill();
        let touched = tight.touched();
        assert_eq!((stored + touched, tight.free()), (least_limit(RAM, Choice::Min(min)) >> 12, touched));
        let touched = AtomicU64::new(0);
        thread::scope(|scope| {
            // Two, so that one waits while the fault of the other comes.
            for half in [0..RAM_PAGES / 2, RAM_PAGES / 2..RAM_PAGES] {
                let (tight, touched) = (&tight, &touched);
                scope.spawn(move || {
                    for page in half {
                        tight.word(page).store(page + 1, Ordering::Relaxed);
                        touched.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            until(|| tight.0.zone_info().reserve.waiting > 0 && tight.0.stats().faults.short >= 2);
            assert_eq!(touched.load(Ordering::Relaxed), 0);
            for page in 0..stored {
                let before = touched.load(Ordering::Relaxed);
                tight.store().erase(OUTSIDE, page..page + 1);
                // Of every 16 frames that are free beyond the reserve the guest can have one more page at least.
                if page > min && (page - min).is_multiple_of(64) {
                    until(|| touched.load(Ordering::Relaxed) > before.min(RAM_PAGES - 1));
                }
            }
        });
        let stats = tight.0.stats();
        assert_eq!((touched.into_inner(), stats.faults.failed), (RAM_PAGES, 0));
        assert!(tight.0.zone_info().reserve.throttled > 0);
        (0..RAM_PAGES).for_each(|page| assert_eq!(tight.word(page).load(Ordering::Relaxed), page + 1));
    }
}

/// All memory is the guest's and the host's, down to the min watermark. A device that is larger than what is left
/// goes on through its tier, and without a reserve it does not, though the tier has room.
#[test]
fn with_a_tier_the_reserve_is_enough_for_the_whole_device() {
    for min in [MIN, 0] {
        let (_directory, tiers) = disk();
        let mut tight = Tight::over(min, tiers);
        (0..RAM_PAGES).for_each(|page| tight.word(page).store(page, Ordering::Relaxed));
        tight.occupy();
        assert_eq!(tight.free(), min);
        let written: Vec<_> =
            (0..DEVICE >> 12).map(|page| tight.write(page)).take_while(Result::is_ok).collect();
        let stats = tight.0.swap().unwrap().stats().store;
        let tier = &stats.tiers[0];
        if min == 0 {
            assert_eq!((written.len(), tier.stored_pages, stats.no_room), (0, 0, 1));
            continue;
        }
        assert_eq!((written.len() as u64, stats.no_room), (DEVICE >> 12, 0));
        assert!(tier.stored_pages >= (DEVICE >> 12) - min, "{tier:?}");
        assert!(tight.0.zone_info().reserve.lowest_free <= tight.records() + tight.touched());
        (0..DEVICE >> 12).for_each(|page| tight.check(page));
        (0..RAM_PAGES).for_each(|page| assert_eq!(tight.word(page).load(Ordering::Relaxed), page));
    }
}

/// Swap has all memory before the guest touches its own. Pages leave, though nobody swaps while the guest waits.
#[test]
fn a_guest_that_finds_no_memory_gets_that_of_pages_that_leave() {
    let (_directory, tiers) = disk();
    let mut tight = Tight::over(MIN, tiers);
    (0..DEVICE >> 12).for_each(|page| tight.write(page).unwrap());
    (0..RAM_PAGES).for_each(|page| tight.word(page).store(page + 1, Ordering::Relaxed));
    (0..DEVICE >> 12).for_each(|page| tight.check(page));
    (0..RAM_PAGES).for_each(|page| assert_eq!(tight.word(page).load(Ordering::Relaxed), page + 1));
}

/// The store is full, and one thread fills buffers of the guest's that are not there and then lets go of what is stored, as
/// the one does that serves swap. Nobody else frees anything: it must not wait for memory.
#[test]
fn who_frees_memory_touches_guest_memory_that_comes_out_of_the_reserve() {
    let mut tight = Tight::new(MIN);
    let stored = tight.fill();
    let touched = tight.touched();
    assert_eq!((tight.free(), touched >= 100), (touched, true));
    thread::scope(|scope| {
        let tight = &tight;
        let freer = scope.spawn(move || {
            (0..touched).for_each(|page| tight.announced(page).store(1, Ordering::Relaxed));
            let free = tight.free();
            tight.store().erase(OUTSIDE, 0..stored);
            free
        });
        let start = Instant::now();
        until(|| freer.is_finished() || start.elapsed() > Duration::from_secs(20));
        let was_stuck = !freer.is_finished();
        // So that it ends in any case.
        tight.store().erase(OUTSIDE, 0..stored);
        assert_eq!((freer.join().unwrap(), was_stuck), (0, false), "each takes a frame");
    });
    assert_eq!(tight.0.stats().faults.short, 0, "it waited");
}

/// Who asks first does not wait: a touch takes the last frame that is left for it, and the next one would find none. What is there
/// already, or is no RAM, lacks nothing.
#[test]
fn who_frees_memory_is_told_that_a_touch_would_wait() {
    let mut tight = Tight::new(MIN);
    let stored = tight.fill();
    let lacks =
        |tight: &Tight, page: u64| tight.0.lacks_memory_for(std::iter::once((page << 12, FRAME_SIZE as u64)));
    let all = |tight: &Tight, pages: std::ops::Range<u64>| {
        tight.0.lacks_memory_for(pages.map(|page| ((page << 12) + 9, 1)))
    };
    assert!(!all(&tight, 0..tight.touched()) && all(&tight, 0..tight.touched() + 1), "each takes a frame");
    for page in 0..tight.touched() {
        assert!(!lacks(&tight, page), "page {page}");
        tight.announced(page).store(1, Ordering::Relaxed);
    }
    assert_eq!((tight.free(), tight.0.stats().faults.short), (0, 0));
    assert!(lacks(&tight, RAM_PAGES - 1) && !lacks(&tight, 0) && !lacks(&tight, RAM_PAGES));
    tight.store().erase(OUTSIDE, 0..stored);
    assert!(!lacks(&tight, RAM_PAGES - 1));
}

/// The reserve is for what was announced, whichever thread touches it: KVM has threads of its own fault for it.
#[test]
fn a_touch_that_was_not_announced_leaves_the_reserve_alone() {
    let mut tight = Tight::new(MIN);
    tight.fill();
    let free = tight.free();
    thread::scope(|scope| {
        let tight = &tight;
        // A page in another 64 KiB, so that neither brings the other in.
        tight.0.reclaimer().announce(tight.word(64).as_ptr() as usize, 8);
        let waits = scope.spawn(|| tight.word(5).load(Ordering::Relaxed));
        until(|| tight.0.stats().faults.short > 0);
        assert_eq!(tight.free(), free);
        assert_eq!(tight.word(64).load(Ordering::Relaxed), 0);
        assert_eq!((tight.free(), waits.is_finished()), (free - 1, false));
        tight.0.reclaimer().done();
        let waits_too = scope.spawn(|| tight.word(128).load(Ordering::Relaxed));
        until(|| tight.0.stats().faults.short > 1);
        assert_eq!((tight.free(), waits_too.is_finished()), (free - 1, false));
        tight.0.end_guest();
    });
}

/// Each attempt may cost the host a huge page that is zeroed in vain: one in a second is made while nobody frees anything.
#[test]
fn who_waits_for_memory_in_vain_asks_seldom() {
    for min in [MIN, 0] {
        let mut tight = Tight::new(min);
        tight.fill();
        thread::scope(|scope| {
            let tight = &tight;
            scope.spawn(|| tight.word(5).load(Ordering::Relaxed));
            until(|| tight.0.stats().faults.short > 0);
            let start = Instant::now();
            thread::sleep(Duration::from_millis(2500));
            let asked = tight.0.stats().faults.short;
            tight.0.end_guest();
            assert!(asked <= 2 + start.elapsed().as_secs(), "{asked} times in {:?}", start.elapsed());
        });
    }
}

/// All memory is used, and nobody frees any: who waits for some goes on when the guest ends.
#[test]
fn who_waits_for_memory_goes_on_when_the_guest_ends() {
    let mut tight = Tight::new(MIN);
    tight.fill();
    thread::scope(|scope| {
        let tight = &tight;
        let waits = scope.spawn(|| tight.word(5).load(Ordering::Relaxed));
        until(|| tight.0.stats().faults.short > 0);
        assert!(!waits.is_finished());
        tight.0.end_guest();
        until(|| waits.is_finished());
        assert_eq!(waits.join().unwrap(), 0);
        assert_eq!(tight.word(6).load(Ordering::Relaxed), 0);
    });
}

/// It touches more than the reserve has: what pages need to leave for a tier is not for that.
#[test]
fn who_frees_memory_leaves_the_last_frames_to_pages_that_leave() {
    let (_directory, tiers) = disk();
    let tight = Tight::over(MIN, tiers);
    let hog = tight.hog();
    assert_eq!(tight.free(), MIN);
    let left = thread::scope(|scope| {
        let tight = &tight;
        scope.spawn(move || {
            (0..MIN + 50).for_each(|page| tight.announced(page).store(page, Ordering::Relaxed));
        });
        let start = Instant::now();
        while tight.0.stats().faults.short == 0 && start.elapsed().as_secs() < 30 {
            thread::sleep(Duration::from_millis(1));
        }
        let left = tight.free();
        // So that it goes on.
        for frame in hog {
            tight.0.allocator().free(OUTSIDE, frame, Order::FRAME).unwrap();
        }
        left
    });
    assert_eq!(left, tight.records());
}

/// Pages of a few lengths each, and of any, are stored and leave in any order, so that holes are left all over the reserve:
/// they come to whole frames, of which records take one for 128 pages.
#[test]
fn with_a_tier_the_reserve_is_enough_for_pages_of_all_lengths_in_any_order() {
    for lengths in [130..=130, 600..=600, 130..=2630, 100..=4096] {
        let (_directory, tiers) = disk();
        let mut tight = Tight::over(MIN, tiers);
        tight.1 = seat(tight.store(), Codec::Lz4);
        (0..RAM_PAGES).for_each(|page| tight.word(page).store(page, Ordering::Relaxed));
        tight.occupy();
        let mut random = fastrand::Rng::with_seed(1);
        let mut order: Vec<u64> = (0..DEVICE >> 12).collect();
        random.shuffle(&mut order);
        for (written, page) in order.into_iter().enumerate() {
            let mut data = [0; FRAME_SIZE];
            let len = random.usize(lengths.clone());
            random.fill(&mut data[..len]);
            let result = tight.write_data(page, &data);
            assert_eq!(result, Ok(()), "{written} pages of {lengths:?} were written");
        }
        assert_eq!(tight.0.swap().unwrap().stats().store.no_room, 0);
        let lowest = tight.0.zone_info().reserve.lowest_free;
        assert!(lowest >= tight.touched(), "{lowest} frames were left with pages of {lengths:?}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64),
    Erase(u64, u64),
    Touch(u64),
    GiveUp(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let pages = DEVICE >> 12;
    prop_oneof![
        4 => (0..pages).prop_map(Step::Write),
        2 => (0..pages, 1..2000u64).prop_map(|(page, len)| Step::Erase(page, len)),
        2 => (0..RAM_PAGES).prop_map(Step::Touch),
        1 => (0..RAM_PAGES / 512).prop_map(Step::GiveUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever was refused: what is stored reads as it was written, charges are what is in use, and all frames
    /// are somewhere.
    #[test]
    fn charges_and_frames_add_up(steps in prop::collection::vec(step(), 1..60)) {
        let mut tight = Tight::new(MIN);
        let mut stored = vec![false; (DEVICE >> 12) as usize];
        for step in steps {
            match step {
                // A run, so that memory is short soon.
                Step::Write(first) => {
                    for page in first..(first + 1000).min(DEVICE >> 12) {
                        stored[page as usize] |= tight.write(page).is_ok();
                    }
                }
                Step::Erase(page, len) => {
                    let pages = page..(page + len).min(DEVICE >> 12);
                    tight.store().erase(OUTSIDE, pages.clone());
                    pages.for_each(|page| stored[page as usize] = false);
                }
                // Who touches memory that is not there waits: not this thread.
                Step::Touch(page) if tight.free() > MIN + 2 * FRAMES_PER_BLOCK as u64 => {
                    tight.word(page).store(page, Ordering::Relaxed);
                }
                Step::Touch(_) => {}
                Step::GiveUp(block) => _ = tight.0.report_free(block << 21, 2 << 20),
            }
        }
        tight.settle();
        for page in 0..DEVICE >> 12 {
            if stored[page as usize] {
                tight.check(page);
            }
        }
        let stats = tight.0.stats();
        let pages = stored.iter().filter(|stored| **stored).count() as u64;
        prop_assert_eq!(tight.0.swap().unwrap().stats().store.stored_bytes, pages << 12);
        prop_assert!(stats.arena.frames_by_type.movable_slab >= pages);
        prop_assert_eq!(stats.arena.frames, least_limit(RAM, Choice::Min(MIN)) >> 12);
        let types = &stats.arena.frames_by_type;
        prop_assert_eq!(
            stats.arena.charged_frames, types.guest + types.balloon + types.movable_slab,
            "{:?}", stats.arena
        );
        // The stash's thread may just be at it.
        until(|| tight.0.allocator().check().is_ok());
    }
}
