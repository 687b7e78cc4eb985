//! Another file behind the disk, while requests are under way.

use super::*;

#[test]
fn another_file_comes_when_all_that_went_to_the_old_one_is_durable() {
    let (old, new) = (image(), NamedTempFile::new().expect("image"));
    new.as_file().write_all_at(&[9; 8192], 0).expect("image");
    let Fixture { mut driver, disk, metrics } = started_async(old.path(), 0);
    let absent = Absent::new(&driver.ram, data(0), PAGE as usize);
    let first = add(&mut driver, 0, OUT, 1, &[Buf::Out(data(0), 512)]);
    driver.set(0x50, 0);
    driver.turn();
    absent.wait_for_touch();
    lock(&disk).control().update(Some(new.path()), Limits::default()).expect("exchanged");
    driver.run();
    let second = add(&mut driver, 1, IN, 1, &[Buf::In(data(1), 512)]);
    driver.set(0x50, 0);
    driver.run();
    assert_eq!((driver.used(0), metrics.syncs.get(), metrics.updates.get()), (vec![], 0, 0));
    drop(absent);
    assert_eq!(ended(&mut driver, 2), [first, second]);
    assert_eq!((metrics.syncs.get(), metrics.updates.get()), (1, 1));
    assert_eq!(driver.bytes(data(1), 512), [9; 512]);
    let mut written = [1; 512];
    old.as_file().read_exact_at(&mut written, 512).expect("image");
    assert_eq!(written, [0; 512], "the old file has what was under way");
    BlockBackend::open(old.path(), false).expect("the old file is nobody's");
}

#[test]
fn a_reset_does_not_lose_the_exchange() {
    let (old, new) = (image(), NamedTempFile::new().expect("image"));
    new.as_file().set_len(8 * 512).expect("image");
    let Fixture { mut driver, disk, metrics } = started_async(old.path(), 0);
    lock(&disk).control().update(Some(new.path()), Limits::default()).expect("exchanged");
    // The sync of the old file has begun, or not.
    for turns in 0..2 {
        (0..turns).for_each(|_| driver.turn());
        driver.set(0x70, 0);
    }
    while metrics.updates.get() == 0 {
        driver.wait();
    }
    driver.start(V1, 1);
    assert_eq!(driver.get(0x100), 8);
    add(&mut driver, 0, IN, 7, &[Buf::In(data(0), 512)]);
    driver.set(0x50, 0);
    ended(&mut driver, 1);
    assert_eq!(status(&driver, 0), OK);
}
