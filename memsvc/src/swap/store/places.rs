//! The places of a tier that are taken.
//!
//! ```text
//!   free ──▶ taken ──▶ freed: what lies there is of no use, but it lies there
//!    ▲         ▲         │
//!    │         └─────────┤ taken again, before one that is free
//!    └──── discarded ◀───┘ in runs, when there is nothing else to do
//! ```
//! So a tier holds no more than it once had to, however long nothing is discarded.

use std::ops::Range;

/// Places that are discarded at once: 32 MiB, which every NBD server takes.
pub(super) const RUN: u64 = 8192;

/// Places that were freed of late and are remembered: where more were freed, the next one is not far.
const RECENT: usize = 1024;

/// The places of one tier.
#[derive(Debug)]
pub(super) struct Places {
    taken: Bits,
    freed: Bits,
    /// How many of those there are, and some of them: a tier where few are freed is not searched for each.
    freed_count: u64,
    recent: Vec<u64>,
    count: u64,
    /// Where it is looked for the next one that is free, or was freed: pages that are written together lie together.
    next: u64,
    next_freed: u64,
}

impl Places {
    /// So many, all free.
    pub(super) fn new(count: u64) -> Self {
        let (taken, freed) = (Bits::new(count), Bits::new(count));
        let recent = Vec::with_capacity(RECENT);
        Self { taken, freed, freed_count: 0, recent, count, next: 0, next_freed: 0 }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Those that are taken, freed and not discarded yet, or being discarded.
    #[cfg(test)]
    pub(super) fn taken(&self) -> u64 {
        (0..self.count).filter(|place| self.taken.get(*place) || self.freed.get(*place)).count() as u64
    }

    /// Takes one on which something lies, if there is one that was freed.
    pub(super) fn take_freed_one(&mut self) -> Option<u64> {
        if self.freed_count == 0 {
            return None;
        }
        let recent = std::iter::from_fn(|| self.recent.pop()).find(|place| self.freed.get(*place));
        let place = match recent {
            Some(place) => place,
            None => {
                let after = self.freed.first_set(self.next_freed..self.count);
                let place = after.or_else(|| self.freed.first_set(0..self.next_freed))?;
                self.next_freed = place + 1;
                place
            }
        };
        self.taken.set(place, true);
        self.freed.set(place, false);
        self.freed_count -= 1;
        Some(place)
    }

    /// Takes one on which nothing lies, if there is one.
    pub(super) fn take_free(&mut self) -> Option<u64> {
        let is_free = |word: u64, freed: u64| !(word | freed);
        let place = self.taken.first_with(&self.freed, self.next..self.count, is_free);
        let place = place.or_else(|| self.taken.first_with(&self.freed, 0..self.next, is_free))?;
        self.taken.set(place, true);
        self.next = place + 1;
        Some(place)
    }

    /// What lies there is not needed any more. Of a place that was taken.
    pub(super) fn free(&mut self, place: u64) {
        if self.taken.set(place, false) {
            self.freed.set(place, true);
            self.freed_count += 1;
            if self.recent.len() < RECENT {
                self.recent.push(place);
            }
        }
    }

    /// Nothing came to lie there. Of a place that was taken when it was free.
    pub(super) fn give_back(&mut self, place: u64) {
        self.taken.set(place, false);
    }

    /// Some neighbours that were freed, which are nobody's until they are [`Self::discarded`].
    pub(super) fn take_freed(&mut self) -> Option<Range<u64>> {
        let first = self.freed.first_set(0..self.count)?;
        let limit = self.count.min(first + RUN);
        let end = (first..limit).find(|place| !self.freed.get(*place)).unwrap_or(limit);
        self.freed_count -= end - first;
        for place in first..end {
            self.freed.set(place, false);
            self.taken.set(place, true);
        }
        Some(first..end)
    }

    /// They can be taken again.
    pub(super) fn discarded(&mut self, places: Range<u64>) {
        for place in places {
            self.taken.set(place, false);
        }
    }
}

/// A bit for each place.
#[derive(Debug)]
struct Bits(Box<[u64]>);

impl Bits {
    fn new(count: u64) -> Self {
        Self(vec![0; count.div_ceil(64) as usize].into())
    }

    fn get(&self, at: u64) -> bool {
        self.0.get((at / 64) as usize).is_some_and(|word| word & 1 << (at % 64) != 0)
    }

    /// Says what it was.
    fn set(&mut self, at: u64, to: bool) -> bool {
        let Some(word) = self.0.get_mut((at / 64) as usize) else { return to };
        let bit = 1 << (at % 64);
        let was = *word & bit != 0;
        *word = if to { *word | bit } else { *word & !bit };
        was
    }

    fn first_set(&self, range: Range<u64>) -> Option<u64> {
        self.first_with(self, range, |word, _| word)
    }

    /// The first bit in the range that is set in what becomes of its word and that of as many others.
    fn first_with(&self, other: &Self, range: Range<u64>, of: impl Fn(u64, u64) -> u64) -> Option<u64> {
        let mut at = range.start;
        while at < range.end {
            let index = (at / 64) as usize;
            let word = of(*self.0.get(index)?, *other.0.get(index)?) >> (at % 64);
            if word != 0 {
                return Some(at + u64::from(word.trailing_zeros())).filter(|found| *found < range.end);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Neither taken nor being discarded.
    fn available(places: &Places) -> u64 {
        (0..places.count).filter(|place| !places.taken.get(*place)).count() as u64
    }

    proptest! {
        /// No place is handed out twice, none is lost, and what is discarded was freed.
        #[test]
        fn each_place_is_one_thing(count in 1..200u64, steps in prop::collection::vec((0..4u8, any::<u64>()), 0..400)) {
            let mut places = Places::new(count);
            let (mut taken, mut freed) = (BTreeSet::new(), BTreeSet::new());
            // Those on which nothing lay when they were taken.
            let mut free = BTreeSet::new();
            let mut under_way = Vec::new();
            for (step, pick) in steps {
                match step {
                    0 | 1 if step == 0 || taken.is_empty() => {
                        let again = if pick % 4 > 0 { places.take_freed_one() } else { None };
                        match again.or_else(|| places.take_free()) {
                            Some(place) => {
                                prop_assert!(place < count && taken.insert(place), "{} twice", place);
                                prop_assert!(!under_way.iter().any(|range: &Range<u64>| range.contains(&place)));
                                prop_assert_eq!(freed.remove(&place), again.is_some());
                                if again.is_none() { free.insert(place); } else { free.remove(&place); }
                            }
                            None => prop_assert_eq!(available(&places), freed.len() as u64),
                        }
                    }
                    1 => {
                        let place = *taken.iter().nth(pick as usize % taken.len()).unwrap();
                        taken.remove(&place);
                        if pick.is_multiple_of(8) && free.remove(&place) {
                            places.give_back(place);
                        } else {
                            freed.insert(place);
                            places.free(place);
                        }
                    }
                    2 => match places.take_freed() {
                        Some(run) => {
                            prop_assert!(!run.is_empty() && run.clone().all(|place| freed.remove(&place)));
                            under_way.push(run);
                        }
                        None => prop_assert!(freed.is_empty()),
                    },
                    _ => {
                        if let Some(run) = under_way.pop() {
                            places.discarded(run);
                        }
                    }
                }
                let discarding: u64 = under_way.iter().map(|range| range.end - range.start).sum();
                prop_assert_eq!(available(&places), count - taken.len() as u64 - discarding);
            }
        }
    }

    #[test]
    fn places_taken_in_turn_are_neighbours() {
        let mut places = Places::new(130);
        assert_eq!(
            (0..130).map(|_| places.take_free().unwrap()).collect::<Vec<_>>(),
            (0..130).collect::<Vec<_>>()
        );
        places.free(5);
        places.free(64);
        assert_eq!(places.take_free(), None);
        assert_eq!([(); 3].map(|()| places.take_freed_one()), [Some(64), Some(5), None]);
    }
}
