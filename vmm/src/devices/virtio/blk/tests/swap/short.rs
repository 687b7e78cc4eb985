//! A host without memory: a page-in waits for some, and what frees it goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use memsvc::core::units::Gfn;
use memsvc::core::watermark::Choice;
use memsvc::{Config, MemoryService, RegionSpec, least_limit};

use super::*;
use crate::vm::memory::guest_ram;

/// Memory that lacks while it is said so.
struct Lacking(Arc<AtomicBool>);

impl SwapMemory for Lacking {
    fn lacks_memory_for(&self, pieces: &mut dyn Iterator<Item = (u64, u64)>) -> bool {
        self.0.load(Ordering::Relaxed) && pieces.filter(|(gpa, _)| *gpa >= RAM / 2).count() > 0
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

/// All memory is the guest's, the store's and somebody's, down to what is left for pages that are read.
struct Tight {
    service: Arc<MemoryService>,
    driver: Driver,
    /// Pages in the store.
    stored: u64,
    /// If the device waits itself, nothing is ever done: then the guest ends.
    watch: Option<(Sender<()>, JoinHandle<bool>)>,
}

impl Tight {
    fn new() -> Self {
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
        // The driver's own pages are there; the rest of guest RAM is absent.
        (0..RAM).step_by(PAGE).for_each(|at| driver.put(at, &[1]));
        driver.start(V1 | 1 << 13 | 1 << 14, 1);
        let stored = (0..pages).take_while(|page| write(&mut driver, *page, number(*page)) == OK);
        let stored = stored.count() as u64;
        service.reclaimer().done();
        assert!(stored > 1000, "{stored} pages are stored");
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
        Self { service, driver, stored, watch: Some((done, watch)) }
    }

    /// Reads pages into memory that is absent, until so many are read or one waits: the head of that, and how many there were.
    fn page_in(&mut self, most: u64) -> (Option<u32>, u64) {
        for page in 0..most {
            let sector = page * SECTORS_PER_PAGE;
            let data = [Buf::In(into(page), PAGE32)];
            let buffers = prepared_at(&self.driver, HEADER + 128, IN, sector, &data);
            let head = u32::from(self.driver.add(0, &buffers));
            self.kick();
            if self.driver.used(0) != [(head, PAGE32 + 1)] {
                return (Some(head), page);
            }
        }
        (None, most)
    }

    fn kick(&mut self) {
        self.driver.kick(0);
        self.service.reclaimer().done();
    }

    /// Lets go of most of the store.
    fn add_discard(&mut self) -> u32 {
        let range = put(&self.driver, &[(1000 * SECTORS_PER_PAGE, (self.stored - 1000) as u32 * 8, 0)]);
        let buffers = prepared(&self.driver, DISCARD, 0, &[range]);
        self.driver.add(0, &buffers).into()
    }

    /// The guest gives up these pages, which it has read.
    fn give_up(&self, pages: std::ops::Range<u64>) {
        let gfns: Vec<Gfn> = pages.map(|page| Gfn(into(page) >> 12)).collect();
        self.service.inflate(&gfns);
    }

    /// The heads of the next `count` requests that end, at once or when they are looked at again.
    fn ended(&mut self, count: usize) -> Vec<(u32, u32)> {
        let mut used = self.driver.used(0);
        while used.len() < count {
            self.driver.wait();
            self.service.reclaimer().done();
            used.extend(self.driver.used(0));
        }
        used.sort_unstable();
        used
    }

    /// No touch of guest RAM has waited.
    fn check(&mut self) {
        let (done, watch) = self.watch.take().expect("once");
        drop(done);
        assert!(!watch.join().expect("it watches"), "the device waited for memory");
        assert_eq!(self.service.stats().faults.short, 0, "no touch waited");
    }
}

fn number(page: u64) -> u64 {
    4 * page + 3
}

fn into(page: u64) -> u64 {
    RAM + page * PAGE as u64
}

/// Each page-in into memory that is absent takes a frame of what is left; the next one waits, and the thread that serves it
/// goes on: to write what is there already, and to discard, which makes room for it.
#[test]
fn page_ins_use_up_the_reserve_and_then_wait_for_what_is_discarded() {
    let mut tight = Tight::new();
    let (waits, page) = tight.page_in(2 * MIN);
    let head = waits.expect("one waits at last");
    assert!(page > 100, "{page} pages came in before");
    assert_eq!(write(&mut tight.driver, 0, number(0)), OK, "what is there already is written");
    let discard = tight.add_discard();
    tight.kick();
    let mut expected = [(discard, 1), (head, PAGE32 + 1)];
    expected.sort_unstable();
    assert_eq!(tight.ended(2), expected);
    assert_eq!(tight.driver.bytes(STATUS, 1), [OK]);
    tight.check();
    (0..=page).for_each(|page| {
        assert!(tight.driver.bytes(into(page), PAGE) == content(number(page)), "page {page}");
    });
}

/// A driver may cut a page into as many pieces as a chain has, each in a page of its own that is absent.
#[test]
fn a_page_in_pieces_waits_until_there_is_memory_for_all_of_them() {
    const PIECES: u64 = 126;
    let mut tight = Tight::new();
    let (_, pages) = tight.page_in(40);
    let last = PAGE32 - (PIECES as u32 - 1);
    let piece = |index| Buf::In(into(pages + index), if index + 1 < PIECES { 1 } else { last });
    let data: Vec<_> = (0..PIECES).map(piece).collect();
    let buffers = prepared_at(&tight.driver, HEADER + 128, IN, 0, &data);
    offer_indirect(&mut tight.driver, &buffers);
    tight.kick();
    assert_eq!(tight.driver.used(0), []);
    assert_eq!(write(&mut tight.driver, 0, number(0)), OK, "others go on");
    tight.add_discard();
    tight.kick();
    tight.ended(2);
    assert_eq!(tight.driver.bytes(HEADER + 128 + STATUS - HEADER, 1), [OK]);
    tight.check();
}

/// The driver has not written where its header is, or where the status is to be.
#[test]
fn header_and_status_without_memory_wait_as_well() {
    for (header, status) in [(1, 0), (0, 1), (1, 1)] {
        let mut tight = Tight::new();
        let (waits, pages) = tight.page_in(2 * MIN);
        assert!(waits.is_some());
        let place = |is_absent: u64, at: u64| {
            if is_absent == 1 { into(pages + 8 * (1 + at)) } else { HEADER + 512 * at }
        };
        if header == 0 {
            tight.driver.put(place(0, 1), &[0; 16]);
        }
        let chain = [Buf::Out(place(header, 1), 16), Buf::In(DATA, PAGE32), Buf::In(place(status, 2), 1)];
        tight.driver.add(0, &chain);
        tight.kick();
        assert_eq!(tight.driver.used(0), []);
        tight.give_up(0..64);
        assert_eq!(tight.ended(2).len(), 2);
        assert_eq!(tight.driver.bytes(place(status, 2), 1), [OK]);
        tight.check();
    }
}

/// It was there when the request came. Two frames are for the data of two requests, and none is left for the status of one.
#[test]
fn a_status_that_has_lost_its_memory_meanwhile_waits_as_well() {
    let mut tight = Tight::new();
    let (waits, pages) = tight.page_in(2 * MIN);
    let (header, status) = (HEADER + 512, into(0));
    tight.driver.put(header, &[0; 16]);
    let chain = [Buf::Out(header, 16), Buf::In(into(pages + 8), PAGE32), Buf::In(status, 1)];
    let head = u32::from(tight.driver.add(0, &chain));
    tight.kick();
    tight.give_up(0..2);
    assert_eq!(tight.ended(1), [(waits.expect("one waits"), PAGE32 + 1)]);
    tight.driver.wait();
    assert_eq!(tight.driver.used(0), []);
    tight.give_up(2..64);
    assert_eq!(tight.ended(1), [(head, PAGE32 + 1)]);
    assert_eq!(tight.driver.bytes(status, 1), [OK]);
    tight.check();
}
