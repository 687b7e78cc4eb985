//! Which places of a tier are taken.
//!
//! ```text
//!   free ──▶ taken ──▶ freed: what lies there is of no use, but it lies there
//!    ▲         ▲         │
//!    │         └─────────┤ taken again
//!    └──── discarded ◀───┘ in runs, when there is nothing else to do
//! ```

use std::ops::Range;

/// Places that are discarded at once: 32 MiB, which every NBD server takes.
pub(super) const RUN: u64 = 8192;

/// The places of one tier.
#[derive(Debug)]
pub(super) struct Places {
    taken: Bits,
    freed: Bits,
    count: u64,
    /// Where it is looked for the next one: pages that are written together lie together.
    next: u64,
}

impl Places {
    /// So many, all free.
    pub(super) fn new(count: u64) -> Self {
        let (taken, freed) = (Bits::new(count), Bits::new(count));
        Self { taken, freed, count, next: 0 }
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

    /// Takes one, if there is one.
    pub(super) fn take(&mut self) -> Option<u64> {
        let place =
            self.taken.first_clear(self.next..self.count).or_else(|| self.taken.first_clear(0..self.next))?;
        self.taken.set(place, true);
        self.freed.set(place, false);
        self.next = place + 1;
        Some(place)
    }

    /// What lies there is not needed any more. Of a place that was taken.
    pub(super) fn free(&mut self, place: u64) {
        if self.taken.set(place, false) {
            self.freed.set(place, true);
        }
    }

    /// Some neighbours that were freed, which are nobody's until they are [`Self::discarded`].
    pub(super) fn take_freed(&mut self) -> Option<Range<u64>> {
        let first = self.freed.first_set(0..self.count)?;
        let limit = self.count.min(first + RUN);
        let end = (first..limit).find(|place| !self.freed.get(*place)).unwrap_or(limit);
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

    fn first_clear(&self, range: Range<u64>) -> Option<u64> {
        self.first(range, |word| !word)
    }

    fn first_set(&self, range: Range<u64>) -> Option<u64> {
        self.first(range, |word| word)
    }

    /// The first bit in the range that is set in what becomes of its word.
    fn first(&self, range: Range<u64>, of: impl Fn(u64) -> u64) -> Option<u64> {
        let mut at = range.start;
        while at < range.end {
            let word = of(*self.0.get((at / 64) as usize)?) >> (at % 64);
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
            let mut under_way = Vec::new();
            for (step, pick) in steps {
                match step {
                    0 | 1 if step == 0 || taken.is_empty() => match places.take() {
                        Some(place) => {
                            prop_assert!(place < count && taken.insert(place), "{} twice", place);
                            prop_assert!(!under_way.iter().any(|range: &Range<u64>| range.contains(&place)));
                            freed.remove(&place);
                        }
                        None => prop_assert_eq!(available(&places), 0),
                    },
                    1 => {
                        let place = *taken.iter().nth(pick as usize % taken.len()).unwrap();
                        taken.remove(&place);
                        freed.insert(place);
                        places.free(place);
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
            (0..130).map(|_| places.take().unwrap()).collect::<Vec<_>>(),
            (0..130).collect::<Vec<_>>()
        );
        assert_eq!(places.take(), None);
        places.free(5);
        places.free(64);
        assert_eq!((places.take(), places.take(), places.take()), (Some(5), Some(64), None));
    }
}
