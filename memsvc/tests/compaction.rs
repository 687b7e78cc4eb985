//! Compaction by itself and by request, as an operator sees it: real memory, no guest.
#![allow(unsafe_code)] // plays the guest: raw reads and writes in guest space

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memsvc::core::compact::{PolicyKind, Tuning};
use memsvc::core::units::{BLOCK_SIZE, BlockId, FRAME_SIZE, FRAMES_PER_BLOCK};
use memsvc::stats::{CompactionInfo, Trigger};
use memsvc::{Config, Gfn, MemoryService, RegionSpec};

const BLOCK: u64 = BLOCK_SIZE as u64;
const PATIENCE: Duration = Duration::from_secs(20);

struct Guest {
    service: Arc<MemoryService>,
    pages: usize,
}

impl Guest {
    /// All of its memory used.
    fn new(blocks: usize, tuning: Tuning) -> Self {
        let regions = vec![RegionSpec { gpa: 0, len: blocks as u64 * BLOCK }];
        let config = Config { compaction: tuning, ..Config::new(regions) };
        let service = MemoryService::new(&config, |why| panic!("{why}")).expect("a service on this host");
        let guest = Self { service, pages: blocks * FRAMES_PER_BLOCK };
        guest.write(|_| true);
        guest
    }

    fn word(&self, page: usize) -> &AtomicU64 {
        let address = self.service.regions()[0].host + page * FRAME_SIZE;
        // SAFETY: inside guest RAM, which lives as long as the service.
        unsafe { AtomicU64::from_ptr(address as *mut u64) }
    }

    fn write(&self, wanted: impl Fn(usize) -> bool) {
        (0..self.pages).filter(|&page| wanted(page)).for_each(|page| {
            self.word(page).store(page as u64 + 1, Ordering::Relaxed);
        });
    }

    #[track_caller]
    fn check(&self, wanted: impl Fn(usize) -> bool) {
        (0..self.pages).filter(|&page| wanted(page)).for_each(|page| {
            assert_eq!(self.word(page).load(Ordering::Relaxed), page as u64 + 1, "page {page}");
        });
    }

    fn gfns(&self, wanted: impl Fn(usize) -> bool) -> Vec<Gfn> {
        (0..self.pages).filter(|&page| wanted(page)).map(|page| Gfn(page as u64)).collect()
    }

    fn resident(&self) -> u64 {
        let host = self.service.walk().expect("the kernel says what is resident");
        host.guest_resident_bytes + host.arena_resident_bytes
    }

    #[track_caller]
    fn wait_for(&self, what: &str, is_so: impl Fn(&CompactionInfo) -> bool) -> CompactionInfo {
        let start = Instant::now();
        loop {
            let info = self.service.compaction_info();
            if is_so(&info) {
                return info;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: {info:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn off() -> Tuning {
    Tuning { policy: PolicyKind::Off, ..Tuning::default() }
}

fn odd(page: usize) -> bool {
    page % 2 == 1
}

fn even(page: usize) -> bool {
    !odd(page)
}

fn blocks_for(info: &CompactionInfo, trigger: Trigger) -> u64 {
    info.triggers.iter().filter(|it| it.trigger == trigger).map(|it| it.blocks).sum()
}

#[test]
fn what_the_balloon_takes_in_pieces_comes_back_whole_by_itself_and_the_guest_stays_huge() {
    let guest = Guest::new(16, Tuning::default());
    let given = guest.gfns(odd);
    guest.service.inflate(&given);
    guest.wait_for("half of the blocks won", |info| blocks_for(info, Trigger::Balloon) == 8);
    guest.check(even);
    assert_eq!(guest.service.stats().host.guest_resident_bytes, 8 * BLOCK);

    guest.service.deflate(&given);
    guest.write(odd);
    guest.wait_for("all blocks promoted", |info| info.promoted_blocks == 16);
    guest.check(|_| true);
    let stats = guest.service.stats();
    assert_eq!((stats.guest.huge_blocks, stats.host.guest_huge_bytes), (16, 16 * BLOCK));
}

#[test]
fn what_the_background_left_to_make_way_is_done_afterwards() {
    let guest = Guest::new(128, Tuning::default());
    let given = guest.gfns(odd);
    guest.service.inflate(&given);
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(110));
        guest.service.compact(|| false);
    }
    guest.wait_for("half of the blocks won", |info| blocks_for(info, Trigger::Balloon) == 64);

    guest.service.deflate(&given);
    guest.write(odd);
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(110));
        guest.service.compact(|| false);
    }
    guest.wait_for("all blocks promoted", |info| info.promoted_blocks == 128);
    guest.check(|_| true);
}

#[test]
fn a_compactor_with_nothing_to_do_does_not_wake_up() {
    let guest = Guest::new(8, Tuning::default());
    guest.service.inflate(&guest.gfns(odd));
    guest.wait_for("blocks won", |info| info.wakeups > 0 && !info.running);
    thread::sleep(Duration::from_millis(500));
    let before = guest.service.compaction_info();
    // The guest uses what it has; nothing comes or goes.
    guest.check(even);
    thread::sleep(Duration::from_secs(1));
    let after = guest.service.compaction_info();
    assert_eq!((after.wakeups, after.background_cpu_us), (before.wakeups, before.background_cpu_us));
}

#[test]
fn proactive_compaction_keeps_to_its_share_of_one_cpu() {
    let guest = Guest::new(128, off());
    for page in (0..guest.pages).filter(|&page| odd(page)) {
        guest.service.report_free((page * FRAME_SIZE) as u64, FRAME_SIZE as u64);
    }
    let (start, before) = (Instant::now(), guest.service.compaction_info());
    let eager = Tuning { proactiveness: 100, ..Tuning::default() };
    guest.service.tune_compaction(eager).expect("tuned");
    let done = |info: &CompactionInfo| {
        blocks_for(info, Trigger::Proactive) >= 50 && info.background_cpu_us > before.background_cpu_us
    };
    let after = guest.wait_for("proactive compaction", done);
    // A fifth; a busy machine can only make it less. The rest is for what it does before and after.
    let cpu = Duration::from_micros(after.background_cpu_us - before.background_cpu_us);
    assert!(cpu < start.elapsed() / 4, "{cpu:?} of {:?}", start.elapsed());
    guest.check(even);
}

#[test]
fn memory_that_is_asked_for_comes_back_and_no_more_than_that() {
    let guest = Guest::new(16, off());
    guest.service.inflate(&guest.gfns(odd));
    guest.wait_for("an idle stash", |_| guest.service.stats().arena.frames_by_type.stash == 0);
    let before = guest.resident();
    let got = guest.service.reclaim(5 * (1 << 20), || true);
    assert_eq!((got.asked_bytes, got.got_bytes), (5 << 20, got.stash_bytes + got.compacted_bytes));
    assert_eq!((got.stash_bytes, got.compacted_bytes), (0, 6 << 20));
    assert_eq!(before - guest.resident(), got.got_bytes);

    // All there is, and not a frame more.
    let got = guest.service.reclaim(1 << 40, || true);
    assert_eq!(guest.resident(), 8 * BLOCK, "{got:?}");
    assert_eq!(guest.service.reclaim(1 << 40, || true).got_bytes, 0);
    guest.check(even);
}

#[test]
fn reported_pieces_of_any_size_become_whole_blocks_when_asked() {
    let guest = Guest::new(16, off());
    for first in (0..guest.pages).step_by(64) {
        let at = (first * FRAME_SIZE) as u64;
        assert_eq!(guest.service.report_free(at, (32 * FRAME_SIZE) as u64).accepted, 32);
    }
    let reported = |page: usize| page % 64 < 32;
    guest
        .service
        .tune_compaction(Tuning { policy: PolicyKind::Scanner, ..Tuning::default() })
        .expect("tuned");
    let done = guest.service.compact(|| true);
    assert!(done.complete && done.failed_frames == 0, "{done:?}");
    guest.wait_for("half of the blocks won", |_| guest.resident() == 8 * BLOCK);
    guest.check(|page| !reported(page));
    // Touched again they are zeroed, and blocks that are full again are made whole.
    guest.service.tune_compaction(Tuning::default()).expect("tuned");
    guest.write(reported);
    guest.wait_for("promoted", |info| info.promoted_blocks >= 16);
    guest.check(|_| true);
}

#[test]
fn a_compaction_that_is_told_to_stop_ends_after_the_block_it_is_at() {
    let guest = Guest::new(16, off());
    guest.service.inflate(&guest.gfns(odd));
    let mut left = 3;
    let done = guest.service.compact(|| {
        left -= 1;
        left > 0
    });
    assert!(done.blocks <= 2 && !done.complete, "{done:?}");
    guest.check(even);
}

#[test]
fn a_service_that_ends_while_it_compacts_ends_at_once() {
    for _ in 0..10 {
        let guest = Guest::new(32, Tuning::default());
        guest.service.inflate(&guest.gfns(|page| page % 4 != 0));
        thread::sleep(Duration::from_millis(101));
        drop(guest);
    }
}

/// Takes whole blocks until there are no more.
fn take_all(guest: &Guest) -> Vec<BlockId> {
    // Of an attempt that is worth nothing some that follow are deferred.
    std::iter::from_fn(|| guest.service.get_block().ok()).collect()
}

#[test]
fn a_request_for_a_whole_block_is_compacted_for_and_gets_what_is_made() {
    let guest = Guest::new(16, off());
    guest.service.inflate(&guest.gfns(odd));
    let mut free = take_all(&guest);
    assert_eq!(guest.service.compaction_info().triggers, []);
    // No policy but off, and nothing that the background would do by itself.
    guest.service.deflate(&guest.gfns(odd));
    for page in (0..guest.pages).filter(|&page| odd(page)) {
        guest.service.report_free((page * FRAME_SIZE) as u64, FRAME_SIZE as u64);
    }
    free.extend(take_all(&guest));
    guest.service.tune_compaction(Tuning { proactiveness: 0, ..Tuning::default() }).expect("tuned");
    let made = take_all(&guest);
    // The free frames that are left, down to the min watermark, take some of what is moved.
    let info = guest.service.compaction_info();
    assert_eq!(blocks_for(&info, Trigger::Direct), made.len() as u64);
    assert!((7..=8).contains(&made.len()), "{} and {info:?}", made.len());
    guest.check(even);
    for block in free.into_iter().chain(made) {
        guest.service.put_block(block).expect("put");
    }
    assert!(guest.service.put_block(BlockId(0)).is_err() || guest.service.put_block(BlockId(0)).is_err());
    assert_eq!(guest.service.allocator().check(), Ok(()));
}

/// A guest all of whose blocks are split has more to promote than there are whole blocks.
fn all_split() -> Guest {
    let guest = Guest::new(96, off());
    // From each block frames of many others, so that no block is emptied by one promotion.
    for turn in 0..8 {
        for page in (turn..guest.pages).step_by(8) {
            guest.service.report_free((page * FRAME_SIZE) as u64, FRAME_SIZE as u64);
        }
        guest.write(|page| page % 8 == turn);
    }
    assert_eq!(guest.service.stats().guest.split_blocks, 96);
    guest
}

#[test]
fn blocks_to_promote_with_are_made_if_there_are_none() {
    let guest = all_split();
    let done = guest.service.compact(|| true);
    assert_eq!((done.promoted_blocks, guest.service.stats().guest.huge_blocks), (96, 96), "{done:?}");
    guest.check(|_| true);
    assert_eq!(guest.service.allocator().check(), Ok(()));
}

#[test]
fn the_background_makes_them_too() {
    let guest = all_split();
    guest.service.tune_compaction(Tuning { proactiveness: 0, ..Tuning::default() }).expect("tuned");
    guest.wait_for("all blocks promoted", |info| info.promoted_blocks == 96);
    guest.check(|_| true);
}
