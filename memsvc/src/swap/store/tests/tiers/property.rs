//! A store with tiers against a map: whatever tiers do, and whoever goes in the middle of it.

use super::super::super::level::Batch;
use super::*;

#[derive(Clone, Debug)]
struct Trouble {
    refuse: u32,
    full: u32,
    away: u32,
    flip: u32,
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let percent = || prop_oneof![3 => Just(0), 1 => 0..50u32, 1 => Just(100)];
    (percent(), percent(), percent(), percent()).prop_map(|(refuse, full, away, flip)| Trouble {
        refuse,
        full,
        away,
        flip,
    })
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u8, u64),
    Erase(u64, u64),
    Read(u64, u64),
    Trouble(Trouble),
    /// Operations begin and do not end.
    Hold,
    /// The connection goes, and has just asked for some pages and offered this one; another comes.
    Leave(u64, u64, u8, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (0..PAGES, any::<u8>(), 0..50u64).prop_map(|(page, kind, seed)| Step::Write(page, kind, seed)),
        4 => (0..PAGES, 0..20u64).prop_map(|(page, len)| Step::Erase(page, page + len)),
        6 => (0..PAGES, 1..64u64).prop_map(|(page, len)| Step::Read(page, len)),
        2 => trouble().prop_map(Step::Trouble),
        2 => Just(Step::Hold),
        1 => (0..PAGES, 1..64u64, any::<u8>(), 0..50u64)
            .prop_map(|(page, len, kind, seed)| Step::Leave(page, len, kind, seed)),
    ];
    prop::collection::vec(step, 1..150)
}

/// How it ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// All steps are done, and tiers do right again.
    Well,
    /// Before this step the tiers go for good, with what they have and are at.
    WithoutTiers(usize),
    /// Before this step all goes, whatever is under way.
    Gone(usize),
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        2 => Just(End::Well),
        1 => (0..150usize).prop_map(End::WithoutTiers),
        1 => (0..150usize).prop_map(End::Gone),
    ]
}

struct World {
    rig: Rig,
    client: Client,
    codec: Codec,
    model: HashMap<u64, Page>,
    /// Places of all tiers.
    places: u64,
    /// Reads of what is on tiers may fail now.
    may_fail: bool,
    /// Tiers have done wrong: they may still rest.
    was_trouble: bool,
}

impl World {
    fn new(codec: Codec, places: &[u64], seed: u64) -> Self {
        let rig = Rig::new(64 << 10, places, seed);
        let client = rig.client(0, codec);
        let places = places.iter().sum();
        Self { rig, client, codec, model: HashMap::new(), places, may_fail: false, was_trouble: false }
    }

    /// Pages that take a place on a tier, or may.
    fn stored(&self) -> u64 {
        self.model.values().filter(|page| same_filled(page).is_none()).count() as u64
    }

    fn expected(&self, page: u64) -> Page {
        self.model.get(&page).copied().unwrap_or([0; FRAME_SIZE])
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Write(page, kind, seed) => {
                let data = page_of(kind, seed);
                self.rig.fail(|faults| faults.hold = false);
                match self.client.write(page, &data) {
                    Ok(()) => _ = self.model.insert(page, data),
                    Err(error) => {
                        prop_assert_eq!(error, NbdError::NoSpace);
                        // Those under way, and what they take the place of, have places, too.
                        let is_full = self.stored() + 2 * Batch::SIZE as u64 >= self.places;
                        prop_assert!(self.was_trouble || is_full, "{:?}", self.rig.store.stats());
                    }
                }
            }
            Step::Erase(from, to) => {
                self.rig.store.erase(CPU, from..to);
                (from..to).for_each(|page| _ = self.model.remove(&page));
            }
            Step::Read(from, len) => {
                self.rig.fail(|faults| faults.hold = false);
                let pages = from..(from + len).min(PAGES);
                match self.client.read(pages.clone()) {
                    Ok(read) => {
                        for (page, read) in pages.clone().zip(read) {
                            prop_assert!(read == self.expected(page), "page {}", page);
                        }
                    }
                    Err(error) => {
                        prop_assert_eq!(error, NbdError::Io);
                        // Nobody comes back into memory by being read.
                        let outside = self.rig.outside();
                        prop_assert!(self.may_fail && pages.clone().any(|page| outside.contains(&page)));
                    }
                }
            }
            Step::Trouble(Trouble { refuse, full, away, flip }) => {
                self.may_fail = self.rig.evictor.is_none() || refuse + away + flip > 0;
                self.was_trouble = true;
                self.rig.fail(|faults| {
                    (faults.refuse, faults.full, faults.away, faults.flip) = (refuse, full, away, flip);
                });
            }
            Step::Hold => self.rig.fail(|faults| faults.hold = true),
            Step::Leave(page, len, kind, seed) => {
                self.rig.fail(|faults| faults.hold = true);
                let pages = page..(page + len).min(PAGES);
                let _ = self.client.store.fetch(&self.client.seat, pages, true);
                let data = page_of(kind, seed);
                if self.client.store.write(&mut self.client.seat, page, &data) == Ok(Stored::Now) {
                    self.model.insert(page, data);
                }
                self.client = self.rig.client(0, self.codec);
            }
        }
        Ok(())
    }

    /// Tiers do right again: nothing is missing, and they keep nothing that is not needed.
    fn end_well(&mut self) -> Result<(), TestCaseError> {
        self.rig.fail(|faults| {
            (faults.refuse, faults.full, faults.away, faults.flip, faults.hold) = (0, 0, 0, 0, false);
        });
        // What failed while there was trouble has been said to who asked then.
        for page in 0..PAGES {
            let read = self.client.read(page..page + 1).unwrap();
            prop_assert!(read[0] == self.expected(page), "page {}", page);
        }
        let stats = self.rig.store.stats();
        let stored = self.model.values().filter(|page| same_filled(page) != Some(0)).count() as u64;
        let is_same = |page: &&Page| same_filled(page).is_some_and(|word| word != 0);
        let same = self.model.values().filter(is_same).count() as u64;
        prop_assert_eq!((stats.stored_pages, stats.same_filled_pages, stats.lost), (stored, same, 0));
        prop_assert!(
            stats.tier_pages <= stored - same && stats.record_bytes <= stats.stored_bytes,
            "{:?}",
            stats
        );
        let failed = stats.tiers.iter().map(|tier| tier.errors + tier.timeouts).sum::<u64>();
        prop_assert!(failed == 0 || self.was_trouble);

        self.rig.store.erase(CPU, 0..PAGES);
        for (tier, faults) in self.rig.tiers().zip(&self.rig.faults) {
            // A write that was not answered may still be done: its place is never used again. What a tier refused to
            // discard may stay there: nobody needs it.
            wait_until(|| {
                let faults = lock(faults);
                let kept =
                    faults.places.keys().filter(|place| !faults.refused.contains(place)).count() as u64;
                tier.taken() == faults.unanswered && kept <= faults.unanswered
            });
        }
        Ok(())
    }

    /// Tiers are gone: what is in memory is right, and nothing else is read.
    fn end_without_tiers(&mut self) -> Result<(), TestCaseError> {
        let outside = self.rig.outside();
        for page in 0..PAGES {
            match self.client.read(page..page + 1) {
                Ok(read) => prop_assert!(read[0] == self.expected(page), "page {}", page),
                Err(error) => {
                    prop_assert!(error == NbdError::Io && outside.contains(&page), "page {}", page);
                }
            }
        }
        self.rig.store.erase(CPU, 0..PAGES);
        Ok(())
    }

    /// Nothing is stored, and nothing left of what was.
    fn is_empty(&mut self) -> Result<(), TestCaseError> {
        self.rig.evictor = None;
        let stats = self.rig.store.stats();
        prop_assert_eq!((stats.stored_pages, stats.incompressible_pages, stats.stored_bytes), (0, 0, 0));
        prop_assert_eq!(stats.tier_pages, 0);
        prop_assert_eq!(stats.tiers.iter().map(|tier| tier.stored_pages).sum::<u64>(), 0);
        self.rig.store.objects().shrink(CPU, true, || true);
        let slabs = self.rig.store.objects().info().caches.iter().map(|cache| cache.slabs).sum::<u64>();
        prop_assert_eq!(slabs, 0);
        Ok(())
    }

    /// All goes, and is not waited for what never ends: nobody has any of it any more.
    fn go(self) -> Result<(), TestCaseError> {
        let Self { rig, client, .. } = self;
        let (store, objects) = (Arc::downgrade(&rig.store), Arc::downgrade(&rig.store.objects));
        let faults = rig.faults.clone();
        drop((rig, client));
        prop_assert!(store.upgrade().is_none() && objects.upgrade().is_none());
        for faults in &faults {
            prop_assert_eq!(Arc::strong_count(faults), 1, "a tier is still there");
            prop_assert_eq!(&lock(faults).rules_broken, &Vec::<String>::new());
        }
        Ok(())
    }
}

proptest! {
    /// Whatever tiers do, what is read is what was written, and what could not be written is as it was; once they do
    /// right again nothing is missing; and whoever goes, nothing is left behind.
    #[test]
    fn is_a_map_whatever_tiers_do_and_whoever_goes(
        steps in steps(),
        end in end(),
        codec in 0..3usize,
        places in prop::collection::vec(1..400u64, 1..3),
        seed: u64,
    ) {
        let mut world = World::new(Codec::ALL[codec], &places, seed);
        for (number, step) in steps.into_iter().enumerate() {
            match end {
                End::Gone(at) if at == number => {
                    // With what is under way, or what has just ended.
                    world.rig.fail(|faults| faults.hold |= at % 2 == 0);
                    break;
                }
                End::WithoutTiers(at) if at == number => {
                    world.rig.evictor = None;
                    (world.may_fail, world.was_trouble) = (true, true);
                }
                _ => {}
            }
            world.step(step)?;
        }
        match end {
            End::Well => world.end_well().and_then(|()| world.is_empty())?,
            End::WithoutTiers(_) => {
                world.rig.evictor = None;
                world.end_without_tiers().and_then(|()| world.is_empty())?;
            }
            End::Gone(_) => {}
        }
        world.go()?;
    }
}
