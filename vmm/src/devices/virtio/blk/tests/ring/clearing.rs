//! Discards and zeroes.

use std::sync::mpsc;

use super::super::ranges::{DISCARD, WRITE_ZEROES};
use super::*;

/// Adds a request of these ranges (sector, sectors, flags).
fn add_ranges(driver: &mut Driver, place: u64, kind: u32, ranges: &[(u64, u32, u32)]) -> u32 {
    let range = |(sector, sectors, flags): &(u64, u32, u32)| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    let bytes: Vec<u8> = ranges.iter().flat_map(range).collect();
    driver.put(data(place), &bytes);
    add(driver, place, kind, 0, &[Buf::Out(data(place), bytes.len() as u32)])
}

/// In memory (tmpfs) a file cannot be told to be zero: zeroes are written, 64 KiB at a time.
#[test]
fn what_is_discarded_or_zeroed_reads_as_zeroes_and_is_durable_where_it_has_to_be() {
    const SECTORS: usize = 1024;
    for directory in [std::env::temp_dir(), "/dev/shm".into()] {
        let image = NamedTempFile::new_in(directory).expect("image");
        for (aside, syncs) in [(0, 0), (1 << 9, 4)] {
            image.as_file().write_all_at(&[7; SECTORS * 512], 0).expect("image");
            let Fixture { mut driver, metrics, .. } = started_async(image.path(), aside);
            add_ranges(&mut driver, 0, DISCARD, &[(0, 8, 0), (3, 0, 0), (16, 8, 0)]);
            add_ranges(&mut driver, 1, WRITE_ZEROES, &[(256, 300, 0), (34, 1, 1)]);
            add_ranges(&mut driver, 2, WRITE_ZEROES, &[(40, 0, 0)]);
            add_ranges(&mut driver, 3, DISCARD, &[(1023, 1, 0)]);
            driver.set(0x50, 0);
            ended(&mut driver, 4);
            assert_eq!([0, 1, 2, 3].map(|place| status(&driver, place)), [OK; 4]);
            let is_zero = |sector| matches!(sector, 0..8 | 16..24 | 34 | 256..556 | 1023);
            let expected: Vec<u8> =
                (0..SECTORS).flat_map(|sector| [if is_zero(sector) { 0 } else { 7 }; 512]).collect();
            assert!(fs::read(image.path()).expect("image") == expected, "{image:?}, without {aside:#x}");
            let (discards, zeroes) = (&metrics.discards, &metrics.write_zeroes);
            let counts = [discards, &metrics.discarded_bytes, zeroes, &metrics.zeroed_bytes];
            assert_eq!(counts.map(|count| count.get()), [2, 17 * 512, 2, 301 * 512]);
            assert_eq!(metrics.syncs.get(), syncs);
        }
    }
}

/// A write holds the lock of the file while it waits for memory, and a discard needs that lock.
#[test]
fn a_discard_waits_for_a_write_beside_the_device() {
    let image = image();
    for kind in [DISCARD, WRITE_ZEROES] {
        let Fixture { mut driver, .. } = started_async(image.path(), 0);
        let absent = Absent::new(&driver.ram, data(0), PAGE as usize);
        add(&mut driver, 0, OUT, 1, &[Buf::Out(data(0), 512)]);
        driver.set(0x50, 0);
        driver.turn();
        absent.wait_for_touch();
        // A device that waits would wait for ever.
        let (over, is_over) = mpsc::channel::<()>();
        let memory = thread::spawn(move || {
            let _ = is_over.recv_timeout(Duration::from_secs(10));
            drop(absent);
        });
        add_ranges(&mut driver, 1, kind, &[(8, 8, 0)]);
        driver.set(0x50, 0);
        driver.turn();
        assert_eq!([0, 1].map(|place| status(&driver, place)), [0xff; 2], "the device has not waited");
        drop(over);
        ended(&mut driver, 2);
        memory.join().expect("no panic");
        assert_eq!([0, 1].map(|place| status(&driver, place)), [OK; 2]);
    }
}
