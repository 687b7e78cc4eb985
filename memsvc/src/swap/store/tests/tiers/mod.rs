//! The store with tiers below it, which are told to do wrong.

mod property;
mod registers;

use std::sync::Mutex;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::level::Batch;
use super::super::level::READS;
use super::*;
use crate::core::sync::lock;
use crate::guard::Guard;
use crate::swap::tier::{Faults, MemTier};

/// A store with tiers of so many places each, and what goes wrong with them.
struct Rig {
    store: Arc<Store>,
    faults: Vec<Arc<Mutex<Faults>>>,
    // Ends before the store does.
    evictor: Option<Evictor>,
}

impl Rig {
    fn new(memory: u64, tiers: &[u64], seed: u64) -> Self {
        Self::guarded(memory, tiers, seed, Guard::new(|why| panic!("{why}")))
    }

    fn guarded(memory: u64, tiers: &[u64], seed: u64, guard: Guard) -> Self {
        let faults: Vec<Arc<Mutex<Faults>>> = tiers.iter().map(|_| Arc::default()).collect();
        let levels = tiers.iter().zip(&faults).zip(seed..).map(|((places, faults), seed)| {
            let tier = MemTier::new(*places, seed, Arc::clone(faults));
            Level::new("a tier".into(), Box::new(tier), *places, &guard).unwrap()
        });
        let tiers = Tiers::new(levels.collect(), memory).unwrap();
        let objects = Arc::new(Objects::standalone(memory * 2 + (4 << 20), 3).unwrap());
        let limits = Limits { pages: PAGES, bytes: memory, touched: 0 };
        let store = Arc::new(Store::new(limits, objects, Box::new(|| {}), Some(tiers)));
        let evictor = Evictor::spawn(&store, CpuId(2), &guard).unwrap();
        Self { store, faults, evictor }
    }

    fn client(&self, cpu: u8, codec: Codec) -> Client {
        let waker = Arc::new(Waker::new().unwrap());
        let seat = self.store.seat(CpuId(cpu), codec, &waker).unwrap();
        Client { store: Arc::clone(&self.store), waker, seat }
    }

    fn fail(&self, with: impl Fn(&mut Faults)) {
        self.faults.iter().for_each(|faults| with(&mut lock(faults)));
    }

    fn tiers(&self) -> impl Iterator<Item = &Level> {
        self.store.tiers.iter().flat_map(|tiers| tiers.levels())
    }

    /// Pages that are not in memory.
    fn outside(&self) -> Vec<u64> {
        let is_outside = |page: &u64| matches!(self.store.slots.get(*page), Some(Slot::Outside(..)));
        (0..PAGES).filter(is_outside).collect()
    }
}

/// One who waits as a connection's driver does.
struct Client {
    store: Arc<Store>,
    waker: Arc<Waker>,
    seat: Seat,
}

impl Client {
    /// Until something has changed.
    fn wait(&self) {
        let long = Timespec { tv_sec: 60, tv_nsec: 0 };
        let rung = poll(&mut [PollFd::new(&*self.waker, PollFlags::IN)], Some(&long)).unwrap();
        assert_eq!(rung, 1, "nobody rings: {:?}", self.store.stats());
        self.waker.clear();
    }

    fn write(&mut self, page: u64, data: &Page) -> Result<(), NbdError> {
        while self.store.write(&mut self.seat, page, data)? == Stored::Later {
            self.wait();
        }
        Ok(())
    }

    /// Pages one after the other, none of which may be missing once they were promised.
    fn read(&mut self, pages: Range<u64>) -> Result<Vec<Page>, NbdError> {
        loop {
            match self.store.fetch(&self.seat, pages.clone(), true) {
                Fetch::Ready => break,
                Fetch::Later => self.wait(),
                Fetch::Failed(error) => return Err(error),
            }
        }
        let mut read = Vec::new();
        for page in pages {
            let mut into = [0xEE; FRAME_SIZE];
            self.store.read(&mut self.seat, page, &mut into).expect("it was promised");
            read.push(into);
        }
        Ok(read)
    }
}

/// Those that were stored last, and those that were read, are in memory; the others are not.
#[test]
fn who_has_not_been_used_for_long_leaves() {
    let rig = Rig::new(128 << 12, &[PAGES], 1);
    let mut client = rig.client(0, Codec::None);
    for page in 0..100 {
        client.write(page, &page_of(3, page)).unwrap();
    }
    assert!(rig.outside().is_empty(), "there is room for all");
    for page in 100..200 {
        client.read(0..10).unwrap();
        client.write(page, &page_of(3, page)).unwrap();
    }
    let outside = rig.outside();
    assert!(outside.len() >= 72, "{outside:?}");
    assert!(outside.iter().all(|page| (10..150).contains(page)), "{outside:?}");
}

/// Writes pages of a hundred, at random, so many times.
fn overwrite(client: &mut Client, first: u64, times: u32) {
    let mut random = fastrand::Rng::with_seed(first);
    for _ in 0..times {
        let page = first + random.u64(0..100);
        client.write(page, &page_of(3, page)).unwrap();
    }
}

/// A file on a disk with less room than the device: what lies there is written over, and the room that a discard makes is
/// used at once.
#[test]
fn a_disk_that_is_smaller_than_the_device_is_enough_for_what_is_stored() {
    let rig = Rig::new(16 << 12, &[PAGES], 1);
    rig.fail(|faults| faults.room = Some(100));
    let mut client = rig.client(0, Codec::None);
    for turn in 0..3 {
        overwrite(&mut client, turn * 100, 2000);
        client.store.erase(CpuId(0), 0..PAGES);
    }
}

/// However busy the client is.
#[test]
fn a_tier_holds_no_more_than_it_had_to() {
    let rig = Rig::new(16 << 12, &[PAGES], 1);
    overwrite(&mut rig.client(0, Codec::None), 0, 4000);
    let held = lock(&rig.faults[0]).places.len();
    // Those that are under way have a place, too.
    assert!(held <= 100 + Batch::SIZE, "{held} places for 100 pages");
}

/// When everything is full, there is an error, and what was there is there.
#[test]
fn a_full_tier_loses_nothing() {
    let rig = Rig::new(64 << 10, &[50, 20], 1);
    let mut client = rig.client(0, Codec::None);
    let written =
        (0..PAGES).take_while(|page| client.write(*page, &page_of(3, *page)).is_ok()).count() as u64;
    // 70 on tiers, whose records take some of the memory, and what fits into memory.
    assert!((80..86).contains(&written), "{written}");
    assert_eq!(client.write(written, &page_of(3, 99)), Err(NbdError::NoSpace));
    for (page, read) in (0..).zip(client.read(0..64).unwrap()) {
        assert!(read == page_of(3, page), "page {page}");
    }
    // What makes room makes room.
    rig.store.erase(CPU, 0..1);
    assert_eq!(client.write(written, &page_of(3, 99)), Ok(()));
    assert_eq!(client.read(written..written + 1).unwrap(), [page_of(3, 99)]);
    assert!(rig.store.stats().no_room > 0);
}

/// A tier that is away costs an error, and no page; when it is back all goes on.
#[test]
fn a_tier_may_be_away() {
    let rig = Rig::new(64 << 10, &[PAGES], 1);
    let mut client = rig.client(0, Codec::None);
    (0..100).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
    rig.fail(|faults| faults.away = 100);
    let written =
        (100..PAGES).take_while(|page| client.write(*page, &page_of(3, *page)).is_ok()).count() as u64;
    assert!(written < 16, "{written} found room");
    let outside = rig.outside();
    assert_eq!(client.read(outside[0]..outside[0] + 1), Err(NbdError::Io));
    let inside = (0..100 + written).find(|page| !outside.contains(page)).unwrap();
    assert_eq!(client.read(inside..inside + 1).unwrap(), [page_of(3, inside)]);
    rig.fail(|faults| faults.away = 0);
    // The first who asks is refused at once; it is tried again for that.
    let mut tries = 0;
    while client.write(200, &page_of(3, 200)).is_err() {
        tries += 1;
        assert!(tries < 600, "it is not found back");
        std::thread::sleep(Duration::from_millis(100));
    }
    for page in (0..100 + written).chain([200]) {
        assert_eq!(client.read(page..page + 1).unwrap(), [page_of(3, page)], "page {page}");
    }
    let stats = rig.store.stats();
    assert!(stats.tiers[0].timeouts > 0 && stats.lost == 0, "{stats:?}");
}

/// A tier that takes nothing, for whatever reason, is in nobody's way: the next one that does takes the pages, and
/// no write is refused.
#[test]
fn tiers_stand_in_for_those_that_take_nothing() {
    let wrong: [fn(&mut Faults); 3] =
        [|faults| faults.refuse = 100, |faults| faults.full = 100, |faults| faults.away = 100];
    let cases = wrong.iter().flat_map(|first| wrong.iter().map(move |second| (first, second)));
    for (first, second) in cases {
        let rig = Rig::new(64 << 10, &[PAGES, PAGES, PAGES], 1);
        let mut client = rig.client(0, Codec::None);
        first(&mut lock(&rig.faults[0]));
        second(&mut lock(&rig.faults[1]));
        (0..PAGES).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
        for (page, read) in (0..).zip(client.read(0..64).unwrap()) {
            assert!(read == page_of(3, page), "page {page}");
        }
        let taken = |number: usize| rig.store.stats().tiers[number].pages_written;
        assert!((taken(0), taken(1)) == (0, 0) && taken(2) >= PAGES - 16, "{:?}", rig.store.stats());
    }
}

/// When all tiers refuse, so do writes, and reads of what is there; when they do not any more, all goes on.
#[test]
fn a_write_that_all_tiers_refuse_is_refused() {
    let rig = Rig::new(64 << 10, &[PAGES, PAGES], 1);
    let mut client = rig.client(0, Codec::None);
    (0..100).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
    rig.fail(|faults| faults.refuse = 100);
    let refused = (100..PAGES).find(|page| client.write(*page, &page_of(3, *page)).is_err()).unwrap();
    assert!(refused < 116, "{refused} found room");
    rig.fail(|faults| faults.refuse = 0);
    wait_until(|| client.write(refused, &page_of(3, refused)).is_ok());
    for page in 0..=refused {
        assert_eq!(client.read(page..page + 1).unwrap(), [page_of(3, page)], "page {page}");
    }
}

/// A read that fails says so, and once; what was asked for with it is not the next one's failure.
#[test]
fn a_failure_is_of_the_read_that_asked() {
    let wrong: [fn(&mut Faults); 3] =
        [|faults| faults.refuse = 100, |faults| faults.away = 100, |faults| faults.flip = 100];
    for wrong in wrong {
        let rig = Rig::new(64 << 10, &[PAGES], 1);
        let mut client = rig.client(0, Codec::None);
        (0..200).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
        let outside = rig.outside();
        assert!((0..64).all(|page| outside.contains(&page)), "{outside:?}");
        rig.fail(wrong);
        // Each that asks while it fails is told.
        for pages in [0..64, 0..64, 5..6] {
            assert_eq!(client.read(pages), Err(NbdError::Io));
        }
        rig.fail(|faults| (faults.refuse, faults.away, faults.flip) = (0, 0, 0));
        for page in 0..64 {
            assert_eq!(client.read(page..page + 1).unwrap(), [page_of(3, page)], "page {page}");
        }
    }
}

/// Nor is what fails when the read that asked for it has failed already.
#[test]
fn what_fails_later_is_nobodys_failure() {
    let rig = Rig::new(64 << 10, &[PAGES], 1);
    let mut client = rig.client(0, Codec::None);
    let last = PAGES - 1;
    [last].into_iter().chain(0..100).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
    assert!(rig.outside().contains(&last));
    rig.fail(|faults| (faults.hold, faults.refuse) = (true, 100));
    // The second is no page.
    assert_eq!(client.store.fetch(&client.seat, last..last + 2, true), Fetch::Failed(NbdError::Invalid));
    rig.fail(|faults| faults.hold = false);
    wait_until(|| rig.store.stats().tiers[0].errors > 0);
    rig.fail(|faults| faults.refuse = 0);
    assert_eq!(client.read(last..last + 1).unwrap(), [page_of(3, last)]);
}

/// Connections that come, ask, and go leave behind what their tier is still at: that is bounded, and the next one is
/// served, with pages of the tier once it answers.
#[test]
fn connections_that_have_gone_are_in_nobodys_way() {
    let rig = Rig::new(64 << 10, &[PAGES], 1);
    let mut client = rig.client(0, Codec::None);
    (0..200).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
    let outside = rig.outside();
    let inside = (0..200).find(|page| !outside.contains(page)).unwrap();
    rig.fail(|faults| faults.hold = true);
    for _ in 0..100 {
        let gone = rig.client(0, Codec::None);
        for pages in [0..64, 64..128] {
            assert_eq!(gone.store.fetch(&gone.seat, pages, true), Fetch::Later);
        }
    }
    assert_eq!(client.store.fetch(&client.seat, outside[0]..outside[0] + 1, true), Fetch::Later);
    assert_eq!(client.read(inside..inside + 1).unwrap(), [page_of(3, inside)]);
    rig.fail(|faults| faults.hold = false);
    for page in 0..200 {
        assert_eq!(client.read(page..page + 1).unwrap(), [page_of(3, page)], "page {page}");
    }
    assert_eq!(client.write(200, &page_of(3, 200)), Ok(()));
    let read = rig.store.stats().tiers[0].pages_read;
    assert!(read <= READS as u64 + 200, "{read} pages were read");
}

/// Nothing is left of it but the block of that read: neither its other places nor what it was promised.
#[test]
fn a_connection_goes_while_its_tier_is_at_a_read() {
    let rig = Rig::new(64 << 10, &[PAGES], 1);
    let mut client = rig.client(0, Codec::None);
    (0..200).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
    let page = rig.outside()[0];
    rig.fail(|faults| faults.hold = true);
    assert_eq!(client.store.fetch(&client.seat, page..page + 1, true), Fetch::Later);
    let reader = Arc::downgrade(client.seat.reader.as_ref().unwrap());
    let tiers = rig.store.tiers.as_ref().unwrap();
    assert!(tiers.is_pinned(page));
    drop(client);
    // The evictor may just be looking what is pinned.
    wait_until(|| reader.strong_count() == 0);
    assert!(!tiers.is_pinned(page));
    rig.fail(|faults| faults.hold = false);
    wait_until(|| rig.store.stats().tiers[0].pages_read == 1);
}

/// A tier that did not answer when it was to discard places may do so once it is back: pages that are written then
/// do not lie there.
#[test]
fn a_late_discard_takes_no_page_with_it() {
    // No more places than there are pages, so that all are used again.
    let rig = Rig::new(64 << 10, &[200], 1);
    let mut client = rig.client(0, Codec::None);
    (0..200).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
    rig.fail(|faults| (faults.away, faults.late) = (100, true));
    rig.store.erase(CPU, 0..200);
    wait_until(|| lock(&rig.faults[0]).put_off > 0);
    rig.fail(|faults| (faults.away, faults.late) = (0, false));
    for page in 0..200 {
        while client.write(page, &page_of(3, page)).is_err() {}
    }
    for page in 0..200 {
        assert!(client.read(page..page + 1).unwrap()[0] == page_of(3, page), "page {page}");
    }
    // It is done in the end, and the places can be used again.
    rig.store.erase(CPU, 0..200);
    wait_until(|| lock(&rig.faults[0]).places.is_empty());
    wait_until(|| rig.store.stats().tiers[0].stored_pages == 0);
}

/// A tier that is slow to discard keeps nobody from another one.
#[test]
fn a_discard_that_does_not_end_is_not_waited_for() {
    let rig = Rig::new(64 << 10, &[40, 100], 1);
    let mut client = rig.client(0, Codec::None);
    (0..100).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
    assert!(rig.store.stats().tiers.iter().all(|tier| tier.stored_pages > 20), "{:?}", rig.store.stats());
    lock(&rig.faults[1]).hold = true;
    let before = lock(&rig.faults[1]).submitted.len();
    rig.store.erase(CPU, 0..100);
    wait_until(|| lock(&rig.faults[1]).submitted.len() > before);
    // The first tier has places for all.
    (0..36).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
    for page in 0..36 {
        assert!(client.read(page..page + 1).unwrap()[0] == page_of(3, page), "page {page}");
    }
    lock(&rig.faults[1]).hold = false;
    wait_until(|| lock(&rig.faults[1]).places.is_empty());
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed().as_secs() < 60, "it does not come to that");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What was discarded is not on the tier any more, without anybody asking for it.
#[test]
fn places_of_erased_pages_are_discarded() {
    let rig = Rig::new(64 << 10, &[PAGES], 1);
    let mut client = rig.client(0, Codec::None);
    (0..200).for_each(|page| client.write(page, &page_of(3, page)).unwrap());
    assert!(lock(&rig.faults[0]).places.len() > 150);
    rig.store.erase(CPU, 0..200);
    wait_until(|| lock(&rig.faults[0]).places.is_empty());
}

#[test]
fn a_panic_of_the_evictor_is_told_and_holds_nobody_up() {
    let (sender, told) = std::sync::mpsc::channel();
    let rig = Rig::guarded(128 << 12, &[PAGES], 1, Guard::new(move |why| sender.send(why).unwrap()));
    rig.store.tiers.as_ref().unwrap().pressure.break_evictor();
    let why = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(why.contains("\"evict\"") && why.contains("a bug"), "{why}");
    drop(rig);
}
