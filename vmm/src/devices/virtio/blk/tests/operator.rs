//! Changes by the operator while the guest runs: the file, and the limits.

use std::thread;
use std::time::Duration;

use super::ring::refuse;
use super::*;
use crate::devices::virtio::rate::Limit;
use crate::devices::virtio::{SharedDevice, lock};

/// The interrupt's reason.
const CONFIG_CHANGED: u32 = 2;
const NO_LIMIT: Limit = Limit { size: 0, one_time_burst: 0, refill_time: Duration::ZERO };

struct Fixture {
    driver: Driver,
    disk: Arc<Mutex<BlockDevice>>,
    metrics: Arc<BlockMetrics>,
}

fn limited(image: &Path, limits: Limits) -> Fixture {
    with(image, &BlockConfig { limits, ..CONFIG })
}

fn with(image: &Path, config: &BlockConfig<'_>) -> Fixture {
    let backend = BlockBackend::open(image, false).expect("disk");
    let disk = BlockDevice::new(backend, config).expect("disk");
    let metrics = Arc::clone(disk.metrics());
    let disk = Arc::new(Mutex::new(disk));
    let features = V1 | lock(&disk).features() & !(3 << 28);
    let driver = Driver::started(Arc::clone(&disk) as SharedDevice, features, 1);
    driver.interrupts();
    Fixture { driver, disk, metrics }
}

/// An image of so many sectors of sevens.
fn sevens(sectors: usize) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("image");
    file.write_all(&vec![7; sectors * 512]).expect("image");
    file
}

#[test]
fn another_file_is_read_and_written_and_the_driver_hears_of_its_size() {
    let (old, new) = (image(), sevens(8));
    let Fixture { mut driver, disk, metrics } = limited(old.path(), Limits::default());
    let control = Arc::clone(lock(&disk).control());
    let busy = lock(&disk);
    control.update(Some(new.path()), Limits::default()).expect("exchanged");
    drop(busy);
    driver.run();
    assert_eq!(driver.interrupts().1 & CONFIG_CHANGED, CONFIG_CHANGED);
    assert_eq!([driver.get(0x100), driver.get(0x104)], [8, 0], "capacity");
    assert_eq!(request(&mut driver, IN, 7, &[Buf::In(DATA, 512)]), (OK, 513));
    assert_eq!(driver.bytes(DATA, 512), [7; 512]);
    assert_eq!(request(&mut driver, IN, 8, &[Buf::In(DATA, 512)]), (IOERR, 1), "it ends there");
    driver.put(DATA, &[9; 512]);
    assert_eq!(request(&mut driver, OUT, 1, &[Buf::Out(DATA, 512)]), (OK, 1));
    assert_eq!(fs::read(new.path()).expect("image")[512..1024], [9; 512]);
    assert_eq!(fs::read(old.path()).expect("image")[512..1024], [1; 512]);
    assert_eq!(metrics.updates.get(), 1);
    BlockBackend::open(old.path(), false).expect("the old file is nobody's");
    assert!(matches!(BlockBackend::open(new.path(), false), Err(OpenError::InUse { .. })));
}

#[test]
fn the_same_file_is_looked_at_again_and_stays_locked() {
    let image = image();
    let Fixture { mut driver, disk, .. } = limited(image.path(), Limits::default());
    image.as_file().set_len(65 * 512).expect("grown");
    let control = Arc::clone(lock(&disk).control());
    for _ in 0..2 {
        control.update(Some(image.path()), Limits::default()).expect("its own lock is not in the way");
        driver.run();
        assert_eq!(driver.get(0x100), 65);
        assert!(matches!(BlockBackend::open(image.path(), false), Err(OpenError::InUse { .. })));
    }
    assert_eq!(request(&mut driver, IN, 64, &[Buf::In(DATA, 512)]), (OK, 513));
}

#[test]
fn a_file_that_cannot_be_used_changes_nothing() {
    let (image, other) = (image(), sevens(8));
    let Fixture { mut driver, disk, metrics } = limited(image.path(), Limits::default());
    let control = Arc::clone(lock(&disk).control());
    let _user = BlockBackend::open(other.path(), true).expect("somebody reads it");
    for path in [Path::new("/nowhere/disk"), Path::new("/"), other.path()] {
        control.update(Some(path), Limits { ops: Some(NO_LIMIT), ..Limits::default() }).expect_err("refused");
    }
    driver.run();
    assert_eq!((driver.get(0x100), driver.interrupts(), metrics.updates.get()), (64, (0, 0), 0));
    assert_eq!(request(&mut driver, IN, 63, &[Buf::In(DATA, 512)]), (OK, 513));
}

/// A flush after the exchange is one of the new file alone.
#[test]
fn what_went_to_the_old_file_is_durable_before_the_new_one_comes() {
    for (cache, syncs) in [(CacheType::Writeback, 1), (CacheType::Unsafe, 0)] {
        let (old, new) = (image(), sevens(8));
        let Fixture { mut driver, disk, metrics } = with(old.path(), &BlockConfig { cache, ..CONFIG });
        assert_eq!(request(&mut driver, OUT, 1, &[Buf::Out(DATA, 512)]), (OK, 1));
        lock(&disk).control().update(Some(new.path()), Limits::default()).expect("exchanged");
        driver.run();
        assert_eq!((metrics.updates.get(), metrics.syncs.get()), (1, syncs), "{cache:?}");
    }
}

#[test]
fn a_flush_tells_of_an_old_file_that_could_not_be_made_durable() {
    let (old, new) = (image(), sevens(8));
    let Fixture { mut driver, disk, metrics } = limited(old.path(), Limits::default());
    lock(&disk).control().update(Some(new.path()), Limits::default()).expect("exchanged");
    thread::scope(|scope| {
        let driver = &mut driver;
        let exchanging = scope.spawn(move || {
            refuse(libc::SYS_fdatasync, libc::EIO);
            driver.run();
        });
        exchanging.join().expect("no panic");
    });
    assert_eq!((metrics.updates.get(), metrics.host_errors.get()), (1, 1));
    assert_eq!(request(&mut driver, FLUSH, 0, &[]), (IOERR, 1));
    assert_eq!(request(&mut driver, FLUSH, 0, &[]), (OK, 1), "it is said once");
}

/// The device may not have looked meanwhile, and has the locks of all of them.
#[test]
fn the_file_from_before_can_be_had_again_at_once() {
    let (old, new) = (image(), sevens(8));
    let Fixture { mut driver, disk, .. } = limited(old.path(), Limits::default());
    let control = Arc::clone(lock(&disk).control());
    for runs in [false, true] {
        for path in [new.path(), old.path(), new.path(), old.path()] {
            control.update(Some(path), Limits::default()).expect("nobody else has it");
            if runs {
                driver.run();
            }
        }
        driver.run();
        assert_eq!(driver.get(0x100), 64);
        assert!(matches!(BlockBackend::open(old.path(), false), Err(OpenError::InUse { .. })));
        BlockBackend::open(new.path(), false).expect("the other is nobody's");
    }
}

#[test]
fn a_file_that_another_disk_of_the_guest_has_is_refused_with_its_name() {
    let (first, second) = (image(), sevens(8));
    let mut drives = Drives::default();
    let fixtures = [("first", first.path()), ("second", second.path())].map(|(id, path)| {
        let fixture = limited(path, Limits::default());
        drives.insert(id, lock(&fixture.disk).control());
        fixture
    });
    let [_, mut second_fixture] = fixtures;
    let update = |id, path| drives.update(id, Some(path), Limits::default()).expect("it is there");
    let directory = tempfile::tempdir().expect("directory");
    let linked = directory.path().join("link");
    std::os::unix::fs::symlink(first.path(), &linked).expect("link");
    for path in [first.path(), &linked] {
        let said = update("second", path).expect_err("refused").to_string();
        assert!(said.contains("is in use by drive \"first\" of this guest"), "{said}");
    }
    update("first", first.path()).expect("its own");
    assert!(drives.update("third", Some(second.path()), Limits::default()).is_none());

    // The one that is to go and the one that is to come are both taken, until the device has looked.
    let third = sevens(8);
    update("second", third.path()).expect("nobody has it");
    for path in [second.path(), third.path()] {
        let said = update("first", path).expect_err("refused").to_string();
        assert!(said.contains("by drive \"second\""), "{said}");
    }
    second_fixture.driver.run();
    update("first", second.path()).expect("it is nobody's now");
}

#[test]
fn disks_that_only_read_share_a_file() {
    let (shared, other) = (image(), sevens(8));
    let mut drives = Drives::default();
    let disks = [("first", shared.path()), ("second", other.path())].map(|(id, path)| {
        let disk = BlockDevice::new(BlockBackend::open(path, true).expect("disk"), &CONFIG).expect("disk");
        drives.insert(id, disk.control());
        disk
    });
    let updated = drives.update("second", Some(shared.path()), Limits::default());
    updated.expect("it is there").expect("both only read");
    drop(disks);
}

/// A part of it on each file would be neither.
#[test]
fn a_request_that_is_half_done_begins_again_on_the_new_file() {
    const MIB: u32 = 1 << 20;
    let [old, new] = [(); 2].map(|()| {
        let file = NamedTempFile::new().expect("image");
        file.as_file().set_len(16 << 20).expect("image");
        file
    });
    let Fixture { mut driver, disk, .. } = limited(old.path(), Limits::default());
    driver.put(DATA, &[5; MIB as usize]);
    let buffers = prepared(&driver, OUT, 0, &[Buf::Out(DATA, MIB); 14]);
    driver.add(0, &buffers);
    driver.set(0x50, 0);
    driver.turn();
    assert_eq!(driver.used(0), [], "of 14 MiB, 4 are written");
    lock(&disk).control().update(Some(new.path()), Limits::default()).expect("exchanged");
    driver.run();
    assert_eq!(driver.used(0).len(), 1);
    let written = fs::read(new.path()).expect("image");
    assert!(written[..14 << 20].iter().all(|byte| *byte == 5), "all of it");
}

#[test]
fn requests_beyond_the_limit_wait_until_it_is_lifted() {
    let image = image();
    let refill_time = Duration::from_secs(7200);
    let [bytes, ops] = [1024, 2].map(|size| Some(Limit { size, one_time_burst: 0, refill_time }));
    for limits in [Limits { bandwidth: bytes, ops: None }, Limits { bandwidth: None, ops }] {
        let Fixture { mut driver, disk, metrics } = limited(image.path(), limits);
        let buffers = prepared(&driver, IN, 0, &[Buf::In(DATA, 512)]);
        for _ in 0..4 {
            driver.add(0, &buffers);
        }
        driver.kick(0);
        assert_eq!((driver.used(0).len(), metrics.reads.get()), (2, 2), "{limits:?}");
        assert!(metrics.rate_limited.get() > 0);
        let lifted = Limits { bandwidth: Some(NO_LIMIT), ops: Some(NO_LIMIT) };
        lock(&disk).control().update(None, lifted).expect("no file is named");
        let mut served = 0;
        while served < 2 {
            driver.wait();
            served += driver.used(0).len();
        }
        assert_eq!((driver.get(0x100), metrics.updates.get()), (64, 0));
    }
}

/// Flushes and what makes no sense cost an operation, and no bytes.
#[test]
fn every_request_is_an_operation() {
    let image = image();
    let refill_time = Duration::from_secs(7200);
    let limit = Limit { size: 3, one_time_burst: 0, refill_time };
    let limits = Limits { bandwidth: Some(Limit { size: 1, ..limit }), ops: Some(limit) };
    let Fixture { mut driver, .. } = limited(image.path(), limits);
    assert_eq!(request(&mut driver, FLUSH, 0, &[]), (OK, 1));
    assert_eq!(request(&mut driver, SECURE_ERASE, 0, &[Buf::Out(DATA, 16)]), (UNSUPP, 1));
    assert_eq!(request(&mut driver, GET_ID, 0, &[Buf::In(DATA, 20)]), (OK, 21));
    let buffers = prepared(&driver, FLUSH, 0, &[]);
    driver.add(0, &buffers);
    driver.kick(0);
    assert_eq!(driver.used(0), []);
}

/// Discards stay offered; a file that cannot have holes refuses them.
#[test]
fn a_file_without_holes_refuses_discards_of_a_driver_that_was_offered_them() {
    const DISCARD: u32 = 11;
    let (image, other) = (image(), sevens(8));
    let Fixture { mut driver, disk, .. } = limited(image.path(), Limits::default());
    let range = [0u64.to_le_bytes(), 8u64.to_le_bytes()].concat();
    driver.put(DATA, &range);
    assert_eq!(request(&mut driver, DISCARD, 0, &[Buf::Out(DATA, 16)]), (OK, 1));
    let other = BlockBackend::open(other.path(), false).expect("disk");
    lock(&disk).control().ask(Some(other.without_holes()), Limits::default());
    driver.run();
    assert_eq!(request(&mut driver, DISCARD, 0, &[Buf::Out(DATA, 16)]), (UNSUPP, 1));
}
