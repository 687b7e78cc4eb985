//! A kernel that takes nothing.

use std::sync::mpsc;

use super::*;
use crate::api::sentence;
use crate::devices::virtio::blk::check_ring;

/// Has the kernel refuse a system call to this thread with that error (seccomp).
#[allow(unsafe_code, reason = "no dependency wraps the call")]
pub(in super::super) fn refuse(call: libc::c_long, error: libc::c_int) {
    let step = |code: u32, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let refused = libc::SECCOMP_RET_ERRNO | error as u32;
    // The number of the call: if it is this one, refused, else allowed.
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, refused),
        step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives through the calls. The filter is this thread's alone.
    let set = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(set, "a filter");
}

#[test]
fn a_kernel_that_forbids_io_uring_is_said_in_one_sentence() {
    check_ring().expect("it is there");
    let image = image();
    let refused = thread::spawn(move || {
        refuse(libc::SYS_io_uring_setup, libc::EPERM);
        let backend = BlockBackend::open(image.path(), false).expect("disk");
        let disk = BlockDevice::new(backend, &BlockConfig { engine: Engine::Async, ..CONFIG });
        let drive = serde_json::json!({"drive_id": "a", "is_root_device": false, "io_engine": "Async",
            "path_on_host": image.path()});
        let drive: crate::vm::config::Drive = serde_json::from_value(drive).expect("fits");
        [sentence(&disk.err().expect("no disk")), sentence(&drive.check_file().expect_err("no drive"))]
    });
    for said in refused.join().expect("no panic") {
        assert!(
            said.starts_with("io_uring, which io_engine Async needs, cannot be had: set kernel"),
            "{said}"
        );
        assert!(said.ends_with("or take io_engine Sync: Operation not permitted (os error 1)."), "{said}");
    }
}

/// A disk whose requests the kernel does not take from this thread; it goes within bounded time.
fn refused(error: libc::c_int, then: impl FnOnce(&mut Fixture) + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    let thread = thread::spawn(move || {
        let image = image();
        let mut fixture = started_async(image.path(), 0);
        refuse(libc::SYS_io_uring_enter, error);
        for place in 0..2 {
            add(&mut fixture.driver, place, IN, place, &[Buf::In(data(place), 512)]);
        }
        fixture.driver.set(0x50, 0);
        then(&mut fixture);
        fixture.driver.set(0x70, 0);
        drop(fixture);
        let _ = done.send(());
    });
    is_done.recv_timeout(Duration::from_secs(60)).expect("it comes to an end");
    thread.join().expect("no panic");
}

#[test]
fn requests_that_the_kernel_refuses_for_good_fail_and_the_device_goes_on() {
    refused(libc::EPERM, |Fixture { driver, metrics, .. }| {
        for host_errors in [2, 3] {
            // At once: such a kernel is not asked again after a pause.
            driver.run();
            assert_eq!(driver.used(0).len(), if host_errors == 2 { 2 } else { 1 });
            assert_eq!(metrics.host_errors.get(), host_errors);
            add(driver, 2, FLUSH, 0, &[]);
            driver.set(0x50, 0);
        }
        assert_eq!([0, 1].map(|place| status(driver, place)), [IOERR; 2]);
    });
}

/// A thread without the filter is the kernel that has memory again.
#[test]
fn a_kernel_that_is_short_of_memory_is_asked_again_after_a_pause() {
    for error in [libc::EAGAIN, libc::EBUSY, libc::EINTR] {
        refused(error, |Fixture { driver, .. }| {
            driver.run();
            assert_eq!(driver.used(0), [], "and it comes to rest");
        });
        let image = image();
        let Fixture { mut driver, metrics, .. } = started_async(image.path(), 0);
        thread::scope(|scope| {
            let driver = &mut driver;
            let refused = scope.spawn(move || {
                refuse(libc::SYS_io_uring_enter, error);
                add(driver, 0, IN, 1, &[Buf::In(data(0), 512)]);
                driver.set(0x50, 0);
                driver.run();
                assert_eq!(driver.used(0), []);
            });
            refused.join().expect("no panic");
        });
        ended(&mut driver, 1);
        assert_eq!((status(&driver, 0), metrics.host_errors.get()), (OK, 0));
    }
}

/// Requests that the kernel was offered before the reset must not be done after it.
#[test]
fn what_was_offered_in_vain_is_not_done_in_the_next_life() {
    let image = image();
    let Fixture { mut driver, metrics, .. } = started_async(image.path(), 0);
    thread::scope(|scope| {
        let driver = &mut driver;
        let refused = scope.spawn(move || {
            refuse(libc::SYS_io_uring_enter, libc::EPERM);
            add(driver, 0, IN, 1, &[Buf::In(data(0), 512)]);
            driver.set(0x50, 0);
            ended(driver, 1);
        });
        refused.join().expect("no panic");
    });
    driver.put(data(0), &[0xee; 512]);
    driver.set(0x70, 0);
    driver.start(V1, 1);
    add(&mut driver, 1, IN, 2, &[Buf::In(data(1), 512)]);
    driver.set(0x50, 0);
    ended(&mut driver, 1);
    assert_eq!((status(&driver, 1), metrics.reads.get()), (OK, 1), "it works again");
    assert_eq!(driver.bytes(data(0), 512), [0xee; 512]);
}
