//! The disk against a driver in memory.

mod absent;
mod moved;
mod operator;
mod ranges;
mod ring;
mod swap;
mod turns;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::NamedTempFile;
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::{BlockBackend, BlockConfig, BlockDevice, BlockMetrics, CacheType, Drives, Engine, OpenError};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::rate::Limits;
use crate::devices::virtio::testing::{BUFFERS, Buf, Driver, RAM, SIZE, V1};

const CONFIG: BlockConfig<'static> = BlockConfig {
    drive_id: "root",
    cache: CacheType::Writeback,
    engine: Engine::Sync,
    limits: Limits { bandwidth: None, ops: None },
};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const SECURE_ERASE: u32 = 14;
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 64;
const DATA: u64 = BUFFERS + 4096;

/// An image of 64 sectors, each filled with its number.
fn image() -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("image");
    for sector in 0..64 {
        file.write_all(&[sector; 512]).expect("image");
    }
    file
}

fn started(image: &Path, read_only: bool) -> (Driver, Arc<BlockMetrics>) {
    started_with(image, read_only, CacheType::Writeback, 0)
}

/// With a driver that does without the features `aside`.
fn started_with(image: &Path, read_only: bool, cache: CacheType, aside: u64) -> (Driver, Arc<BlockMetrics>) {
    let backend = BlockBackend::open(image, read_only).expect("disk");
    let disk = BlockDevice::new(backend, &BlockConfig { cache, ..CONFIG }).expect("disk");
    let metrics = Arc::clone(disk.metrics());
    let features = V1 | disk.features() & !aside;
    (Driver::started(Arc::new(Mutex::new(disk)), features & !(3 << 28), 1), metrics)
}

/// Runs a request with the usual three parts: status byte and bytes written.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[Buf]) -> (u8, u32) {
    let buffers = prepared(driver, kind, sector, data);
    let len = driver.request(0, &buffers);
    (driver.bytes(STATUS, 1)[0], len)
}

/// The buffers of such a request.
fn prepared(driver: &Driver, kind: u32, sector: u64, data: &[Buf]) -> Vec<Buf> {
    prepared_at(driver, HEADER, kind, sector, data)
}

/// The same with its header there, and its status 64 bytes behind.
fn prepared_at(driver: &Driver, at: u64, kind: u32, sector: u64, data: &[Buf]) -> Vec<Buf> {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    driver.put(at, &header);
    driver.put(at + STATUS - HEADER, &[0xff]);
    let mut buffers = vec![Buf::Out(at, 16)];
    buffers.extend(data);
    buffers.push(Buf::In(at + STATUS - HEADER, 1));
    buffers
}

/// Makes a chain available that is in a table of its own, at descriptor 0.
fn offer_indirect(driver: &mut Driver, buffers: &[Buf]) {
    let table = BUFFERS + 0x8_0000;
    for (index, buffer) in (0u16..).zip(buffers) {
        let (address, len, flags) = match *buffer {
            Buf::Out(address, len) => (address, len, 0),
            Buf::In(address, len) => (address, len, 2),
        };
        let more = u16::from(usize::from(index) + 1 < buffers.len());
        let descriptor = Descriptor::new(address, len, flags | more, index + 1);
        let at = GuestAddress(table + 16 * u64::from(index));
        driver.ram.write_obj(descriptor, at).expect("table");
    }
    driver.describe(0, 0, Descriptor::new(table, 16 * buffers.len() as u32, 4, 0));
    driver.offer(0, 0);
}

#[test]
fn what_is_written_is_read_and_in_the_file() {
    let image = image();
    let (mut driver, metrics) = started(image.path(), false);
    assert_eq!(driver.get(0x100), 64, "capacity");
    assert_eq!(driver.get(0x114), 512, "block size");
    driver.put(DATA, &[0xaa; 1024]);
    let scattered = [Buf::Out(DATA, 100), Buf::Out(DATA + 100, 924)];
    assert_eq!(request(&mut driver, OUT, 62, &scattered), (OK, 1));
    assert_eq!(request(&mut driver, FLUSH, 0, &[]), (OK, 1));
    assert_eq!(request(&mut driver, IN, 61, &[Buf::In(DATA + 8192, 1536)]), (OK, 1537));
    let mut expected = vec![61; 512];
    expected.extend([0xaa; 1024]);
    assert_eq!(driver.bytes(DATA + 8192, 1536), expected);
    assert_eq!(fs::read(image.path()).expect("image")[61 * 512..], expected);
    assert_eq!(metrics.flushes.get(), 1);
}

#[test]
fn header_and_status_may_be_cut_anywhere() {
    let image = image();
    let (mut driver, _) = started(image.path(), false);
    let mut out = vec![0; 16 + 512];
    out[0] = OUT as u8;
    out[8] = 5;
    out[16..].fill(0xbb);
    driver.put(HEADER, &out);
    let cut = [Buf::Out(HEADER, 3), Buf::Out(HEADER + 3, 525), Buf::In(DATA, 1)];
    assert_eq!(driver.request(0, &cut), 1);
    driver.put(HEADER, &[0; 16]);
    driver.put(HEADER + 8, &[5]);
    assert_eq!(driver.request(0, &[Buf::Out(HEADER, 16), Buf::In(DATA, 513)]), 513);
    let mut expected = vec![0xbb; 512];
    expected.push(OK);
    assert_eq!(driver.bytes(DATA, 513), expected);
}

#[test]
fn the_serial_number_is_the_drive_id() {
    let image = image();
    let (mut driver, _) = started(image.path(), false);
    assert_eq!(request(&mut driver, GET_ID, 0, &[Buf::In(DATA, 20)]), (OK, 21));
    assert_eq!(driver.bytes(DATA, 20), *b"root\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn bad_requests_get_an_error_and_change_nothing() {
    let image = image();
    let before = fs::read(image.path()).expect("image");
    let (mut driver, metrics) = started(image.path(), false);
    for (kind, sector, data, status) in [
        (IN, 64, Buf::In(DATA, 512), IOERR),
        (IN, 63, Buf::In(DATA, 1024), IOERR),
        (OUT, u64::MAX, Buf::Out(DATA, 512), IOERR),
        (OUT, u64::MAX / 512 + 1, Buf::Out(DATA, 512), IOERR),
        (OUT, 0, Buf::Out(DATA, 511), IOERR),
        (OUT, 0, Buf::Out(RAM - 256, 512), IOERR),
        (IN, 0, Buf::In(u64::MAX - 255, 512), IOERR),
        (GET_ID, 0, Buf::In(RAM, 20), IOERR),
        (SECURE_ERASE, 0, Buf::Out(DATA, 16), UNSUPP),
        (u32::MAX, 0, Buf::Out(DATA, 16), UNSUPP),
    ] {
        let got = request(&mut driver, kind, sector, &[data]);
        assert_eq!(got, (status, 1), "{kind} {sector} {data:?}");
    }
    driver.put(HEADER, &[0; 16]);
    assert_eq!(driver.request(0, &[Buf::Out(HEADER, 16)]), 0, "no status byte");
    assert_eq!(driver.request(0, &[Buf::Out(HEADER, 15), Buf::In(STATUS, 1)]), 1, "no header");
    assert_eq!(driver.request(0, &[Buf::Out(RAM, 16), Buf::In(STATUS, 1)]), 1, "header not in RAM");
    assert_eq!(driver.request(0, &[Buf::Out(HEADER, 16), Buf::In(RAM, 1)]), 0, "status not in RAM");
    driver.set(0x100, 1);
    assert_eq!(
        [metrics.refused.get(), metrics.unsupported.get(), metrics.bad_config_writes.get()],
        [5, 2, 1]
    );
    assert_eq!(metrics.bad_requests.get(), 7);
    assert_eq!(fs::read(image.path()).expect("image"), before);
    assert_eq!(request(&mut driver, IN, 1, &[Buf::In(DATA, 512)]), (OK, 513), "it goes on");
}

/// Section 5.2.6.2: a driver that does not flush has its writes on the disk when they are answered.
#[test]
fn writes_of_a_driver_without_flush_are_durable_when_they_are_answered() {
    let image = image();
    for (cache, aside, after_write) in
        [(CacheType::Writeback, 1 << 9, 1), (CacheType::Writeback, 0, 0), (CacheType::Unsafe, 1 << 9, 0)]
    {
        let (mut driver, metrics) = started_with(image.path(), false, cache, aside);
        assert_eq!(request(&mut driver, OUT, 1, &[Buf::Out(DATA, 512)]), (OK, 1));
        assert_eq!(metrics.syncs.get(), after_write, "{cache:?}, without {aside:#x}");
        assert_eq!(request(&mut driver, IN, 1, &[Buf::In(DATA, 512)]), (OK, 513));
        assert_eq!(metrics.syncs.get(), after_write, "a read makes nothing durable");
    }
}

/// A driver may make its ring smaller than a disk's requests are long, and put these into tables of their own.
#[test]
fn a_request_longer_than_a_small_ring_is_served() {
    let image = image();
    let (mut driver, _) = started(image.path(), false);
    let data: Vec<_> = (0..32).map(|sector| Buf::In(DATA + 512 * sector, 512)).collect();
    let buffers = prepared(&driver, IN, 3, &data);
    assert!(buffers.len() > SIZE.into());
    offer_indirect(&mut driver, &buffers);
    driver.kick(0);
    assert_eq!(driver.get(0x70), 15, "no reset is needed");
    assert_eq!(driver.used(0), [(0, 32 * 512 + 1)]);
    assert_eq!(driver.bytes(DATA, 32 * 512), fs::read(image.path()).expect("image")[3 * 512..35 * 512]);
}

#[test]
fn a_read_only_disk_says_so_and_takes_no_writes() {
    let image = image();
    let before = fs::read(image.path()).expect("image");
    let (mut driver, metrics) = started(image.path(), true);
    driver.set(0x14, 0);
    assert_ne!(driver.get(0x10) & 1 << 5, 0, "VIRTIO_BLK_F_RO");
    assert_eq!(request(&mut driver, OUT, 0, &[Buf::Out(DATA, 512)]), (IOERR, 1));
    assert_eq!(metrics.refused.get(), 1);
    assert_eq!(fs::read(image.path()).expect("image"), before);
}

#[test]
fn disks_that_cannot_be_used_are_refused_in_one_sentence() {
    let image = image();
    let open = |path: &Path, read_only| BlockBackend::open(path, read_only);
    assert!(matches!(open(Path::new("/nowhere/disk"), false), Err(OpenError::Missing { .. })));
    assert!(matches!(open(Path::new("/"), true), Err(OpenError::NotADisk { .. })));
    assert!(matches!(open(Path::new("/dev/null"), true), Err(OpenError::NotADisk { .. })));

    let writer = open(image.path(), false).expect("first");
    for read_only in [false, true] {
        assert!(matches!(open(image.path(), read_only), Err(OpenError::InUse { .. })));
    }
    drop(writer);
    let _readers = [open(image.path(), true).expect("one"), open(image.path(), true).expect("two")];
    assert!(matches!(open(image.path(), false), Err(OpenError::InUse { .. })));
}

#[test]
fn the_last_incomplete_sector_is_not_seen() {
    let mut image = image();
    image.write_all(&[0; 511]).expect("tail");
    assert_eq!(BlockBackend::open(image.path(), true).expect("disk").sectors(), 64);
}

/// Clients start guests with files of no bytes, and put others in their place later.
#[test]
fn a_disk_may_have_no_sector() {
    let mut image = NamedTempFile::new().expect("file");
    for tail in [0, 511] {
        image.write_all(&vec![0; tail]).expect("tail");
        assert_eq!(BlockBackend::open(image.path(), false).expect("disk").sectors(), 0);
    }
}

#[test]
fn an_image_that_shrinks_gives_errors_not_zeroes() {
    let image = image();
    let (mut driver, metrics) = started(image.path(), true);
    image.as_file().set_len(512).expect("shrink");
    assert_eq!(request(&mut driver, IN, 0, &[Buf::In(DATA, 1024)]), (IOERR, 1));
    assert_eq!(metrics.host_errors.get(), 1);
}
