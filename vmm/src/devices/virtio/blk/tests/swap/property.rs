//! The disk against a map: with requests under way that pass each other, tiers, and drivers that are reset.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::swap::known::Known;

const PAGES: u64 = 160;
/// Pages of a request.
const MOST: u64 = 8;
/// Requests under way, of three descriptors each.
const DEPTH: usize = 5;

#[derive(Clone, Debug)]
enum Step {
    Ask(Kind, Range<u64>),
    /// Until the device has nothing to do, or for one turn.
    Settle,
    Turn,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Discard,
    Zero,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![
        3 => Just(Kind::Read),
        5 => Just(Kind::Write),
        1 => Just(Kind::Discard),
        1 => Just(Kind::Zero),
    ];
    let pages = (0..PAGES, 1..=MOST).prop_map(|(first, count)| first..PAGES.min(first + count));
    let step = prop_oneof![
        12 => (kind, pages).prop_map(|(kind, pages)| Step::Ask(kind, pages)),
        2 => Just(Step::Settle),
        4 => Just(Step::Turn),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 1..250)
}

/// A request under way.
struct Asked {
    head: u32,
    place: u64,
    kind: Kind,
    pages: Range<u64>,
    /// What the first page is to be; the next one has the next number.
    first: u64,
}

struct World {
    driver: Driver,
    swap: Swap,
    known: Rc<RefCell<Known>>,
    under_way: Vec<Asked>,
    /// The number of the next request: where its descriptors are.
    next_head: u32,
    features: u64,
}

impl World {
    fn new(tiers: Vec<TierConfig>, seed: u64) -> Self {
        let in_memory = if tiers.is_empty() { PAGES } else { PAGES / 4 };
        let swap = device(PAGES, in_memory, tiers);
        let disk = SwapDisk::new(&swap, Plenty).expect("a disk");
        let features = (V1 | disk.features()) & !(3 << 28);
        let driver = Driver::started(Arc::new(Mutex::new(disk)), features, 1);
        Self { driver, swap, known: Known::new(seed), under_way: Vec::new(), next_head: 0, features }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(kind, pages) => self.ask(kind, pages),
            Step::Settle => self.settle(),
            Step::Turn => self.driver.turn(),
            Step::Reset => self.reset(),
        }
        self.hear();
    }

    /// Asks, once nothing is under way that has to do with these pages.
    fn ask(&mut self, kind: Kind, pages: Range<u64>) {
        let place = (0..DEPTH as u64).find(|place| self.under_way.iter().all(|one| one.place != *place));
        let is_free = |one: &Asked| {
            let is_elsewhere = one.pages.end <= pages.start || pages.end <= one.pages.start;
            is_elsewhere && one.head != self.next_head
        };
        let Some(place) = place.filter(|_| self.under_way.iter().all(is_free)) else {
            self.settle();
            return self.ask(kind, pages);
        };
        let (data, bytes) = (DATA + place * MOST * PAGE as u64, (pages.end - pages.start) as u32 * PAGE32);
        let first = self.known.borrow().next;
        let range = (pages.start * SECTORS_PER_PAGE, bytes / 512, 0);
        let (of, buffer) = match kind {
            Kind::Read => (IN, Buf::In(data, bytes)),
            Kind::Write => {
                self.known.borrow_mut().next += pages.end - pages.start;
                let all: Vec<u8> = (first..).take(pages.clone().count()).flat_map(content).collect();
                self.driver.put(data, &all);
                (OUT, Buf::Out(data, bytes))
            }
            Kind::Discard => (DISCARD, put_at(&self.driver, data, &[range])),
            Kind::Zero => (WRITE_ZEROES, put_at(&self.driver, data, &[range])),
        };
        let buffers =
            prepared_at(&self.driver, HEADER + 128 * place, of, pages.start * SECTORS_PER_PAGE, &[buffer]);
        let head = self.driver.add(0, &buffers).into();
        assert_eq!(head, self.next_head);
        self.next_head = (head + buffers.len() as u32) % u32::from(SIZE);
        self.under_way.push(Asked { head, place, kind, pages, first });
        self.driver.set(0x50, 0);
    }

    /// Takes answers.
    fn hear(&mut self) {
        for (head, len) in self.driver.used(0) {
            let index = self.under_way.iter().position(|one| one.head == head).expect("it is under way");
            let one = self.under_way.swap_remove(index);
            let data = DATA + one.place * MOST * PAGE as u64;
            let status = HEADER + 128 * one.place + STATUS - HEADER;
            assert_eq!(self.driver.bytes(status, 1), [OK], "{:?} {:?}", one.kind, one.pages);
            let written =
                if one.kind == Kind::Read { (one.pages.end - one.pages.start) as u32 * PAGE32 } else { 0 };
            assert_eq!(len, written + 1);
            let mut known = self.known.borrow_mut();
            for (page, at) in one.pages.zip(0..) {
                match one.kind {
                    Kind::Read => known.see(page, &self.driver.bytes(data + at * PAGE as u64, PAGE)),
                    Kind::Write => *known.may_be(page) = vec![one.first + at],
                    Kind::Discard | Kind::Zero => *known.may_be(page) = vec![0],
                }
            }
        }
    }

    /// Until nothing is under way.
    fn settle(&mut self) {
        loop {
            self.driver.run();
            self.hear();
            if self.under_way.is_empty() {
                return;
            }
            self.driver.wait();
        }
    }

    /// What is under way is done or not; after that nothing of it is.
    fn reset(&mut self) {
        self.driver.set(0x70, 0);
        let mut known = self.known.borrow_mut();
        for Asked { kind, pages, first, .. } in self.under_way.drain(..) {
            for (page, at) in pages.zip(0..) {
                match kind {
                    Kind::Read => {}
                    Kind::Write => known.may_be(page).push(first + at),
                    Kind::Discard | Kind::Zero => known.may_be(page).push(0),
                }
            }
        }
        drop(known);
        self.next_head = 0;
        self.driver.start(self.features, 1);
    }

    /// All pages are what they may be, and nothing else is stored.
    fn end(&mut self) {
        for first in (0..PAGES).step_by(MOST as usize) {
            self.ask(Kind::Read, first..PAGES.min(first + MOST));
        }
        self.settle();
        let stats = self.swap.stats();
        assert_eq!((stats.nbd.errors, stats.nbd.refused, stats.store.lost), (0, 0, 0), "{stats:?}");
        assert_eq!(stats.store.stored_pages, self.known.borrow().stored());
        let (reads, writes) = (&stats.latency, stats.nbd.writes);
        assert!(
            reads.reads.count + reads.reads_from_tiers.count <= stats.nbd.reads
                && reads.writes.count <= writes
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// In whatever order requests are done, a page is what was written last, or, if its driver was reset meanwhile, what it was
    /// before.
    #[test]
    fn the_disk_is_a_map_whoever_is_reset(steps in steps(), seed: u64, on_tier: bool) {
        let directory = tempfile::tempdir().expect("a directory");
        let tiers = on_tier.then(|| TierConfig::File(directory.path().to_path_buf()));
        let mut world = World::new(Vec::from_iter(tiers), seed);
        steps.into_iter().for_each(|step| world.step(step));
        world.settle();
        world.end();
    }
}
