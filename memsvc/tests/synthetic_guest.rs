//! Synthetic guests: threads that read, write and check guest space while pages go and come.
//!
//! Real userfaultfd, real huge pages, no KVM. A page holds one value in its first and last word;
//! a model says what each page may read as.
#![allow(unsafe_code)] // plays the guest: raw reads and writes in guest space

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use memsvc::core::compact::{PolicyKind, Tuning};
use memsvc::core::units::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK};
use memsvc::{Config, Gfn, MemoryService, MemoryStats, RegionSpec};
use proptest::prelude::*;

const BLOCK: u64 = BLOCK_SIZE as u64;
const FRAMES: u64 = FRAMES_PER_BLOCK as u64;

/// Guest RAM of so many blocks, one block of address space missing in the middle.
fn service(blocks: u64) -> Arc<MemoryService> {
    let low = blocks / 2;
    let regions = vec![
        RegionSpec { gpa: 0, len: low * BLOCK },
        RegionSpec { gpa: (low + 1) * BLOCK, len: (blocks - low) * BLOCK },
    ];
    // Compaction by itself would change what these tests look at; `compaction.rs` is about it.
    let compaction = Tuning { policy: PolicyKind::Off, ..Tuning::default() };
    let config = Config { compaction, ..Config::new(regions) };
    MemoryService::new(&config, |_| ()).expect("a service on this host")
}

/// The n-th RAM page of the guest.
fn gfn(service: &MemoryService, page: u64) -> Gfn {
    let low = service.regions()[0].spec.len / FRAME_SIZE as u64;
    Gfn(if page < low { page } else { page + FRAMES })
}

fn words(service: &MemoryService, page: u64) -> [&AtomicU64; 2] {
    let address = service.regions()[0].host + page as usize * FRAME_SIZE;
    // SAFETY: regions follow each other in this process, the page is inside, and the service lives
    // as long as the reference.
    unsafe {
        [AtomicU64::from_ptr(address as *mut _), AtomicU64::from_ptr((address + FRAME_SIZE - 8) as *mut _)]
    }
}

/// Statistics when nobody touches memory any more, with what is resident by the kernel's word, which agrees with ours.
/// A touch ends as soon as its page is there, and the fault handler may still be at work then: the walk waits for that.
fn look(service: &MemoryService) -> MemoryStats {
    service.ballooned_frames();
    let host = service.walk().expect("the kernel says what is resident");
    let stats = service.stats();
    assert_eq!(stats.host.guest_resident_bytes, host.guest_resident_bytes, "{stats:?}");
    // khugepaged makes huge pages of split blocks that are full.
    assert!(stats.host.guest_huge_bytes <= host.guest_huge_bytes, "{stats:?}");
    MemoryStats { host, ..stats }
}

fn write(service: &MemoryService, page: u64, value: u64) {
    for word in words(service, page) {
        word.store(value, Ordering::Relaxed);
    }
}

fn read(service: &MemoryService, page: u64) -> u64 {
    let [first, last] = words(service, page).map(|word| word.load(Ordering::Relaxed));
    assert_eq!(first, last, "page {page} is torn");
    first
}

/// Makes the kernel give this process small pages only, so that every block is split.
fn no_huge_pages() {
    set_huge_pages(false);
}

fn set_huge_pages(on: bool) {
    // SAFETY: changes how this process's memory is backed, nothing else. Each test has a process
    // of its own under nextest; under cargo test the others only see split blocks too.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, u64::from(!on), 0, 0, 0) }, 0);
}

#[test]
fn ram_is_absent_until_touched_and_then_huge_and_zero() {
    let service = service(8);
    assert_eq!(look(&service).host.guest_resident_bytes, 0);
    for page in (0..8 * FRAMES).step_by(100) {
        assert_eq!(read(&service, page), 0);
    }
    let stats = look(&service);
    assert_eq!(stats.guest.huge_blocks, 8);
    assert_eq!(stats.host.guest_resident_bytes, 8 * BLOCK);
    assert_eq!(stats.host.guest_huge_bytes, 8 * BLOCK);
    assert_eq!(stats.arena.frames_by_type.guest, 8 * FRAMES);
}

#[test]
fn scattered_holes_keep_the_huge_page_and_its_bytes() {
    let service = service(2);
    (0..2 * FRAMES).for_each(|page| write(&service, page, page + 1));
    let odd: Vec<Gfn> =
        (0..2 * FRAMES).filter(|page| page % 2 == 1).map(|page| gfn(&service, page)).collect();
    assert_eq!(service.inflate(&odd).accepted, FRAMES as u32);
    let stats = look(&service);
    assert_eq!((stats.guest.holes, stats.guest.ballooned_frames), (FRAMES, FRAMES));
    assert_eq!(stats.host.guest_huge_bytes, 2 * BLOCK);
    assert_eq!(service.deflate(&odd).accepted, FRAMES as u32);
    assert_eq!(look(&service).guest.holes, 0);
    (0..2 * FRAMES).for_each(|page| assert_eq!(read(&service, page), page + 1));
}

#[test]
fn a_block_that_is_wholly_given_up_goes_back_at_once_and_comes_back_huge_and_zero() {
    let service = service(4);
    (0..4 * FRAMES).for_each(|page| write(&service, page, 7));
    let block: Vec<Gfn> = (FRAMES..2 * FRAMES).map(|page| gfn(&service, page)).collect();
    service.inflate(&block);
    let stats = look(&service);
    assert_eq!(stats.host.guest_resident_bytes, 3 * BLOCK);
    assert_eq!((stats.guest.absent_blocks, stats.moves.blocks_returned), (1, 1));

    // The guest touches what it gave up: a zeroed page, and we know.
    assert_eq!(read(&service, FRAMES + 5), 0);
    assert_eq!(look(&service).faults.on_ballooned, 1);
    service.deflate(&block);
    assert_eq!(look(&service).host.guest_huge_bytes, 4 * BLOCK);
    assert_eq!(read(&service, 0), 7);
}

#[test]
fn what_makes_no_sense_is_refused_and_counted() {
    let service = service(4);
    let hole = Gfn(2 * FRAMES);
    assert_eq!(service.inflate(&[hole, Gfn(u64::MAX), Gfn(5 * FRAMES)]).refused, 3);
    assert_eq!(service.inflate(&[Gfn(1), Gfn(1)]).refused, 1);
    assert_eq!(service.deflate(&[Gfn(1), Gfn(1), Gfn(2)]).refused, 2);
    assert_eq!(service.report_free(0, !4095).accepted, 4 * FRAMES as u32);
    assert_eq!(service.report_free(1, 4096).refused, 1);
    let refusals = look(&service).refusals;
    assert_eq!((refusals.inflated_twice, refusals.never_inflated), (1, 2));
    assert!(refusals.outside_ram > 3);
}

#[test]
fn reported_blocks_go_back_and_pieces_of_them_too() {
    let service = service(4);
    (0..4 * FRAMES).for_each(|page| write(&service, page, 9));
    assert_eq!(service.report_free(BLOCK / 2, BLOCK).accepted, FRAMES as u32);
    let stats = look(&service);
    assert_eq!((stats.host.guest_resident_bytes, stats.guest.split_blocks), (3 * BLOCK, 2));
    assert_eq!((read(&service, 255), read(&service, 256), read(&service, 768)), (9, 0, 9));
    assert_eq!(service.report_free(0, 2 * BLOCK).accepted, 2 * FRAMES as u32);
    assert_eq!(look(&service).host.guest_resident_bytes, 2 * BLOCK);
    assert_eq!((read(&service, 3), read(&service, 2 * FRAMES)), (0, 9));
    assert_eq!(look(&service).refusals.reported_kept, 0);
}

#[test]
fn without_huge_pages_frames_come_and_go_one_by_one() {
    no_huge_pages();
    let service = service(4);
    (0..4 * FRAMES).for_each(|page| write(&service, page, page + 1));
    let stats = look(&service);
    assert_eq!((stats.guest.split_blocks, stats.guest.huge_blocks), (4, 0));
    assert_eq!(stats.host.guest_resident_bytes, 4 * BLOCK);

    let odd: Vec<Gfn> =
        (0..4 * FRAMES).filter(|page| page % 2 == 1).map(|page| gfn(&service, page)).collect();
    service.inflate(&odd);
    let stats = look(&service);
    assert_eq!(stats.host.guest_resident_bytes, 2 * BLOCK);
    assert_eq!(stats.moves.frames_home, 2 * FRAMES);
    service.deflate(&odd);
    for page in 0..4 * FRAMES {
        assert_eq!(read(&service, page), if page % 2 == 1 { 0 } else { page + 1 });
    }

    // All frames home: the blocks of the arena are whole, and nothing is behind them.
    service.report_free(0, 5 * BLOCK);
    let stats = look(&service);
    assert_eq!(stats.arena.free_blocks, stats.arena.blocks);
    assert_eq!((stats.host.guest_resident_bytes, stats.host.arena_resident_bytes), (0, 0));
    assert_eq!(stats.moves.poison_lost, 0);
}

#[test]
fn an_idle_stash_goes_back_to_the_kernel() {
    let service = service(64);
    for block in 0..64 {
        write(&service, block * FRAMES, 1);
        std::thread::sleep(std::time::Duration::from_millis(2));
        if look(&service).stash.hits > 0 {
            break;
        }
    }
    assert!(look(&service).stash.hits > 0, "the refiller never was ahead of the guest");
    loop {
        let stats = look(&service);
        if stats.arena.frames_by_type.stash == 0 && stats.host.arena_resident_bytes == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_host_that_had_no_huge_pages_for_a_while_costs_no_whole_block_for_good() {
    let service = service(64);
    (0..8).for_each(|block| write(&service, block * FRAMES, 1));
    set_huge_pages(false);
    (8..56).for_each(|block| write(&service, block * FRAMES, 1));
    let stats = look(&service);
    assert!(stats.faults.no_huge_page > 0 && stats.guest.split_blocks > 0);
    set_huge_pages(true);
    service.report_free(0, 65 * BLOCK);
    loop {
        let stats = look(&service);
        if stats.arena.frames_by_type.stash == 0 {
            assert_eq!(stats.arena.broken_blocks, 0);
            assert_eq!(stats.arena.free_blocks, stats.arena.blocks);
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The kernel makes a page table for a touch for which it has no huge page, and a block moved there
/// arrives in pieces: it has to be known as what it is.
#[test]
fn a_block_that_arrives_in_pieces_is_a_split_block() {
    let service = service(64);
    // Until the refiller is ahead, so that a whole block is ready when the host has none.
    let mut block = 0;
    while look(&service).stash.blocks < 2 {
        assert!(block < 48, "the refiller never was ahead of the guest");
        write(&service, block * FRAMES, 1);
        block += 1;
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    set_huge_pages(false);
    let given = gfn(&service, block * FRAMES + 9);
    service.inflate(&[given]);
    write(&service, block * FRAMES + 8, 2);
    let stats = look(&service);
    assert_eq!(stats.guest.split_blocks, 1);
    assert_eq!(stats.host.guest_huge_bytes, stats.guest.huge_blocks * BLOCK);
    assert_eq!(stats.host.guest_resident_bytes, stats.arena.charged_frames * FRAME_SIZE as u64);
    assert_eq!((stats.guest.holes, stats.arena.frames_by_type.balloon), (0, 0));
    assert_eq!(read(&service, block * FRAMES + 8), 2);
    service.report_free(0, 65 * BLOCK);
    let stats = look(&service);
    assert_eq!((stats.arena.broken_blocks, stats.host.guest_resident_bytes), (0, 0));
}

/// Writers that never stop check that no page is lost or another's while its neighbours in the same
/// blocks are given up and taken back.
#[test]
fn writers_lose_nothing_while_their_neighbours_go_and_come() {
    const BLOCKS: u64 = 8;
    let service = service(BLOCKS);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (service, stop) = (&service, &stop);
            scope.spawn(move || {
                // Pages 0 and 1 of every four, of even blocks only: odd blocks may go whole.
                let mine = (0..BLOCKS * FRAMES)
                    .filter(|page| page % 4 == thread && (page / FRAMES).is_multiple_of(2))
                    .collect::<Vec<_>>();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    for &page in &mine {
                        assert_eq!(read(service, page), if round == 0 { 0 } else { page + round });
                        write(service, page, page + round + 1);
                    }
                    round += 1;
                }
            });
        }
        let given: Vec<Gfn> = (0..BLOCKS * FRAMES)
            .filter(|page| page % 4 > 1 || page / FRAMES % 2 == 1)
            .map(|page| gfn(&service, page))
            .collect();
        let _stop = StopOnDrop(&stop);
        for round in 0..60 {
            for batch in given.chunks(256) {
                assert_eq!(service.inflate(batch).refused, 0);
            }
            if round % 2 == 0 {
                service.report_free(BLOCK, BLOCK);
            }
            for batch in given.chunks(256) {
                assert_eq!(service.deflate(batch).refused, 0);
            }
            for page in (FRAMES..2 * FRAMES).step_by(64) {
                read(&service, page);
            }
        }
    });
    assert_eq!(look(&service).guest.ballooned_frames, 0);
}

/// xorshift64*: enough to be different every time, the same for a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// Ends the other threads of a test, also when the one that holds it fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const CHURN_BLOCKS: u64 = 6;

/// Pages 0 and 1 of every four, in even blocks, are never given up; the others may go any time.
fn is_kept(page: u64) -> bool {
    page % 4 < 2 && (page / FRAMES).is_multiple_of(2)
}

/// Two guest threads touch pages at random while a third gives up, takes back, reports and resets
/// at random. Kept pages keep their value; what was given up reads as the same page's or as zero,
/// never as another's. When all is quiet, tags and what is resident agree.
fn churn(seed: u64, steps: u64) {
    let service = service(CHURN_BLOCKS);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (service, stop) = (&service, &stop);
            scope.spawn(move || guest_thread(service, stop, thread, Dice(seed + 1 + thread)));
        }
        let _stop = StopOnDrop(&stop);
        let mut dice = Dice(seed);
        for _ in 0..steps {
            balloon_step(&service, &mut dice);
        }
    });
    let stats = look(&service);
    let by_type = &stats.arena.frames_by_type;
    assert_eq!(by_type.buddy + by_type.stash + by_type.guest + by_type.balloon, stats.arena.frames);
    assert_eq!(stats.host.guest_resident_bytes, stats.arena.charged_frames * FRAME_SIZE as u64);
    assert_eq!((stats.moves.poison_lost, stats.moves.home_refused, stats.faults.failed), (0, 0, 0));
    service.reset_balloon();
    assert_eq!(look(&service).guest.ballooned_frames, 0);
}

fn guest_thread(service: &MemoryService, stop: &AtomicBool, thread: u64, mut dice: Dice) {
    let mut kept = vec![0; (CHURN_BLOCKS * FRAMES) as usize];
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let page = dice.below(CHURN_BLOCKS * FRAMES);
        let value = (page + 1) << 32 | round;
        if !is_kept(page) {
            for word in words(service, page) {
                let got = word.load(Ordering::Relaxed);
                assert!(got == 0 || got >> 32 == page + 1, "page {page} reads {got:#x}");
                word.store(value, Ordering::Relaxed);
            }
        } else if page % 2 == thread {
            assert_eq!(read(service, page), kept[page as usize], "page {page}");
            write(service, page, value);
            kept[page as usize] = value;
        }
    }
    for page in (0..CHURN_BLOCKS * FRAMES).filter(|&page| is_kept(page) && page % 2 == thread) {
        assert_eq!(read(service, page), kept[page as usize], "page {page} at the end");
    }
}

/// Huge pages come and go in the host: every path between whole, broken and split blocks.
#[test]
fn random_touches_and_a_random_balloon_lose_nothing_while_huge_pages_come_and_go() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        scope.spawn(move || {
            let mut on = false;
            while !stop.load(Ordering::Relaxed) {
                set_huge_pages(on);
                on = !on;
                std::thread::sleep(std::time::Duration::from_millis(3));
            }
        });
        let _stop = StopOnDrop(stop);
        for seed in 1..6 {
            churn(seed * 1000, 500);
        }
    });
}

fn balloon_step(service: &MemoryService, dice: &mut Dice) {
    let pages = CHURN_BLOCKS * FRAMES;
    let block = dice.below(CHURN_BLOCKS);
    let start = dice.below(pages);
    let end = match dice.below(3) {
        0 => start + 1 + dice.below(4),
        1 => start + 256,
        _ => start + 2 * FRAMES,
    };
    let span = (start..end.min(pages)).filter(|&page| !is_kept(page));
    let gfns: Vec<Gfn> = span.map(|page| gfn(service, page)).collect();
    let report =
        |gfn: Gfn, frames: u64| service.report_free(gfn.0 * FRAME_SIZE as u64, frames * FRAME_SIZE as u64);
    match dice.below(20) {
        0..8 => _ = service.inflate(&gfns),
        8..14 => _ = service.deflate(&gfns),
        14..17 if block % 2 == 1 => _ = report(gfn(service, block * FRAMES), FRAMES),
        14..19 => gfns.iter().take(16).for_each(|&gfn| {
            report(gfn, 1);
        }),
        _ => service.reset_balloon(),
    }
}

#[test]
fn random_touches_and_a_random_balloon_lose_nothing() {
    for seed in 1..4 {
        churn(seed * 1000, 700);
    }
}

#[test]
fn random_touches_and_a_random_balloon_lose_nothing_without_huge_pages() {
    no_huge_pages();
    for seed in 1..4 {
        churn(seed * 1000, 700);
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64),
    Read(u64),
    Inflate(u64, u64),
    Deflate(u64, u64),
    Report(u64, u64),
    Reset,
}

const MODEL_BLOCKS: u64 = 3;

fn op() -> impl Strategy<Value = Op> {
    let pages = MODEL_BLOCKS * FRAMES;
    let span = || (0..pages, prop_oneof![1..5u64, Just(FRAMES), 1..2 * FRAMES]);
    prop_oneof![
        4 => (0..pages, 1..1000u64).prop_map(|(page, value)| Op::Write(page, value)),
        4 => (0..pages).prop_map(Op::Read),
        3 => span().prop_map(|(page, count)| Op::Inflate(page, count)),
        2 => span().prop_map(|(page, count)| Op::Deflate(page, count)),
        2 => (0..=MODEL_BLOCKS, span()).prop_map(|(block, (page, count))| match block {
            MODEL_BLOCKS => Op::Report(page, count),
            block => Op::Report(block * FRAMES, FRAMES),
        }),
        1 => Just(Op::Reset),
    ]
}

fn against_model(ops: Vec<Op>) {
    let service = service(MODEL_BLOCKS);
    let pages = (MODEL_BLOCKS * FRAMES) as usize;
    let span = |page: u64, count: u64| page as usize..((page + count) as usize).min(pages);
    // What a page holds, and whether it may read as zero instead.
    let mut value = vec![0u64; pages];
    let mut maybe_zero = vec![false; pages];
    let mut ballooned = vec![false; pages];
    for op in ops {
        match op {
            Op::Write(page, new) => {
                write(&service, page, new);
                value[page as usize] = new;
                // A page in the balloon is not the guest's: it may be lost any time.
                maybe_zero[page as usize] = ballooned[page as usize];
            }
            Op::Read(page) => {
                let (at, got) = (page as usize, read(&service, page));
                assert!(got == value[at] || (maybe_zero[at] && got == 0), "page {page} read {got}");
                if !ballooned[at] {
                    value[at] = got;
                    maybe_zero[at] = false;
                }
            }
            Op::Inflate(page, count) => {
                let span = span(page, count);
                let fresh = span.clone().filter(|&page| !ballooned[page]).count();
                let gfns: Vec<_> = span.clone().map(|page| gfn(&service, page as u64)).collect();
                assert_eq!(service.inflate(&gfns).accepted as usize, fresh);
                ballooned[span.clone()].fill(true);
                maybe_zero[span].fill(true);
            }
            Op::Deflate(page, count) => {
                let span = span(page, count);
                let held = span.clone().filter(|&page| ballooned[page]).count();
                let gfns: Vec<_> = span.clone().map(|page| gfn(&service, page as u64)).collect();
                assert_eq!(service.deflate(&gfns).accepted as usize, held);
                ballooned[span].fill(false);
            }
            Op::Report(page, count) => {
                let span = span(page, count);
                for page in span.clone() {
                    let Gfn(gfn) = gfn(&service, page as u64);
                    if page == span.start || (page as u64).is_multiple_of(FRAMES) {
                        let end = ((page as u64 / FRAMES + 1) * FRAMES).min(span.end as u64);
                        service.report_free(gfn * FRAME_SIZE as u64, (end - page as u64) * FRAME_SIZE as u64);
                    }
                }
                maybe_zero[span].fill(true);
            }
            Op::Reset => {
                service.reset_balloon();
                ballooned.fill(false);
            }
        }
        let stats = look(&service);
        let by_type = &stats.arena.frames_by_type;
        assert_eq!(by_type.buddy + by_type.stash + by_type.guest + by_type.balloon, stats.arena.frames);
        assert_eq!(stats.arena.charged_frames, by_type.guest + by_type.balloon);
        assert_eq!(stats.guest.ballooned_frames, ballooned.iter().filter(|held| **held).count() as u64);
        assert_eq!(stats.host.guest_resident_bytes, stats.arena.charged_frames * FRAME_SIZE as u64);
        assert_eq!(stats.moves.poison_lost, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn agrees_with_a_model(ops in prop::collection::vec(op(), 1..60)) {
        against_model(ops);
    }

    #[test]
    fn agrees_with_a_model_without_huge_pages(ops in prop::collection::vec(op(), 1..60)) {
        no_huge_pages();
        against_model(ops);
    }
}
