//! A tier that does not answer: what waits for it holds up nothing else.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex as StdMutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::swap::{Address, Server};

/// Of random bytes, so that none becomes smaller.
fn number(page: u64) -> u64 {
    4 * page + 3
}

/// An NBD server whose answers can be held back.
struct Far {
    directory: TempDir,
    gate: Arc<Gate>,
    _server: Server,
}

#[derive(Default)]
struct Gate {
    is_shut: StdMutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, is_shut: bool) {
        *self.is_shut.lock().expect("nobody panics") = is_shut;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let guard = self.is_shut.lock().expect("nobody panics");
        drop(self.opened.wait_while(guard, |is_shut| *is_shut).expect("nobody panics"));
    }
}

impl Far {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (near, far) = (directory.path().join("near"), directory.path().join("far"));
        let guard = Guard::new(|why| panic!("{why}"));
        let server = Server::spawn(&Address::Unix(far.clone()), device(256, 256, vec![]), &guard);
        let gate = Arc::<Gate>::default();
        let listener = UnixListener::bind(near).expect("a socket");
        let its = Arc::clone(&gate);
        thread::spawn(move || listener.incoming().flatten().for_each(|near| relay(near, far.clone(), &its)));
        Self { directory, gate, _server: server.expect("a server") }
    }

    fn tier(&self, timeout: Duration) -> Vec<TierConfig> {
        let uri = format!("nbd+unix:///swap?socket={}", self.directory.path().join("near").display());
        vec![TierConfig::parse(&uri, timeout).expect("a tier")]
    }
}

fn relay(near: UnixStream, far: PathBuf, gate: &Arc<Gate>) {
    let far = UnixStream::connect(far).expect("the server");
    let (near_too, far_too) = (near.try_clone().expect("a stream"), far.try_clone().expect("a stream"));
    let (open, gate) = (Arc::<Gate>::default(), Arc::clone(gate));
    thread::spawn(move || copy(&near_too, &far_too, &open));
    thread::spawn(move || copy(&far, &near, &gate));
}

fn copy(mut from: &UnixStream, mut to: &UnixStream, gate: &Gate) {
    let mut bytes = [0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        gate.pass();
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// A request with header and status at a place of its own.
fn ask(driver: &mut Driver, place: u64, kind: u32, page: u64, data: Buf) -> u32 {
    let buffers = prepared_at(driver, HEADER + 128 * place, kind, page * SECTORS_PER_PAGE, &[data]);
    let head = driver.add(0, &buffers);
    driver.kick(0);
    head.into()
}

/// A disk whose pages are on a tier, but for the last ones.
fn on_tier(far: &Far, timeout: Duration) -> (Swap, Driver) {
    let swap = device(128, 32, far.tier(timeout));
    let (mut driver, _) = driver_of(&swap, Plenty);
    for page in 0..128 {
        driver.put(DATA, &content(number(page)));
        let head = ask(&mut driver, 0, OUT, page, Buf::Out(DATA, PAGE32));
        until_used(&mut driver, head);
        assert_eq!(driver.bytes(STATUS, 1), [OK], "page {page}");
    }
    let stats = swap.stats().store;
    assert!(stats.tier_pages >= 64, "{stats:?}");
    (swap, driver)
}

/// Waits for events until this request is done, and no other.
fn until_used(driver: &mut Driver, head: u32) {
    loop {
        match driver.used(0)[..] {
            [] => driver.wait(),
            [(used, _)] if used == head => return,
            ref other => panic!("{head} is waited for, and done are {other:?}"),
        }
        driver.run();
    }
}

/// Which page is on the tier, and which in memory.
fn far_and_near(driver: &mut Driver, far: &Far) -> (u64, u64) {
    far.gate.set(true);
    let mut places = [None, None];
    for page in 0..128 {
        let head = ask(driver, 1, IN, page, Buf::In(DATA, PAGE32));
        let is_near = driver.used(0) == [(head, PAGE32 + 1)];
        places[usize::from(is_near)].get_or_insert(page);
        if !is_near {
            far.gate.set(false);
            until_used(driver, head);
            far.gate.set(true);
        }
    }
    far.gate.set(false);
    (places[0].expect("one on the tier"), places[1].expect("one in memory"))
}

#[test]
fn a_read_that_waits_for_a_tier_is_passed_by_others() {
    let far = Far::new();
    let (swap, mut driver) = on_tier(&far, Duration::from_secs(600));
    let (away, here) = far_and_near(&mut driver, &far);
    let before = swap.stats().latency;
    far.gate.set(true);
    driver.put(DATA + 8192, &[0xee; PAGE]);
    let waits = ask(&mut driver, 1, IN, away, Buf::In(DATA + 8192, PAGE32));
    assert_eq!(driver.used(0), []);
    for _ in 0..3 {
        assert!(read(&mut driver, here) == content(number(here)));
        // Written again, a page takes the place of its older self.
        assert_eq!(write(&mut driver, here, number(here)), OK);
    }
    let range = put(&driver, &[((here ^ 1) * SECTORS_PER_PAGE, 8, 0)]);
    if here ^ 1 != away {
        assert_eq!(request(&mut driver, DISCARD, 0, &[range]).0, OK);
    }
    far.gate.set(false);
    until_used(&mut driver, waits);
    assert!(driver.bytes(DATA + 8192, PAGE) == content(number(away)));
    let after = swap.stats().latency;
    assert_eq!(after.reads_from_tiers.count - before.reads_from_tiers.count, 1);
}

#[test]
fn what_a_tier_answers_after_a_reset_is_written_to_nobody() {
    let far = Far::new();
    let (_swap, mut driver) = on_tier(&far, Duration::from_secs(600));
    let (away, here) = far_and_near(&mut driver, &far);
    far.gate.set(true);
    ask(&mut driver, 1, IN, away, Buf::In(DATA + 8192, PAGE32));
    driver.set(0x70, 0);
    driver.put(DATA + 8192, &[0xaa; PAGE]);
    driver.start(V1, 1);
    far.gate.set(false);
    // The same page, once it has come.
    let head = ask(&mut driver, 2, IN, away, Buf::In(DATA, PAGE32));
    until_used(&mut driver, head);
    assert!(driver.bytes(DATA, PAGE) == content(number(away)));
    assert!(read(&mut driver, here) == content(number(here)));
    assert_eq!(driver.bytes(DATA + 8192, PAGE), [0xaa; PAGE]);
}

/// The guest ends with requests under way, and nobody waits for what they wait for.
#[test]
fn a_disk_that_goes_does_not_wait_for_a_tier() {
    let far = Far::new();
    let (swap, mut driver) = on_tier(&far, Duration::from_secs(600));
    let (away, _) = far_and_near(&mut driver, &far);
    far.gate.set(true);
    ask(&mut driver, 1, IN, away, Buf::In(DATA, PAGE32));
    drop((driver, swap));
    far.gate.set(false);
}

/// Reads of what is on a tier that stays away fail, and others do not; writes are refused once there is no room.
#[test]
fn a_tier_that_stays_away_costs_what_is_on_it_and_nothing_else() {
    let far = Far::new();
    let (swap, mut driver) = on_tier(&far, Duration::from_secs(2));
    let (away, here) = far_and_near(&mut driver, &far);
    far.gate.set(true);
    let waits = ask(&mut driver, 1, IN, away, Buf::In(DATA, PAGE32));
    assert_eq!(driver.used(0), []);
    assert!(read(&mut driver, here) == content(number(here)));
    until_used(&mut driver, waits);
    assert_eq!(driver.bytes(HEADER + 128 + STATUS - HEADER, 1), [IOERR]);
    assert!(read(&mut driver, here) == content(number(here)));
    // Of which there is most in memory, so that there is no room for this.
    let head = ask(&mut driver, 1, OUT, away, Buf::Out(DATA, PAGE32));
    let stats = swap.stats();
    assert!(stats.nbd.errors >= 1, "{stats:?}");
    if driver.used(0).is_empty() {
        until_used(&mut driver, head);
    }
    far.gate.set(false);
}
