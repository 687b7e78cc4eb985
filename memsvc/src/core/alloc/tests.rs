//! Tests of what the model does not ask: waiting and waking, counters, errors.

use std::thread;

use super::*;
use crate::core::migrate_type::MigrateType;
use crate::core::request::Flags;

const KMEM: Request = Request::new(Order::FRAME, PageType::Kmem);

fn one_block(min: u64) -> FrameAllocator {
    let watermarks = Watermarks { min, low: min, high: min };
    FrameAllocator::new(Config { blocks: 1, cpus: 2, watermarks })
}

/// All there is, with the reserve.
fn take_all(alloc: &FrameAllocator) -> Vec<FrameId> {
    let request = KMEM.flags(Flags::MEMALLOC);
    std::iter::from_fn(|| alloc.alloc(CpuId(0), &request).ok()).collect()
}

/// Fewer frames than a list holds are freed, so they must not stay there; while there is nothing above
/// the reserve nobody is sent to ask, and who comes goes behind.
#[test]
fn who_waits_for_the_reserve_goes_on_when_others_have_freed_enough() {
    const LONG: Duration = Duration::from_secs(10);
    let alloc = one_block(20);
    let all = take_all(&alloc);
    let mut plain = all.into_iter().filter(|&frame| !alloc.is_reserve(frame));
    let mut free = |frames| {
        plain.by_ref().take(frames).for_each(|frame| alloc.free(CpuId(0), frame, Order::FRAME).unwrap());
    };
    let until_waiting = |waiting, last: &thread::ScopedJoinHandle<'_, bool>| {
        while alloc.zone_info().reserve.waiting != waiting {
            assert!(!last.is_finished(), "it does not wait");
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        free(5);
        let first = scope.spawn(|| alloc.throttle(LONG));
        until_waiting(1, &first);
        free(10);
        let second = scope.spawn(|| alloc.throttle(LONG));
        until_waiting(2, &second);
        free(10);
        assert!(first.join().unwrap() && second.join().unwrap());
    });
    assert_eq!(alloc.zone_info().reserve.throttled, 2);
}

#[test]
fn the_reclaimer_is_woken_once_until_memory_has_been_above_high() {
    static WOKEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let watermarks = Watermarks { min: 0, low: 256, high: 400 };
    let alloc: FrameAllocator = FrameAllocator::new(Config { blocks: 1, cpus: 1, watermarks })
        .with_reclaimer(Box::new(|| _ = WOKEN.fetch_add(1, Ordering::Relaxed)));
    for woken in 1..=2 {
        let mut all = take_all(&alloc);
        assert_eq!(WOKEN.load(Ordering::Relaxed), woken);
        let mut free = |frames: usize| {
            all.drain(..frames).for_each(|frame| alloc.free(CpuId(0), frame, Order::FRAME).unwrap());
            alloc.drain_all();
        };
        // Above low, below high, and below low again.
        free(300);
        let some = [(); 100].map(|()| alloc.alloc(CpuId(0), &KMEM).unwrap());
        assert_eq!(WOKEN.load(Ordering::Relaxed), woken);
        free(212);
        some.iter().for_each(|&frame| alloc.free(CpuId(0), frame, Order::FRAME).unwrap());
        alloc.drain_all();
    }
}

#[test]
fn draining_all_visits_who_holds_anything_and_counts_whom_it_spared() {
    let config = Config { blocks: 1, cpus: 5, watermarks: Watermarks::NONE };
    let alloc: FrameAllocator = FrameAllocator::new(config);
    let _held = [1, 3].map(|cpu| alloc.alloc(CpuId(cpu), &KMEM).unwrap());
    assert_eq!(alloc.drain_all().visited, 2);
    let counters = alloc.zone_info().counters;
    assert_eq!((counters.drain_visits, counters.drain_visits_saved), (2, 3));
}

#[test]
fn a_block_goes_to_who_takes_from_it_if_half_of_it_fits() {
    let alloc = one_block(0);
    let guest = Request::new(Order::FRAME, PageType::Guest);
    let blocks = || MigrateType::ALL.map(|is| alloc.type_info().migrate_types[is as usize].blocks);
    let few = [(); 200].map(|()| alloc.alloc(CpuId(0), &guest).unwrap());
    assert_eq!(blocks(), [0, 1, 0]);
    alloc.drain_all();
    let other = alloc.alloc(CpuId(0), &KMEM).unwrap();
    assert_eq!(blocks(), [1, 0, 0]);
    // With most of it movable it stays as it is.
    few.iter().for_each(|&frame| alloc.free(CpuId(0), frame, Order::FRAME).unwrap());
    alloc.free(CpuId(0), other, Order::FRAME).unwrap();
    alloc.drain_all();
    let _most = [(); 400].map(|()| alloc.alloc(CpuId(0), &guest).unwrap());
    alloc.drain_all();
    alloc.alloc(CpuId(0), &KMEM).unwrap();
    assert_eq!(blocks(), [0, 1, 0]);
}

#[test]
fn a_block_that_is_freed_twice_says_what_it_was_and_whose() {
    let alloc = one_block(0);
    let owner = OwnerId(3);
    let request = Request::new(Order::BLOCK, PageType::Guest).charge_to(owner);
    let head = alloc.alloc(CpuId(0), &request).unwrap();
    alloc.free(CpuId(0), head, Order::BLOCK).unwrap();
    let again = |frame, order| alloc.free(CpuId(1), frame, order).unwrap_err();
    for (frame, order) in [(head, Order::BLOCK), (FrameId(head.0 + 7), Order::FRAME)] {
        let last = FreeError::NotHandedOut { frame, last: PageType::Guest, owner };
        assert_eq!(again(frame, order), last);
        alloc.drain_all();
        assert_eq!(again(frame, order), last);
    }
    // Then it is handed out in pieces.
    let frame = alloc.alloc(CpuId(0), &KMEM).unwrap();
    alloc.free(CpuId(0), frame, Order::FRAME).unwrap();
    alloc.drain_all();
    let last = FreeError::NotHandedOut { frame, last: PageType::Kmem, owner: OwnerId::HOST };
    assert_eq!(again(frame, Order::FRAME), last);
}

#[test]
fn tables_take_at_most_8_bytes_a_frame_all_told() {
    let config = Config { blocks: 4096, cpus: CpuId::MAX as u8, watermarks: Watermarks::NONE };
    let alloc: FrameAllocator = FrameAllocator::new(config);
    let millibytes = alloc.zone_info().metadata_millibytes_per_frame;
    assert!(millibytes <= 8000, "{millibytes}");
}
