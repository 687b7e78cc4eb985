//! Guest threads check every byte while their pages are on the move, and every step fails once.

mod refused;

use std::collections::HashMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::core::compact::{Compactor, Goal, Occupancy, Policy, PolicyKind, Scanner, Tuning};
use crate::core::units::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK};
use crate::core::watermark::{Choice, Watermarks};
use crate::space::guest::OUTSIDE;
use crate::stats::MemoryStats;
use crate::swap::{Codec, SwapConfig};
use crate::{Config, Gfn, MemoryService, RegionSpec};

const FRAMES: usize = FRAMES_PER_BLOCK;

/// A guest of whose pages each has its number in every word.
struct Guest {
    service: Arc<MemoryService>,
    pages: usize,
}

impl Guest {
    fn new(blocks: usize) -> Self {
        Self::with(blocks, None)
    }

    fn with(blocks: usize, watermarks: Option<Watermarks>) -> Self {
        let watermarks = watermarks.map_or(Choice::Formula, Choice::Exactly);
        Self::configured(blocks, |config| Config { watermarks, ..config })
    }

    fn with_swap(blocks: usize) -> Self {
        let (name, codec) = ("swap".to_owned(), Codec::None);
        let swap = SwapConfig { name, bytes: 1 << 20, memory: 1 << 20, codec, tiers: Vec::new() };
        Self::configured(blocks, |config| Config { swap: Some(swap), ..config })
    }

    fn configured(blocks: usize, how: impl FnOnce(Config) -> Config) -> Self {
        let config = how(still(blocks));
        Self::that_may_fail(blocks, &config, |why| panic!("{why}"))
    }

    fn that_may_fail(
        blocks: usize,
        config: &Config,
        failed: impl Fn(String) + Send + Sync + 'static,
    ) -> Self {
        let service = MemoryService::new(config, failed).unwrap();
        Self { service, pages: blocks * FRAMES }
    }

    fn word(&self, page: usize, word: usize) -> &AtomicU64 {
        let address = self.service.regions()[0].host + page * FRAME_SIZE + word * 8;
        // SAFETY: inside guest RAM, which lives as long as the service.
        unsafe { AtomicU64::from_ptr(address as *mut u64) }
    }

    fn fill(&self, page: usize) {
        (0..FRAME_SIZE / 8)
            .for_each(|word| self.word(page, word).store(value(page, word), Ordering::Relaxed));
    }

    #[track_caller]
    fn check(&self, page: usize) {
        for word in 0..FRAME_SIZE / 8 {
            assert_eq!(self.word(page, word).load(Ordering::Relaxed), value(page, word), "page {page}");
        }
    }

    fn give_up(&self, is_given: impl Fn(usize) -> bool) -> Vec<Gfn> {
        let given: Vec<_> =
            (0..self.pages).filter(|&page| is_given(page)).map(|page| Gfn(page as u64)).collect();
        assert_eq!(self.service.inflate(&given).accepted as usize, given.len());
        given
    }

    fn compact(&self, policy: impl Policy + 'static) -> crate::core::compact::Run {
        self.service.space().compact(&mut Compactor::new(Box::new(policy)), &Goal::ALL, || true)
    }

    /// Statistics that agree with each other and with what is resident.
    fn consistent(&self) -> MemoryStats {
        // The stash comes and goes by itself, and its thread may be at it at any moment.
        let is_checked = || self.service.space().allocator().check() == Ok(());
        until(|| {
            self.service.space().give_stash_back();
            self.service.stats().arena.frames_by_type.stash == 0 && is_checked()
        });
        let host = self.service.walk().unwrap();
        let stats = self.service.stats();
        assert_eq!(stats.host.guest_resident_bytes, host.guest_resident_bytes);
        // khugepaged makes huge pages of split blocks that are full.
        assert!(stats.host.guest_huge_bytes <= host.guest_huge_bytes);
        let stats = MemoryStats { host, ..stats };
        let by_type = &stats.arena.frames_by_type;
        assert_eq!(by_type.guest + by_type.balloon, stats.arena.charged_frames, "{by_type:?}");
        assert_eq!((by_type.r#return, by_type.kmem), (0, 0));
        assert_eq!(stats.moves.poison_lost, 0);
        until(is_checked);
        assert!(is_checked(), "{:?}", self.service.space().allocator().check());
        stats
    }
}

/// Waits until it is so, for ten seconds at the most.
fn until(is_so: impl Fn() -> bool) {
    for _ in 0..5000 {
        if is_so() {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Guest RAM of so many blocks, of which nothing is compacted by itself.
fn still(blocks: usize) -> Config {
    let regions = vec![RegionSpec { gpa: 0, len: (blocks * BLOCK_SIZE) as u64 }];
    let compaction = Tuning { policy: PolicyKind::Off, ..Tuning::default() };
    Config { compaction, ..Config::new(regions) }
}

fn value(page: usize, word: usize) -> u64 {
    ((page as u64) << 32 | word as u64) ^ 0x5555_0000_0000_0000
}

/// A block of slabs is one huge page, of which most has never been written. It is split when a page of the guest goes
/// through it, and the kernel gives zero-filled pages away then: none of ours may be one.
#[test]
fn a_huge_page_of_slabs_keeps_its_memory_when_it_is_split() {
    let guest = Guest::with_swap(2);
    (0..guest.pages).for_each(|page| guest.fill(page));
    let space = guest.service.space();
    let objects = space.objects().unwrap();
    // Whole frames of slabs have nothing in them any more, but are the slabs' still.
    let handles: Vec<_> = (0..900).map(|_| objects.put(OUTSIDE, &[7; 1300], 0).unwrap()).collect();
    for (_, handle) in (0..).zip(handles).filter(|(n, _)| n / 11 % 2 == 1) {
        objects.remove(OUTSIDE, handle).unwrap();
    }
    let arena = || space.arena.resident(&space.pagemap).unwrap();
    // The stash comes and goes for a while after the last fault.
    thread::sleep(Duration::from_secs(1));
    let is_one_block = || (arena().bytes, arena().huge) == (BLOCK_SIZE as u64, BLOCK_SIZE as u64);
    assert!((0..500).any(|_| is_one_block() || {
        thread::sleep(Duration::from_millis(20));
        false
    }));
    guest.give_up(|page| page < FRAMES && page % 4 != 0);
    let run = guest.compact(Occupancy::default());
    assert_eq!((run.emptied, run.migrated), (1, 128));
    // The rest of that block is at home, and its memory is ours.
    assert_eq!((arena().bytes, arena().huge), (384 * FRAME_SIZE as u64, 0));
    // All of it is still what was one huge page, but for what the kernel may have moved for its own ends.
    let home = space.home_of(0);
    let there = guest.service.regions()[0].host;
    let in_guest = (0..FRAMES).filter(|page| page % 4 == 0).map(|page| there + page * FRAME_SIZE);
    let at_home = (0..FRAMES).map(|frame| home + frame * FRAME_SIZE);
    let mut pages: HashMap<u64, usize> = HashMap::new();
    let physical = in_guest.chain(at_home).flat_map(|address| space.pagemap.physical(address, 1));
    physical.for_each(|page| *pages.entry(page / FRAMES as u64).or_default() += 1);
    assert_eq!(pages.values().sum::<usize>(), FRAMES);
    assert!(pages.values().any(|pages| *pages > FRAMES - 10), "{pages:?}");
    (0..guest.pages).filter(|page| *page >= FRAMES || page % 4 == 0).for_each(|page| guest.check(page));
}

#[test]
fn half_of_the_pages_given_up_comes_back_as_whole_blocks_and_no_byte_changes() {
    let guest = Guest::new(8);
    (0..guest.pages).for_each(|page| guest.fill(page));
    let given = guest.give_up(|page| page % 2 == 1);
    assert_eq!(guest.consistent().host.guest_resident_bytes, 8 * BLOCK_SIZE as u64);

    let run = guest.compact(Occupancy::default());
    assert_eq!((run.emptied, run.migrated, run.failed, run.split), (4, 4 * 256, 0, 4));
    let stats = guest.consistent();
    assert_eq!(stats.host.guest_resident_bytes, 4 * BLOCK_SIZE as u64);
    assert_eq!(stats.host.arena_resident_bytes, 0);
    assert_eq!((stats.mover.counts.harvested_blocks, stats.mover.counts.migrated_frames), (4, 1024));
    (0..guest.pages).filter(|page| page % 2 == 0).for_each(|page| guest.check(page));

    // The guest takes all of it back, and has whole blocks again.
    assert_eq!(guest.service.deflate(&given).refused, 0);
    (0..guest.pages).filter(|page| page % 2 == 1).for_each(|page| guest.fill(page));
    assert_eq!(guest.service.stats().guest.split_blocks, 8);
    assert_eq!(guest.service.space().promote_filled(|| true), 8);
    let stats = guest.consistent();
    assert_eq!((stats.guest.huge_blocks, stats.guest.split_blocks), (8, 0));
    assert_eq!(stats.host.guest_huge_bytes, 8 * BLOCK_SIZE as u64);
    assert_eq!((stats.host.arena_resident_bytes, stats.arena.broken_blocks), (0, 0));
    (0..guest.pages).for_each(|page| guest.check(page));
}

#[test]
fn nothing_moves_any_more_when_the_guest_has_been_let_go() {
    let guest = Guest::new(8);
    (0..guest.pages).for_each(|page| guest.fill(page));
    let given = guest.give_up(|page| page % 2 == 1);
    guest.service.space().let_go();
    assert_eq!(guest.compact(Occupancy::default()).migrated, 0);
    assert_eq!(guest.service.deflate(&given).refused, 0);
    assert_eq!(guest.service.space().promote_filled(|| true), 0);
    (0..guest.pages).filter(|page| page % 2 == 0).for_each(|page| guest.check(page));
}

#[test]
fn the_two_scanners_do_it_too() {
    let guest = Guest::new(8);
    (0..guest.pages).for_each(|page| guest.fill(page));
    guest.give_up(|page| page % 4 != 0);
    let run = guest.compact(Scanner::default());
    assert_eq!((run.emptied, run.failed), (6, 0));
    guest.consistent();
    (0..guest.pages).step_by(4).for_each(|page| guest.check(page));
}

/// What is emptied is single frames, behind many guest blocks.
#[test]
fn blocks_in_pieces_are_emptied_too() {
    let guest = Guest::new(6);
    (0..guest.pages).for_each(|page| guest.fill(page));
    let every = |count: usize| move |page: usize| page % 4 == count;
    guest.give_up(every(1));
    assert_eq!(guest.compact(Occupancy::default()).emptied, 1);
    guest.give_up(every(3));
    guest.give_up(every(2));
    let run = guest.compact(Occupancy::default());
    assert!(run.emptied >= 3, "{run:?}");
    let stats = guest.consistent();
    assert_eq!(stats.host.guest_resident_bytes, (guest.pages / 4 * FRAME_SIZE) as u64);
    assert!(stats.arena.broken_blocks <= 2, "{stats:?}");
    (0..guest.pages).step_by(4).for_each(|page| guest.check(page));
}

#[test]
fn a_piece_of_a_huge_page_that_is_reported_is_gone_and_the_rest_is_not() {
    let guest = Guest::new(2);
    (0..guest.pages).for_each(|page| guest.fill(page));
    let report = |first: usize, pages: usize| {
        guest.service.report_free((first * FRAME_SIZE) as u64, (pages * FRAME_SIZE) as u64).accepted
    };
    assert_eq!(report(32, 32), 32);
    let stats = guest.consistent();
    assert_eq!(stats.host.guest_resident_bytes, ((guest.pages - 32) * FRAME_SIZE) as u64);
    assert_eq!((stats.guest.split_blocks, stats.guest.huge_blocks), (1, 1));
    (0..guest.pages).filter(|page| !(32..64).contains(page)).for_each(|page| guest.check(page));
    assert_eq!(guest.word(40, 0).load(Ordering::Relaxed), 0);

    // All of it gone, and touched again: whole again.
    assert_eq!(report(0, 500), 500);
    assert_eq!(report(500, 12), 12);
    guest.fill(7);
    let stats = guest.consistent();
    assert_eq!((stats.guest.split_blocks, stats.guest.huge_blocks), (0, 2));
    assert_eq!(stats.host.guest_huge_bytes, 2 * BLOCK_SIZE as u64);
    guest.check(7);
}

/// xorshift64*: different every time, the same for a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// Ends the other threads of a test, also when the one that holds it fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Pages that are never given up.
fn is_kept(page: usize) -> bool {
    page.is_multiple_of(3)
}

/// Two CPUs count in pages of their own, and check all of each page, while its neighbours come and go and
/// two movers harvest and promote as fast as they can. Returns how many frames were moved.
fn churn(seed: u64, blocks: usize, rounds: usize) -> MemoryStats {
    let guest = Guest::new(blocks);
    (0..guest.pages).filter(|&page| is_kept(page)).for_each(|page| guest.fill(page));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for cpu in 0..2 {
            let (guest, stop) = (&guest, &stop);
            scope.spawn(move || count_up(guest, stop, cpu, Dice(seed + cpu as u64 + 1)));
        }
        for mover in 0..2 {
            let (guest, stop) = (&guest, &stop);
            scope.spawn(move || {
                let mut compactor = match mover {
                    0 => Compactor::new(Box::new(Occupancy::default())),
                    _ => Compactor::new(Box::new(Scanner::default())),
                };
                let goes_on = || !stop.load(Ordering::Relaxed);
                while goes_on() {
                    guest.service.space().compact(&mut compactor, &Goal::ALL, goes_on);
                    guest.service.space().promote_filled(goes_on);
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        let mut dice = Dice(seed);
        for _ in 0..rounds {
            come_and_go(&guest, &mut dice);
        }
    });
    guest.service.reset_balloon();
    guest.consistent()
}

/// Word 1 of a page counts, the others stay; the count is never off by one.
fn count_up(guest: &Guest, stop: &AtomicBool, cpu: usize, mut dice: Dice) {
    let mine: Vec<usize> = (0..guest.pages).filter(|&page| is_kept(page) && page / 3 % 2 == cpu).collect();
    let mut counts = vec![0u64; guest.pages];
    while !stop.load(Ordering::Relaxed) {
        let page = mine[dice.below(mine.len())];
        let was = guest.word(page, 1).fetch_add(1, Ordering::Relaxed);
        assert_eq!(was, value(page, 1) + counts[page], "page {page} lost a write");
        counts[page] += 1;
        let word = 2 + dice.below(FRAME_SIZE / 8 - 2);
        assert_eq!(guest.word(page, word).load(Ordering::Relaxed), value(page, word), "page {page}");
    }
    for page in mine {
        assert_eq!(guest.word(page, 1).load(Ordering::Relaxed), value(page, 1) + counts[page]);
        guest.word(page, 1).store(value(page, 1), Ordering::Relaxed);
        guest.check(page);
    }
}

fn come_and_go(guest: &Guest, dice: &mut Dice) {
    let start = dice.below(guest.pages);
    let end = (start + 1 + dice.below(2 * FRAMES)).min(guest.pages);
    let pages = (start..end).filter(|&page| !is_kept(page));
    let gfns: Vec<_> = pages.clone().map(|page| Gfn(page as u64)).collect();
    match dice.below(10) {
        0..4 => _ = guest.service.inflate(&gfns),
        4..6 => _ = guest.service.deflate(&gfns),
        6 => gfns.iter().take(8).for_each(|gfn| {
            guest.service.report_free(gfn.0 * FRAME_SIZE as u64, FRAME_SIZE as u64);
        }),
        // The guest uses them, with or without a word: its own page, or a zeroed one.
        _ => pages.for_each(|page| {
            let got = guest.word(page, 1).swap(value(page, 1), Ordering::Relaxed);
            assert!(got == 0 || got == value(page, 1), "page {page} is another's: {got:#x}");
        }),
    }
}

#[test]
fn counters_stay_exact_while_two_movers_harvest_and_promote() {
    // `ci/soak` wants more.
    let rounds = std::env::var("MEMSVC_CHURN_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(500);
    let stats = churn(fastrand::u64(1..), 12, rounds);
    let moved = stats.mover.counts;
    assert!(moved.harvested_blocks > 10 && moved.promoted_blocks > 0, "{moved:?}");
    assert!(moved.migrated_frames > 1000, "{moved:?}");
    assert_eq!((moved.failed, moved.given_up), (0, 0), "{moved:?}");
}

/// A harvest and a promotion of a guest of two blocks; all of it readable at every point.
fn harvest_and_promote(guest: &Guest) {
    let odd = || (0..guest.pages).filter(|page| page % 2 == 1);
    let even = || (0..guest.pages).step_by(2);
    let given = guest.give_up(|page| page % 2 == 1);
    guest.compact(Occupancy::default());
    even().for_each(|page| guest.check(page));
    assert_eq!(guest.service.deflate(&given).refused, 0);
    odd().for_each(|page| guest.fill(page));
    guest.service.space().promote_filled(|| true);
    (0..guest.pages).for_each(|page| guest.check(page));
}

#[test]
fn whatever_call_fails_every_page_is_readable_and_the_next_attempt_succeeds() {
    let guest = Guest::new(2);
    (0..guest.pages).for_each(|page| guest.fill(page));
    let faults = || &guest.service.space().uffd().faults;
    faults().plan(0, 0, Errno::BUSY);
    harvest_and_promote(&guest);
    let calls = faults().clear();
    assert!(calls > 2 * 256, "{calls} calls");
    assert_eq!(guest.consistent().guest.huge_blocks, 2);

    let mut dice = Dice(3);
    let errors = [Errno::AGAIN, Errno::EXIST, Errno::NOENT, Errno::BUSY, Errno::NOMEM];
    for attempt in 0..60 {
        // The first calls and the last, the others at random; one fails, or one batch, or all.
        let spared = match attempt % 3 {
            0 => attempt as u32 / 3,
            1 => calls - 1 - attempt as u32 / 3,
            _ => dice.below(calls as usize) as u32,
        };
        let count = [1, 64, u32::MAX][dice.below(3)];
        faults().plan(spared, count, errors[dice.below(errors.len())]);
        let given = guest.give_up(|page| page % 2 == 1);
        guest.compact(Occupancy::default());
        faults().clear();
        (0..guest.pages).step_by(2).for_each(|page| guest.check(page));
        guest.consistent();
        guest.compact(Occupancy::default());
        assert_eq!(guest.service.deflate(&given).refused, 0);
        (1..guest.pages).step_by(2).for_each(|page| guest.fill(page));
        // The promotion's calls are fewer.
        faults().plan(spared % 32, count, errors[dice.below(errors.len())]);
        guest.service.space().promote_filled(|| true);
        faults().clear();
        (0..guest.pages).for_each(|page| guest.check(page));
        guest.consistent();
        guest.service.space().promote_filled(|| true);
        assert_eq!(guest.consistent().guest.split_blocks, 0, "attempt {attempt}");
    }
    let stats = guest.consistent();
    assert!(stats.mover.counts.given_up > 5 && stats.mover.counts.pinned > 0, "{:?}", stats.mover);
    assert!(stats.mover.counts.failed > 0, "{:?}", stats.mover);
}

/// A ring for which the kernel has pinned a page, as it does for a device that reads or writes it.
struct Pin(#[allow(dead_code)] OwnedFd);

impl Pin {
    fn new(guest: &Guest, page: usize) -> Self {
        Self::at(guest.word(page, 0).as_ptr() as usize)
    }

    /// Of a page of guest RAM or arena.
    fn at(address: usize) -> Self {
        /// `struct io_uring_params`.
        const PARAMS: usize = 120;
        const REGISTER_BUFFERS: libc::c_uint = 0;
        let mut params = [0u64; PARAMS / 8];
        let part = libc::iovec { iov_base: address as *mut _, iov_len: FRAME_SIZE };
        // SAFETY: a ring of one entry that is never used, and one buffer: a page of guest RAM.
        unsafe {
            let ring = libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr());
            assert!(ring >= 0, "io_uring is needed: {}", std::io::Error::last_os_error());
            let ring = OwnedFd::from_raw_fd(ring as i32);
            let fd = ring.as_raw_fd();
            let done = libc::syscall(libc::SYS_io_uring_register, fd, REGISTER_BUFFERS, &raw const part, 1);
            assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
            Self(ring)
        }
    }
}

/// What a device holds stays where it is, all else goes on, and once it is let go it moves as well.
#[test]
fn a_pinned_page_is_skipped_and_counted_and_moves_when_it_is_let_go() {
    let guest = Guest::new(4);
    (0..guest.pages).for_each(|page| guest.fill(page));
    guest.give_up(|page| page % 2 == 1);
    // In each block, so that whichever is emptied has one.
    let pins: Vec<Pin> = (0..4).map(|block| Pin::new(&guest, block * FRAMES + 100)).collect();
    let run = guest.compact(Occupancy::default());
    let stats = guest.consistent();
    assert_eq!((run.emptied, stats.mover.counts.harvested_blocks), (0, 0), "{run:?}");
    assert!(stats.mover.counts.pinned > 0, "{:?}", stats.mover);
    (0..guest.pages).step_by(2).for_each(|page| guest.check(page));
    drop(pins);
    // The ring is taken apart by another thread of the kernel.
    let start = Instant::now();
    let mut emptied = 0;
    while emptied < 2 && start.elapsed() < Duration::from_secs(60) {
        emptied += guest.compact(Occupancy::default()).emptied;
    }
    assert_eq!(emptied, 2);
    (0..guest.pages).step_by(2).for_each(|page| guest.check(page));
}

/// Frames come home to the physical page that they were: a block whose frames are all home is 2 MiB in one
/// piece of the host's memory again, though its huge page was split long ago.
#[test]
fn a_block_that_has_come_home_is_one_piece_of_physical_memory() {
    let guest = Guest::new(2);
    (0..guest.pages).for_each(|page| guest.fill(page));
    let base = guest.service.regions()[0].host;
    let pagemap = &guest.service.space().pagemap;
    let before = pagemap.physical(base, FRAMES);
    // Split in place, and then page by page, the last ones stay: nothing is given back yet.
    let report = |first: usize, pages: usize| {
        guest.service.report_free((first * FRAME_SIZE) as u64, (pages * FRAME_SIZE) as u64);
    };
    for page in [300, 7, 500, 8] {
        report(page, 1);
    }
    (0..8).map(|turn| (turn * 61 % 8) * 63).for_each(|page| report(page, 63));
    assert_eq!(guest.service.stats().guest.split_blocks, 1);
    let home = pagemap.physical(guest.service.space().home_of(504), 504);
    if before.is_empty() {
        assert!(home.is_empty(), "the numbers are not shown");
        return;
    }
    assert_eq!(home.len(), 504);
    assert!(home.windows(2).all(|pair| pair[1] == pair[0] + 1), "{home:?}");
    assert_eq!(home, before[..504]);
}

/// The kernel would take them away and show the shared zero page.
#[test]
fn pages_of_zeroes_keep_their_memory_when_their_huge_page_is_split() {
    let guest = Guest::new(1);
    guest.fill(7);
    let (base, pagemap) = (guest.service.regions()[0].host, &guest.service.space().pagemap);
    let before = pagemap.physical(base, FRAMES);
    guest.service.report_free((9 * FRAME_SIZE) as u64, FRAME_SIZE as u64);
    assert_eq!(guest.service.stats().guest.split_blocks, 1);
    let after = pagemap.physical(base, FRAMES);
    if before.is_empty() {
        assert!(after.is_empty(), "the numbers are not shown");
        return;
    }
    assert_eq!(after, [&before[..9], &before[10..]].concat());
    guest.check(7);
    // SAFETY: the mapping lives as long as the service.
    let words =
        (0..FRAMES).map(|page| unsafe { std::ptr::read_volatile((base + page * FRAME_SIZE) as *const u64) });
    assert_eq!(words.filter(|word| *word != 0).count(), 1);
}

/// Splits every block of the guest, and fills it again.
fn split_all(guest: &Guest) {
    for first in (0..guest.pages).step_by(FRAMES) {
        guest.service.report_free((first * FRAME_SIZE) as u64, FRAME_SIZE as u64);
        guest.fill(first);
    }
    assert_eq!(guest.service.stats().guest.split_blocks as usize * FRAMES, guest.pages);
}

#[test]
fn nothing_is_promoted_with_memory_that_is_low() {
    let guest = Guest::with(4, Some(Watermarks { min: 32, low: 2048, high: 4096 }));
    (0..guest.pages).for_each(|page| guest.fill(page));
    split_all(&guest);
    let alloc = guest.service.allocator();
    let is_low_after_one = || !alloc.has_block_to_spare();
    let mut taken = Vec::new();
    while !is_low_after_one() {
        taken.push(guest.service.get_block().unwrap());
    }
    let above_min = guest.service.get_block();
    taken.push(above_min.expect("a block, above the min watermark"));
    assert_eq!(guest.service.space().promote_filled(|| true), 0);
    taken.into_iter().for_each(|block| guest.service.put_block(block).unwrap());
    assert_eq!(guest.service.space().promote_filled(|| true), 4);
    (0..guest.pages).for_each(|page| guest.check(page));
}
