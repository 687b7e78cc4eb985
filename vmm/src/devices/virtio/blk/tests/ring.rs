//! The disk whose requests the kernel does beside the device (`io_engine` `Async`).

mod clearing;
mod exchange;
mod refusal;

pub(super) use refusal::refuse;

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::absent::Absent;
use super::*;
use crate::devices::virtio::rate::Limit;
use crate::devices::virtio::{SharedDevice, lock};

const PAGE: u32 = 4096;
/// Where requests have their header, status and data, each apart from the others.
const APART: u64 = 0x1_0000;

struct Fixture {
    driver: Driver,
    disk: Arc<Mutex<BlockDevice>>,
    metrics: Arc<BlockMetrics>,
}

fn started_async(image: &Path, aside: u64) -> Fixture {
    with_limits(image, aside, Limits::default())
}

fn with_limits(image: &Path, aside: u64, limits: Limits) -> Fixture {
    let backend = BlockBackend::open(image, false).expect("disk");
    let config = BlockConfig { engine: Engine::Async, limits, ..CONFIG };
    let disk = BlockDevice::new(backend, &config).expect("disk");
    let (metrics, features) = (Arc::clone(disk.metrics()), V1 | disk.features() & !aside & !(3 << 28));
    let disk = Arc::new(Mutex::new(disk));
    let driver = Driver::started(Arc::clone(&disk) as SharedDevice, features, 1);
    Fixture { driver, disk, metrics }
}

/// Adds a request with memory of its own, the number `place`; its head.
fn add(driver: &mut Driver, place: u64, kind: u32, sector: u64, data: &[Buf]) -> u32 {
    let at = BUFFERS + place * APART;
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    driver.put(at, &header);
    driver.put(at + 64, &[0xff]);
    let mut buffers = vec![Buf::Out(at, 16)];
    buffers.extend(data);
    buffers.push(Buf::In(at + 64, 1));
    driver.add(0, &buffers).into()
}

/// Where the data of request `place` is.
fn data(place: u64) -> u64 {
    BUFFERS + place * APART + u64::from(PAGE)
}

fn status(driver: &Driver, place: u64) -> u8 {
    driver.bytes(BUFFERS + place * APART + 64, 1)[0]
}

/// The heads of the next `count` requests that end.
fn ended(driver: &mut Driver, count: usize) -> Vec<u32> {
    let mut heads = Vec::new();
    while heads.len() < count {
        driver.wait();
        heads.extend(driver.used(0).into_iter().map(|(head, _)| head));
    }
    heads
}

/// Each request in its own piece of memory, all of them made available before the first is served.
#[test]
fn requests_of_one_turn_are_all_done() {
    let image = image();
    let Fixture { mut driver, metrics, .. } = started_async(image.path(), 0);
    for sector in 0..4 {
        add(&mut driver, sector, IN, sector, &[Buf::In(data(sector), 512)]);
    }
    driver.set(0x50, 0);
    ended(&mut driver, 4);
    for sector in 0..4 {
        assert_eq!(driver.bytes(data(sector), 512), [sector as u8; 512]);
        assert_eq!(status(&driver, sector), OK);
    }
    assert_eq!((metrics.reads.get(), metrics.read_bytes.get()), (4, 4 * 512));
}

/// A request that waits for memory holds up nothing else: neither the thread nor requests behind it.
#[test]
fn a_request_into_absent_memory_is_overtaken_and_comes_when_the_memory_does() {
    let image = image();
    let Fixture { mut driver, .. } = started_async(image.path(), 0);
    let absent = Absent::new(&driver.ram, data(0), PAGE as usize);
    let first = add(&mut driver, 0, IN, 1, &[Buf::In(data(0), 512)]);
    let second = add(&mut driver, 1, IN, 2, &[Buf::In(data(1), 512)]);
    let flush = add(&mut driver, 2, FLUSH, 0, &[]);
    driver.set(0x50, 0);
    driver.turn();
    absent.wait_for_touch();
    let mut heads = ended(&mut driver, 2);
    heads.sort_unstable();
    assert_eq!(heads, [second, flush]);
    assert_eq!((status(&driver, 0), status(&driver, 1), status(&driver, 2)), (0xff, OK, OK));
    drop(absent);
    assert_eq!(ended(&mut driver, 1), [first]);
    assert_eq!((status(&driver, 0), driver.bytes(data(0), 512)), (OK, vec![1; 512]));
}

/// Memory that a driver has taken back is the guest's: nothing may be read into it after the reset.
#[test]
fn a_reset_waits_for_what_is_under_way() {
    for stop in [(0x70, 0), (0x44, 0)] {
        let image = image();
        let Fixture { mut driver, disk, metrics } = started_async(image.path(), 0);
        driver.set(0x30, 0);
        let absent = Absent::new(&driver.ram, data(0), PAGE as usize);
        add(&mut driver, 0, IN, 1, &[Buf::In(data(0), 512)]);
        driver.set(0x50, 0);
        driver.turn();
        absent.wait_for_touch();
        let is_reset = AtomicBool::new(false);
        thread::scope(|scope| {
            let (mmio, is_reset) = (&driver.mmio, &is_reset);
            scope.spawn(move || {
                mmio.write(stop.0, &u32::to_le_bytes(stop.1));
                is_reset.store(true, Ordering::SeqCst);
            });
            // It cannot be seen that something never comes: this long it has not.
            thread::sleep(Duration::from_millis(200));
            assert!(!is_reset.load(Ordering::SeqCst), "the kernel may still write there");
            let is_free = disk.try_lock().is_ok();
            drop(absent);
            assert!(is_free, "the event loop goes on");
        });
        assert_eq!(driver.bytes(data(0), 512), [1; 512], "it was read before the reset was over");
        driver.run();
        assert_eq!((driver.used(0), status(&driver, 0), metrics.reads.get()), (vec![], 0xff, 0));

        driver.set(0x70, 0);
        driver.start(V1, 1);
        let head = add(&mut driver, 1, IN, 2, &[Buf::In(data(1), 512)]);
        driver.set(0x50, 0);
        assert_eq!(ended(&mut driver, 1), [head], "the next life begins with nothing under way");
    }
}

/// The device goes before the memory that it lends to the kernel.
#[test]
fn a_disk_that_goes_waits_for_what_is_under_way() {
    let image = image();
    let Fixture { mut driver, disk, .. } = started_async(image.path(), 0);
    let ram = driver.ram.clone();
    let absent = Absent::new(&ram, data(0), PAGE as usize);
    add(&mut driver, 0, IN, 1, &[Buf::In(data(0), 512)]);
    driver.set(0x50, 0);
    driver.turn();
    absent.wait_for_touch();
    let is_gone = Arc::new(AtomicBool::new(false));
    let dropping = thread::spawn({
        let is_gone = Arc::clone(&is_gone);
        move || {
            drop((driver, disk));
            is_gone.store(true, Ordering::SeqCst);
        }
    });
    thread::sleep(Duration::from_millis(200));
    assert!(!is_gone.load(Ordering::SeqCst));
    drop(absent);
    dropping.join().expect("gone");
}

#[test]
fn a_flush_follows_what_was_complete_and_a_driver_without_it_has_its_writes_durable() {
    let image = image();
    for (aside, after_write) in [(1 << 9, 1), (0, 0)] {
        let Fixture { mut driver, metrics, .. } = started_async(image.path(), aside);
        driver.put(data(0), &[0xaa; 512]);
        add(&mut driver, 0, OUT, 3, &[Buf::Out(data(0), 512)]);
        driver.set(0x50, 0);
        ended(&mut driver, 1);
        assert_eq!((status(&driver, 0), metrics.syncs.get()), (OK, after_write));
        if aside == 0 {
            add(&mut driver, 1, FLUSH, 0, &[]);
            driver.set(0x50, 0);
            ended(&mut driver, 1);
            assert_eq!((status(&driver, 1), metrics.syncs.get(), metrics.flushes.get()), (OK, 1, 1));
        }
        let mut written = [0; 512];
        image.as_file().read_exact_at(&mut written, 3 * 512).expect("image");
        assert_eq!(written, [0xaa; 512]);
    }
}

#[test]
fn an_image_that_shrinks_gives_an_error_for_what_is_not_there() {
    let image = image();
    let Fixture { mut driver, metrics, .. } = started_async(image.path(), 0);
    image.as_file().set_len(512).expect("shrink");
    add(&mut driver, 0, IN, 0, &[Buf::In(data(0), 1024)]);
    driver.set(0x50, 0);
    ended(&mut driver, 1);
    assert_eq!((status(&driver, 0), metrics.host_errors.get()), (IOERR, 1));
}

/// A driver that names one chain again and again has more requests under way than its ring has entries.
#[test]
fn what_has_no_room_waits_for_what_is_under_way() {
    let image = image();
    let Fixture { mut driver, metrics, .. } = started_async(image.path(), 0);
    let absent = Absent::new(&driver.ram, data(0), PAGE as usize);
    let head = add(&mut driver, 0, IN, 1, &[Buf::In(data(0), 512)]) as u16;
    let rounds = 9;
    for _ in 1..rounds * SIZE {
        driver.offer(0, head);
        driver.set(0x50, 0);
        driver.turn();
    }
    driver.kick(0);
    absent.wait_for_touch();
    assert_eq!(driver.used(0), []);
    drop(absent);
    while metrics.reads.get() < (rounds * SIZE).into() {
        driver.wait();
    }
    assert_eq!(driver.used(0).len(), usize::from(rounds * SIZE));
    assert_eq!(driver.get(0x70), 15, "the device goes on");
}

#[test]
fn limits_hold_for_it_as_well() {
    let image = image();
    let ops = Limit { size: 2, one_time_burst: 0, refill_time: Duration::from_secs(7200) };
    let limits = Limits { ops: Some(ops), bandwidth: None };
    let Fixture { mut driver, metrics, .. } = with_limits(image.path(), 0, limits);
    for place in 0..3 {
        add(&mut driver, place, IN, place, &[Buf::In(data(place), 512)]);
    }
    driver.set(0x50, 0);
    ended(&mut driver, 2);
    driver.run();
    assert_eq!((driver.used(0), metrics.reads.get()), (vec![], 2));
}
