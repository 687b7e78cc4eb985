//! A map of the pages of a swap device under test: what each may be, whoever was cut off.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(crate) const PAGE: usize = 4096;

/// What is known of pages. A write that was cut off leaves each of its pages as it was or as it was to be.
#[derive(Debug)]
pub(crate) struct Known {
    /// By page, the numbers of contents that it may have; 0 is of nothing.
    may_be: BTreeMap<u64, Vec<u64>>,
    pub(crate) next: u64,
    pub(crate) random: fastrand::Rng,
    /// Pages that were found as they had been, and as they were to be, after a write of them was cut off.
    pub(crate) old: u64,
    pub(crate) new: u64,
    /// Writes that were cut off when some of their bytes had been handed out, and some had not.
    pub(crate) cut: u64,
}

impl Known {
    /// Nothing is stored.
    pub(crate) fn new(seed: u64) -> Rc<RefCell<Self>> {
        let random = fastrand::Rng::with_seed(seed);
        Rc::new(RefCell::new(Self { may_be: BTreeMap::new(), next: 1, random, old: 0, new: 0, cut: 0 }))
    }

    pub(crate) fn may_be(&mut self, page: u64) -> &mut Vec<u64> {
        self.may_be.entry(page).or_insert_with(|| vec![0])
    }

    /// Pages that are not nothing, once all have been seen.
    pub(crate) fn stored(&self) -> u64 {
        self.may_be.values().filter(|may_be| may_be[..] != [0]).count() as u64
    }

    pub(crate) fn see(&mut self, page: u64, data: &[u8]) {
        let may_be = self.may_be(page);
        let found = may_be.iter().position(|number| content(*number) == data);
        let found = found.unwrap_or_else(|| panic!("page {page} is none of {may_be:?}"));
        let was_cut = may_be.len() > 1;
        *may_be = vec![may_be[found]];
        match found {
            _ if !was_cut => {}
            0 => self.old += 1,
            _ => self.new += 1,
        }
    }
}

/// Of one word, packed, or random; nothing but 0 is zeroes.
pub(crate) fn content(number: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut random = fastrand::Rng::with_seed(number);
    match number {
        0 => {}
        number if number % 4 == 1 => {
            page.as_chunks_mut::<8>().0.fill(number.to_ne_bytes());
        }
        number => random.fill(&mut page[..if number % 4 == 2 { 900 } else { PAGE }]),
    }
    page
}
