//! A host without memory: a page-in waits for some, and what frees it goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use memsvc::core::watermark::Choice;
use memsvc::{Config, MemoryService, RegionSpec, least_limit};

use super::*;
use crate::vm::memory::guest_ram;

/// Memory that lacks while it is said so.
struct Lacking(Arc<AtomicBool>);

impl SwapMemory for Lacking {
    fn lacks_memory_for(&self, gpa: u64, _len: u64) -> bool {
        gpa >= RAM / 2 && self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn a_request_that_lacks_memory_waits_and_is_passed_by_others() {
    let swap = device(64, 64, vec![]);
    let lacks = Arc::new(AtomicBool::new(false));
    let (mut driver, _) = driver_of(&swap, Lacking(Arc::clone(&lacks)));
    (0..8).for_each(|page| assert_eq!(write(&mut driver, page, page + 1), OK));
    lacks.store(true, Ordering::Relaxed);
    // Of four pages the last two lie where there is no memory.
    let (into, pages) = (RAM / 2 - 2 * PAGE as u64, 4 * PAGE);
    driver.put(into, &vec![0xee; pages]);
    let buffers = prepared_at(&driver, HEADER + 128, IN, 0, &[Buf::In(into, pages as u32)]);
    let head = driver.add(0, &buffers);
    driver.kick(0);
    assert_eq!(driver.used(0), []);
    assert!(
        driver.bytes(into + 2 * PAGE as u64, 2 * PAGE).iter().all(|byte| *byte == 0xee),
        "they are not touched"
    );
    for page in 4..8 {
        assert!(read(&mut driver, page) == content(page + 1));
        assert_eq!(write(&mut driver, page, page + 10), OK);
    }
    let range = put(&driver, &[(7 * SECTORS_PER_PAGE, 8, 0)]);
    assert_eq!(request(&mut driver, DISCARD, 0, &[range]).0, OK);
    assert_eq!(driver.used(0), []);
    lacks.store(false, Ordering::Relaxed);
    // It looks again by itself.
    while driver.used(0) != [(u32::from(head), pages as u32 + 1)] {
        driver.wait();
    }
    let expected: Vec<u8> = (1..5).flat_map(content).collect();
    assert!(driver.bytes(into, pages) == expected);
}

const GUEST: u64 = 16 << 20;
/// Frames of the reserve.
const MIN: u64 = 256;

/// All memory is the guest's, the store's and somebody's, down to what is left for pages that are read. Each page-in into memory
/// that is absent takes a frame of that; the next one waits, and the thread that serves it goes on: to write what is there
/// already, and to discard, which makes room for it.
#[test]
fn page_ins_use_up_the_reserve_and_then_wait_for_what_is_discarded() {
    let watermarks = Choice::Min(MIN);
    let pages = 4096;
    let (bytes, codec) = (pages * PAGE as u64, Codec::None);
    let swap = SwapConfig { name: "swap".into(), bytes, memory: bytes, codec, tiers: vec![] };
    let regions = vec![RegionSpec { gpa: 0, len: GUEST }];
    let limit = Some(least_limit(GUEST, watermarks));
    let config = Config { swap: Some(swap), watermarks, limit, ..Config::new(regions) };
    let service = MemoryService::new(&config, |why| panic!("{why}")).expect("a service on this host");
    let ram = guest_ram(service.regions(), Some(service.reclaimer())).expect("RAM");
    let swap = service.swap().expect("a swap device");
    let disk = SwapDisk::new(swap, Arc::clone(&service)).expect("a disk");
    let mut driver = Driver::with_ram(Arc::new(Mutex::new(disk)), ram);
    // What the driver uses is there; the rest of guest RAM is absent.
    (0..RAM).step_by(PAGE).for_each(|at| driver.put(at, &[1]));
    driver.start(V1 | 1 << 13 | 1 << 14, 1);
    let number = |page: u64| 4 * page + 3;
    let stored = (0..pages).take_while(|page| write(&mut driver, *page, number(*page)) == OK).count() as u64;
    service.reclaimer().done();
    assert!(stored > 1000, "{stored} pages are stored");

    // If the device waits itself, nothing is ever done: then the guest ends.
    let (done, is_done) = channel::<()>();
    let watch = {
        let service = Arc::clone(&service);
        thread::spawn(move || {
            let result = is_done.recv_timeout(Duration::from_secs(60));
            let is_late = result == Err(RecvTimeoutError::Timeout);
            if is_late {
                service.end_guest();
            }
            is_late
        })
    };
    let into = |page: u64| RAM + page * PAGE as u64;
    let mut waits = None;
    for page in 0..2 * MIN {
        let sector = page * SECTORS_PER_PAGE;
        let buffers = prepared_at(&driver, HEADER + 128, IN, sector, &[Buf::In(into(page), PAGE32)]);
        let head = driver.add(0, &buffers);
        driver.kick(0);
        service.reclaimer().done();
        if driver.used(0) != [(head.into(), PAGE32 + 1)] {
            waits = Some((head, page));
            break;
        }
    }
    let (head, page) = waits.expect("one waits at last");
    assert!(page > 100, "{page} pages came in before");
    assert_eq!(write(&mut driver, 0, number(0)), OK, "what is there already is written");
    let range = put(&driver, &[(1000 * SECTORS_PER_PAGE, (stored - 1000) as u32 * 8, 0)]);
    let buffers = prepared(&driver, DISCARD, 0, &[range]);
    let discard = driver.add(0, &buffers);
    driver.kick(0);
    // Once there is room, the other is done as well, at once or when it is looked at again.
    let mut used = driver.used(0);
    while used.len() < 2 {
        driver.wait();
        service.reclaimer().done();
        used.extend(driver.used(0));
    }
    used.sort_unstable();
    let mut expected = [(u32::from(discard), 1), (u32::from(head), PAGE32 + 1)];
    expected.sort_unstable();
    assert_eq!(used, expected);
    assert_eq!(driver.bytes(STATUS, 1), [OK]);
    drop(done);
    assert!(!watch.join().expect("it watches"), "the device waited for memory");
    assert_eq!(service.stats().faults.short, 0, "no touch waited");
    (0..=page)
        .for_each(|page| assert!(driver.bytes(into(page), PAGE) == content(number(page)), "page {page}"));
}
