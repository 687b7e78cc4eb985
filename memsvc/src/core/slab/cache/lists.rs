//! Slabs of a class that have free places: two lists, empty and partial, each of reserve slabs and of others.
//! Links are numbers in the slabs' entries.

use super::{Cache, SlabId, Span};

/// No slab, in links.
pub(super) const NIL: u32 = u32::MAX;
/// Slabs with free places that a class has before it returns one that became empty at once (`MIN_PARTIAL`,
/// mm/slub.c).
const MIN_PARTIAL: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Unlisted,
    Partial,
    Empty,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) head: u32,
    pub(super) len: u32,
}

impl Ends {
    pub(super) const NONE: Ends = Ends { head: NIL, len: 0 };
}

/// Which list this is.
pub(super) fn ends(list: List, reserve: bool) -> usize {
    2 * usize::from(list == List::Empty) + usize::from(reserve)
}

impl Cache {
    /// Puts a slab into the list where it belongs, or out of the cache when it is empty and one too many.
    pub(super) fn settle(&mut self, slab: SlabId) -> Option<Span> {
        self.relist(slab);
        let entry = &self.slabs[slab.0 as usize];
        let listed = |list| self.lists[ends(list, false)].len;
        let too_many = entry.reserve || listed(List::Partial) + listed(List::Empty) > MIN_PARTIAL;
        (entry.list == List::Empty && too_many).then(|| self.remove(slab))
    }

    pub(super) fn relist(&mut self, slab: SlabId) {
        let entry = &self.slabs[slab.0 as usize];
        let places = u32::from(self.class.class().places(entry.span.frames));
        let groups = self.groups(slab);
        let list = if entry.isolated || !groups.iter().any(|group| group.free != 0 && group.holder == 0) {
            List::Unlisted
        } else if groups.iter().all(|group| group.holder == 0)
            && groups.iter().map(|group| group.free.count_ones()).sum::<u32>() == places
        {
            List::Empty
        } else {
            List::Partial
        };
        if list != entry.list {
            self.unlist(slab);
            self.enlist(slab, list);
        }
    }

    fn enlist(&mut self, slab: SlabId, list: List) {
        let reserve = self.slabs[slab.0 as usize].reserve;
        let mut next = NIL;
        if list != List::Unlisted {
            let ends = &mut self.lists[ends(list, reserve)];
            next = std::mem::replace(&mut ends.head, slab.0);
            ends.len += 1;
        }
        if let Some(next) = self.slabs.get_mut(next as usize) {
            next.prev = slab.0;
        }
        let entry = &mut self.slabs[slab.0 as usize];
        (entry.list, entry.prev, entry.next) = (list, NIL, next);
    }

    pub(super) fn unlist(&mut self, slab: SlabId) {
        let super::Slab { list, reserve, prev, next, .. } = self.slabs[slab.0 as usize];
        if list == List::Unlisted {
            return;
        }
        let ends = &mut self.lists[ends(list, reserve)];
        ends.len -= 1;
        match self.slabs.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => ends.head = next,
        }
        if let Some(next) = self.slabs.get_mut(next as usize) {
            next.prev = prev;
        }
        self.slabs[slab.0 as usize].list = List::Unlisted;
    }
}
