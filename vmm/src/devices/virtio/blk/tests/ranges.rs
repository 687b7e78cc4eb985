//! Discards and write zeroes.

use std::os::unix::fs::MetadataExt;

use super::*;

pub(super) const DISCARD: u32 = 11;
pub(super) const WRITE_ZEROES: u32 = 13;
const OFFERED: u32 = 1 << 13 | 1 << 14;
const UNMAP: u32 = 1;
/// Sectors that a file system may take for itself where a file comes to be in pieces, at the most.
const METADATA: u64 = 64;

/// An image of 4 MiB without a zero in it.
fn full() -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("image");
    file.write_all(&[9; 4 << 20]).expect("image");
    file.as_file().sync_all().expect("image");
    file
}

/// Puts ranges where a request has its data.
pub(super) fn put(driver: &Driver, ranges: &[(u64, u32, u32)]) -> Buf {
    put_at(driver, DATA, ranges)
}

/// The same there.
pub(super) fn put_at(driver: &Driver, at: u64, ranges: &[(u64, u32, u32)]) -> Buf {
    for (i, (sector, sectors, flags)) in (0..).zip(ranges) {
        let bytes = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
        driver.put(at + 16 * i, &bytes);
    }
    Buf::Out(at, 16 * ranges.len() as u32)
}

fn ask(driver: &mut Driver, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
    let data = put(driver, ranges);
    request(driver, kind, 0, &[data]).0
}

/// Whether exactly these sectors of a full image are zeroes.
fn is_zero_in(image: &NamedTempFile, sectors: &[std::ops::Range<usize>]) -> bool {
    let bytes = fs::read(image.path()).expect("image");
    let mut numbered = bytes.chunks(512).enumerate();
    numbered.all(|(i, sector)| {
        let expected = if sectors.iter().any(|range| range.contains(&i)) { 0 } else { 9 };
        sector.iter().all(|byte| *byte == expected)
    })
}

fn blocks(image: &NamedTempFile) -> u64 {
    image.as_file().sync_all().expect("image");
    image.as_file().metadata().expect("image").blocks()
}

#[test]
fn a_discard_makes_holes_in_the_file() {
    let image = full();
    let (mut driver, metrics) = started(image.path(), false);
    driver.set(0x14, 0);
    assert_eq!(driver.get(0x10) & OFFERED, OFFERED);
    let limits = [0x124, 0x128, 0x12c, 0x130, 0x134, 0x138].map(|at| driver.get(at));
    assert_eq!(limits, [262_144, 16, 8, 8192, 16, 1], "limits of the configuration space");
    let before = blocks(&image);
    assert_eq!(ask(&mut driver, DISCARD, &[(64, 1024, 0), (4096, 2048, 0)]), OK);
    assert!(is_zero_in(&image, &[64..1088, 4096..6144]));
    assert!(blocks(&image) <= before - 3072 + METADATA, "the host has its blocks back");
    assert_eq!((metrics.discards.get(), metrics.discarded_bytes.get()), (1, 3072 * 512));
}

#[test]
fn zeroes_are_there_with_and_without_unmap() {
    let image = full();
    let (mut driver, metrics) = started(image.path(), false);
    let before = blocks(&image);
    assert_eq!(ask(&mut driver, WRITE_ZEROES, &[(8, 1024, 0)]), OK);
    assert!(is_zero_in(&image, std::slice::from_ref(&(8..1032))));
    assert!(blocks(&image) + METADATA >= before, "what may not be unmapped keeps its room");
    assert_eq!(ask(&mut driver, WRITE_ZEROES, &[(2048, 1024, UNMAP)]), OK);
    assert!(is_zero_in(&image, &[8..1032, 2048..3072]));
    assert!(blocks(&image) <= before - 1024 + METADATA, "the rest has none");
    assert_eq!((metrics.write_zeroes.get(), metrics.zeroed_bytes.get()), (2, 2048 * 512));
}

/// Not every file can be told to be zero and keep its room (tmpfs cannot).
#[test]
fn zeroes_are_written_where_the_file_cannot_be_told() {
    let mut image = tempfile::Builder::new().tempfile_in("/dev/shm").expect("image in memory");
    image.write_all(&[9; 4 << 20]).expect("image");
    let (mut driver, _) = started(image.path(), false);
    assert_eq!(ask(&mut driver, WRITE_ZEROES, &[(3, 1000, 0)]), OK);
    assert!(is_zero_in(&image, std::slice::from_ref(&(3..1003))));
}

#[test]
fn ranges_that_make_no_sense_change_nothing() {
    let image = full();
    let (mut driver, metrics) = started(image.path(), false);
    let good = (0, 8, 0);
    for (kind, ranges, status) in [
        (DISCARD, vec![good, (8, 8, UNMAP)], UNSUPP),
        (DISCARD, vec![good, (8, 8, 2)], UNSUPP),
        (WRITE_ZEROES, vec![good, (8, 8, 2)], UNSUPP),
        (DISCARD, vec![good, (8191, 2, 0)], IOERR),
        (WRITE_ZEROES, vec![good, (8192, 1, 0)], IOERR),
        (DISCARD, vec![good, (u64::MAX, 1, 0)], IOERR),
        (DISCARD, vec![good; 17], IOERR),
        (DISCARD, vec![], IOERR),
    ] {
        assert_eq!(ask(&mut driver, kind, &ranges), status, "{kind} {ranges:?}");
    }
    put(&driver, &[good; 2]);
    assert_eq!(request(&mut driver, DISCARD, 0, &[Buf::Out(DATA, 24)]), (IOERR, 1));
    assert_eq!(request(&mut driver, DISCARD, 0, &[Buf::Out(RAM - 8, 16)]), (IOERR, 1));
    assert_eq!((metrics.unsupported.get(), metrics.refused.get()), (3, 7));
    assert!(is_zero_in(&image, &[]));
    assert_eq!(ask(&mut driver, DISCARD, &[good, (8, 0, 0)]), OK, "a range of nothing is one");
    assert!(is_zero_in(&image, std::slice::from_ref(&(0..8))));
}

#[test]
fn a_range_has_at_most_so_many_sectors() {
    let image = NamedTempFile::new().expect("image");
    image.as_file().set_len(512 << 20).expect("image");
    let (mut driver, _) = started(image.path(), false);
    for (kind, most) in [(DISCARD, 262_144), (WRITE_ZEROES, 8192)] {
        assert_eq!(ask(&mut driver, kind, &[(0, most, 0)]), OK);
        assert_eq!(ask(&mut driver, kind, &[(0, most + 1, 0)]), IOERR);
    }
}

#[test]
fn who_did_not_ask_for_discards_has_none() {
    let image = full();
    let (mut driver, _) = started_with(image.path(), false, CacheType::Writeback, OFFERED.into());
    assert_eq!(ask(&mut driver, DISCARD, &[(0, 8, 0)]), UNSUPP);
    assert_eq!(ask(&mut driver, WRITE_ZEROES, &[(0, 8, 0)]), UNSUPP);
    drop(driver);
    let (mut driver, _) = started(image.path(), true);
    driver.set(0x14, 0);
    assert_eq!(driver.get(0x10) & OFFERED, 0, "a read-only disk offers none");
    assert_eq!([driver.get(0x124), driver.get(0x130)], [0, 0]);
    assert_eq!(ask(&mut driver, DISCARD, &[(0, 8, 0)]), UNSUPP);
    assert!(is_zero_in(&image, &[]));
}

/// Ranges are work, too, and their request goes on where the last turn left it.
#[test]
fn ranges_take_as_many_turns_as_they_are_long() {
    let image = NamedTempFile::new().expect("image");
    image.as_file().set_len(512 << 20).expect("image");
    let (mut driver, metrics) = started(image.path(), false);
    let most: Vec<_> = (0..4).map(|i| (i * 262_144, 262_144, 0)).collect();
    let data = put(&driver, &most);
    let buffers = prepared(&driver, DISCARD, 0, &[data]);
    driver.add(0, &buffers);
    driver.set(0x50, 0);
    for turn in 1..=4 {
        assert_eq!(driver.used(0), []);
        driver.turn();
        assert_eq!(metrics.discarded_bytes.get(), turn * (128 << 20), "turn {turn}");
    }
    assert_eq!((driver.used(0).len(), driver.bytes(STATUS, 1)), (1, vec![OK]));
}

#[test]
fn a_discard_without_flush_is_durable_when_it_is_answered() {
    let image = full();
    let (mut driver, metrics) = started_with(image.path(), false, CacheType::Writeback, 1 << 9);
    assert_eq!(ask(&mut driver, DISCARD, &[(0, 8, 0)]), OK);
    assert_eq!(ask(&mut driver, WRITE_ZEROES, &[(8, 8, 0)]), OK);
    assert_eq!(metrics.syncs.get(), 2);
}
