//! The work of one turn of the event loop for a disk, and that the next one goes on.

use std::os::unix::fs::FileExt;

use super::*;

const MIB: usize = 1 << 20;
/// What a turn moves, and what the pieces of a request name again and again.
const TURN: usize = 4 * MIB;
const PIECE: u32 = 2 << 20;

/// An image of zeroes.
fn large() -> NamedTempFile {
    let file = NamedTempFile::new().expect("image");
    file.as_file().set_len(64 * MIB as u64).expect("image");
    file
}

fn at(image: &NamedTempFile, offset: usize) -> u8 {
    let mut byte = [0];
    image.as_file().read_exact_at(&mut byte, offset as u64).expect("image");
    byte[0]
}

#[test]
fn a_long_write_takes_several_turns_and_is_whole() {
    let image = large();
    let (mut driver, metrics) = started(image.path(), false);
    driver.put(DATA, &[5; PIECE as usize]);
    driver.put(DATA + u64::from(PIECE) - 1, &[6]);
    let data = [Buf::Out(DATA, PIECE); 9];
    let buffers = prepared(&driver, OUT, 8, &data);
    let head = driver.add(0, &buffers);
    driver.set(0x50, 0);
    for turn in 1..=4 {
        driver.turn();
        let done = 8 * 512 + turn * TURN;
        assert_eq!([at(&image, done - 1), at(&image, done)], [6, 0], "turn {turn}");
        assert_eq!(driver.used(0), [], "turn {turn}");
    }
    driver.turn();
    assert_eq!(driver.used(0), [(u32::from(head), 1)]);
    assert_eq!(driver.bytes(STATUS, 1), [OK]);
    let mut expected = vec![5; PIECE as usize];
    expected[PIECE as usize - 1] = 6;
    let written = fs::read(image.path()).expect("image");
    assert!(written[8 * 512..][..9 * PIECE as usize] == expected.repeat(9), "all of it, in order");
    assert_eq!((metrics.writes.get(), metrics.written_bytes.get()), (1, 9 * u64::from(PIECE)));

    // The next request begins at its own beginning.
    assert_eq!(request(&mut driver, OUT, 0, &[Buf::Out(DATA, 512)]), (OK, 1));
    assert_eq!(at(&image, 0), 5);
}

#[test]
fn requests_that_name_the_same_memory_share_a_turn() {
    let image = large();
    let (mut driver, metrics) = started(image.path(), false);
    let buffers = prepared(&driver, IN, 0, &[Buf::In(DATA, PIECE)]);
    for _ in 0..5 {
        driver.add(0, &buffers);
    }
    driver.set(0x50, 0);
    for served in [2, 2, 1] {
        driver.turn();
        assert_eq!(driver.used(0).len(), served);
    }
    driver.run();
    assert_eq!((driver.used(0).len(), metrics.reads.get()), (0, 5));
}

#[test]
fn a_turn_waits_for_the_disk_once() {
    let image = large();
    let (mut driver, metrics) = started(image.path(), false);
    let buffers = prepared(&driver, FLUSH, 0, &[]);
    for _ in 0..3 {
        driver.add(0, &buffers);
    }
    driver.set(0x50, 0);
    for _ in 0..3 {
        driver.turn();
        assert_eq!(driver.used(0).len(), 1);
    }
    assert_eq!(metrics.syncs.get(), 3);
}

#[test]
fn a_reset_in_the_middle_of_a_request_leaves_nothing_of_it() {
    let image = large();
    let (mut driver, _) = started(image.path(), false);
    driver.put(DATA, &[5; PIECE as usize]);
    let buffers = prepared(&driver, OUT, 0, &[Buf::Out(DATA, PIECE); 9]);
    driver.add(0, &buffers);
    driver.set(0x50, 0);
    driver.turn();
    driver.set(0x70, 0);
    driver.start(V1, 1);
    driver.put(DATA, &[7; 512]);
    assert_eq!(request(&mut driver, OUT, 0, &[Buf::Out(DATA, 512)]), (OK, 1));
    assert_eq!([at(&image, 0), at(&image, 512), at(&image, TURN)], [7, 5, 0]);
}
