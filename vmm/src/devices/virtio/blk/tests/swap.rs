//! The guest's swap as a disk.

mod property;
mod short;
mod waiting;

use memsvc::guard::Guard;
use memsvc::swap::{Codec, Swap, SwapConfig, TierConfig};

use super::ranges::{DISCARD, WRITE_ZEROES, put, put_at};
use super::*;
use crate::allocations::allocations;
use crate::devices::virtio::blk::{SwapDisk, SwapMemory};
use crate::devices::virtio::lock;
use crate::swap::known::{PAGE, content};

const SECTORS_PER_PAGE: u64 = 8;
const PAGE32: u32 = PAGE as u32;

/// Memory that is always there.
struct Plenty;

impl SwapMemory for Plenty {
    fn lacks_memory_for(&self, _: &mut dyn Iterator<Item = (u64, u64)>) -> bool {
        false
    }
}

/// A device of so many pages, of which this part is kept in memory.
fn device(pages: u64, in_memory: u64, tiers: Vec<TierConfig>) -> Swap {
    let (bytes, memory) = (pages * PAGE as u64, in_memory * PAGE as u64);
    let config = SwapConfig { name: "swap".into(), bytes, memory, codec: Codec::Lz4, tiers };
    Swap::standalone(&config, &Guard::new(|why| panic!("{why}"))).expect("a swap device")
}

fn driver_of(swap: &Swap, memory: impl SwapMemory + 'static) -> (Driver, Arc<BlockMetrics>) {
    let disk = SwapDisk::new(swap, memory).expect("a disk");
    let metrics = Arc::clone(disk.metrics());
    let features = (V1 | disk.features()) & !(3 << 28);
    (Driver::started(Arc::new(Mutex::new(disk)), features, 1), metrics)
}

fn write(driver: &mut Driver, page: u64, number: u64) -> u8 {
    driver.put(DATA, &content(number));
    request(driver, OUT, page * SECTORS_PER_PAGE, &[Buf::Out(DATA, PAGE32)]).0
}

fn read(driver: &mut Driver, page: u64) -> Vec<u8> {
    driver.put(DATA, &[0xee; PAGE]);
    let read = request(driver, IN, page * SECTORS_PER_PAGE, &[Buf::In(DATA, PAGE32)]);
    assert_eq!(read, (OK, PAGE32 + 1), "page {page}");
    driver.bytes(DATA, PAGE)
}

#[test]
fn what_is_written_is_read_however_its_pages_are_cut() {
    let swap = device(64, 64, vec![]);
    let (mut driver, metrics) = driver_of(&swap, Plenty);
    assert_eq!((driver.get(0x100), driver.get(0x114)), (64 * 8, 4096), "capacity, and size of a block");
    driver.set(0x14, 0);
    let (discard, flush) = (1 << 13 | 1 << 14, 1 << 9);
    assert_eq!(driver.get(0x10) & (discard | flush), discard, "nothing is to be flushed");
    assert_eq!(request(&mut driver, GET_ID, 0, &[Buf::In(DATA, 20)]), (OK, 21));
    assert_eq!(driver.bytes(DATA, 20), *b"aerostat-swap\0\0\0\0\0\0\0");

    let pages: Vec<u8> = (2..5).flat_map(content).collect();
    driver.put(DATA, &pages);
    let cut = [Buf::Out(DATA, 1000), Buf::Out(DATA + 1000, 7192), Buf::Out(DATA + 8192, 4096)];
    assert_eq!(request(&mut driver, OUT, 8, &cut), (OK, 1));
    let cut = [Buf::In(DATA, 5000), Buf::In(DATA + 5000, 1), Buf::In(DATA + 5001, 4 * PAGE32 - 5001)];
    driver.put(DATA, &[0xee; 4 * PAGE]);
    assert_eq!(request(&mut driver, IN, 8, &cut), (OK, 4 * PAGE32 + 1));
    let read = driver.bytes(DATA, 4 * PAGE);
    assert!(read[..3 * PAGE] == pages && read[3 * PAGE..] == content(0));

    let counts =
        [metrics.reads.get(), metrics.read_bytes.get(), metrics.writes.get(), metrics.written_bytes.get()];
    assert_eq!(counts, [1, 4 * PAGE as u64, 1, 3 * PAGE as u64]);
    let stats = swap.stats();
    let nbd = &stats.nbd;
    assert_eq!([nbd.connections, nbd.reads, nbd.pages_read, nbd.writes, nbd.pages_written], [1, 1, 4, 1, 3]);
    assert_eq!([stats.latency.reads.count, stats.latency.writes.count, nbd.errors], [1, 1, 0]);
}

#[test]
fn what_is_discarded_or_zeroed_is_not_stored_any_more() {
    let swap = device(64, 64, vec![]);
    let (mut driver, metrics) = driver_of(&swap, Plenty);
    driver.set(0x14, 0);
    assert_eq!([0x128, 0x134].map(|at| driver.get(at)), [1, 1], "ranges of a request");
    (0..8).for_each(|page| assert_eq!(write(&mut driver, page, page + 1), OK));
    for (kind, first, pages) in [(DISCARD, 1, 2), (WRITE_ZEROES, 5, 1)] {
        let range = put(&driver, &[(first * SECTORS_PER_PAGE, pages * SECTORS_PER_PAGE as u32, 0)]);
        assert_eq!(request(&mut driver, kind, 0, &[range]), (OK, 1));
    }
    assert_eq!(swap.stats().store.stored_pages, 5);
    for page in 0..8 {
        let expected = if matches!(page, 1 | 2 | 5) { 0 } else { page + 1 };
        assert!(read(&mut driver, page) == content(expected), "page {page}");
    }
    let counts = [&metrics.discards, &metrics.discarded_bytes, &metrics.write_zeroes, &metrics.zeroed_bytes];
    assert_eq!(counts.map(|count| count.get()), [1, 2 * PAGE as u64, 1, PAGE as u64]);
    assert_eq!(swap.stats().nbd.erasures, 2);
}

#[test]
fn requests_that_make_no_sense_are_counted_and_change_nothing() {
    let swap = device(64, 64, vec![]);
    let (mut driver, metrics) = driver_of(&swap, Plenty);
    (0..64).for_each(|page| assert_eq!(write(&mut driver, page, page + 1), OK));
    let whole = Buf::Out(DATA, PAGE32);
    for (kind, sector, data, status) in [
        (IN, 64 * 8, Buf::In(DATA, PAGE32), IOERR),
        (IN, 63 * 8, Buf::In(DATA, 2 * PAGE32), IOERR),
        (OUT, u64::MAX, whole, IOERR),
        (OUT, u64::MAX - 7, whole, IOERR),
        (OUT, 4, whole, IOERR),
        (OUT, 0, Buf::Out(DATA, PAGE32 - 512), IOERR),
        (OUT, 0, Buf::Out(DATA, 0), IOERR),
        (IN, 0, Buf::Out(DATA, PAGE32), IOERR),
        (OUT, 0, Buf::Out(RAM - 2048, PAGE32), IOERR),
        (IN, 0, Buf::In(u64::MAX - 4095, PAGE32), IOERR),
        (GET_ID, 0, Buf::In(RAM, 20), IOERR),
        (FLUSH, 0, whole, UNSUPP),
        (SECURE_ERASE, 0, Buf::Out(DATA, 16), UNSUPP),
        (u32::MAX, 0, Buf::Out(DATA, 16), UNSUPP),
    ] {
        assert_eq!(request(&mut driver, kind, sector, &[data]), (status, 1), "{kind} {sector} {data:?}");
    }
    for (kind, ranges, status) in [
        (DISCARD, vec![(0, 8, 0), (8, 8, 0)], IOERR),
        (DISCARD, vec![(0, 7, 0)], IOERR),
        (DISCARD, vec![(1, 8, 0)], IOERR),
        (DISCARD, vec![(0, 0, 0)], IOERR),
        (WRITE_ZEROES, vec![(63 * 8, 16, 0)], IOERR),
        (DISCARD, vec![(0, 8, 1)], UNSUPP),
    ] {
        let data = put(&driver, &ranges);
        assert_eq!(request(&mut driver, kind, 0, &[data]), (status, 1), "{kind} {ranges:?}");
    }
    driver.put(HEADER, &[0; 16]);
    assert_eq!(driver.request(0, &[Buf::Out(HEADER, 16)]), 0, "no status byte");
    assert_eq!(driver.request(0, &[Buf::Out(HEADER, 15), Buf::In(STATUS, 1)]), 1, "no header");
    driver.set(0x100, 1);
    let (refused, unsupported, bad) = (13, 4, 5);
    assert_eq!([metrics.refused.get(), metrics.unsupported.get()], [refused, unsupported]);
    assert_eq!([metrics.bad_requests.get(), metrics.bad_config_writes.get()], [bad, 1]);
    let nbd = swap.stats().nbd;
    assert_eq!([nbd.refused, nbd.errors], [refused + unsupported + bad; 2]);
    // A request of which the status cannot be told is done all the same.
    prepared(&driver, IN, 0, &[]);
    assert_eq!(driver.request(0, &[Buf::Out(HEADER, 16), Buf::In(DATA, PAGE32), Buf::In(RAM, 1)]), 0);
    assert_eq!(metrics.bad_requests.get(), bad + 1);
    (0..64).for_each(|page| assert!(read(&mut driver, page) == content(page + 1), "page {page}"));
}

#[test]
fn who_did_not_ask_for_discards_has_none() {
    let swap = device(64, 64, vec![]);
    let disk = SwapDisk::new(&swap, Plenty).expect("a disk");
    let mut driver = Driver::started(Arc::new(Mutex::new(disk)), V1, 1);
    let range = put(&driver, &[(0, 8, 0)]);
    assert_eq!(request(&mut driver, DISCARD, 0, &[range]).0, UNSUPP);
}

#[test]
fn a_store_that_is_full_says_so_and_keeps_what_it_has() {
    // None of these pages becomes smaller.
    let number = |page: u64| 4 * page + 3;
    let swap = device(64, 16, vec![]);
    let (mut driver, metrics) = driver_of(&swap, Plenty);
    let written = (0..64).take_while(|page| write(&mut driver, *page, number(*page)) == OK).count() as u64;
    assert_eq!((written, metrics.host_errors.get()), (16, 1));
    let stats = swap.stats();
    assert_eq!([stats.store.no_room, stats.nbd.errors, stats.nbd.refused], [1, 1, 0]);
    (0..16).for_each(|page| assert!(read(&mut driver, page) == content(number(page)), "page {page}"));
    assert!(read(&mut driver, 16) == content(0), "what was refused is as it was");
    let range = put(&driver, &[(0, 8, 0)]);
    assert_eq!(request(&mut driver, DISCARD, 0, &[range]).0, OK);
    assert_eq!(write(&mut driver, 16, number(16)), OK, "there is room again");
}

#[test]
fn nothing_is_allocated_for_requests() {
    let swap = device(64, 64, vec![]);
    let disk = SwapDisk::new(&swap, Plenty).expect("a disk");
    let features = (V1 | disk.features()) & !(3 << 28);
    let disk = Arc::new(Mutex::new(disk));
    let mut driver = Driver::started(disk.clone(), features, 1);
    let mut count = 0;
    for pass in 0..3 {
        for page in 0..64 {
            driver.put(DATA, &content(page + 1));
            let range = (page * SECTORS_PER_PAGE, 8, 0);
            for kind in [OUT, IN, DISCARD] {
                let data = match kind {
                    OUT => Buf::Out(DATA, PAGE32),
                    IN => Buf::In(DATA + 8192, PAGE32),
                    _ => put_at(&driver, DATA + 16384, &[range]),
                };
                let buffers = prepared(&driver, kind, page * SECTORS_PER_PAGE, &[data]);
                driver.add(0, &buffers);
                let allocated = allocations(|| _ = lock(&disk).process_queue(0));
                // The tables of slabs grow when there is the first of a size.
                count += if pass == 0 { 0 } else { allocated };
                assert_eq!((driver.used(0).len(), driver.bytes(STATUS, 1)), (1, vec![OK]));
            }
            assert!(driver.bytes(DATA + 8192, PAGE) == content(page + 1));
        }
    }
    assert_eq!(count, 0);
}

/// The guest names the same memory again and again, which costs it nothing.
#[test]
fn a_turn_is_bounded_by_work() {
    const MIB: u32 = 1 << 20;
    let swap = device(4096, 4096, vec![]);
    let (mut driver, _) = driver_of(&swap, Plenty);
    driver.put(DATA, &[3; MIB as usize]);
    let buffers = prepared(&driver, OUT, 0, &[Buf::Out(DATA, MIB); 3]);
    driver.add(0, &buffers);
    driver.set(0x50, 0);
    for turn in 1..=3 {
        assert_eq!(driver.used(0), []);
        driver.turn();
        assert_eq!(swap.stats().nbd.pages_written, turn * 256, "turn {turn}");
    }
    assert_eq!((driver.used(0).len(), driver.bytes(STATUS, 1)), (1, vec![OK]));
    // All of the device is 16 pieces of 1024 pages at the least, and a turn has 16 of them.
    let swap = device(40 << 10, 1024, vec![]);
    let (mut driver, _) = driver_of(&swap, Plenty);
    (0..40).for_each(|piece| assert_eq!(write(&mut driver, piece << 10, 3), OK));
    let range = put(&driver, &[(0, 32 << 13, 0)]);
    let buffers = prepared(&driver, DISCARD, 0, &[range]);
    driver.add(0, &buffers);
    driver.set(0x50, 0);
    driver.turn();
    assert_eq!((driver.used(0).len(), swap.stats().store.stored_pages), (0, 40 - 16));
    driver.run();
    assert_eq!((driver.used(0).len(), swap.stats().store.stored_pages), (1, 8));
}
