//! The slabs of one size class, behind the lock of the class.
//!
//! ```text
//!   slabs    one entry each: base frame, frames, list links                 20 bytes
//!   groups   for each group of each slab: bits of free places, who holds it  8 bytes
//!   owners   movable slabs only: for each place, whose handle it is          4 bytes
//!
//!            ┌──────────┐ a place is freed  ┌─────────┐ the last one is ┌───────┐
//!   insert ─▶│ unlisted │◀─────────────────▶│ partial │◀───────────────▶│ empty │─▶ remove
//!            └──────────┘ nothing left      └─────────┘                 └───────┘
//! ```
//! A place that is ready in a front is not free here: the bits of both are disjoint, and the places in
//! neither are handed out. A slab is in a list if it has a free place in a group that no front
//! holds. One that is isolated is in no list, whatever it has.

#[cfg(test)]
#[cfg(not(memsvc_loom))]
mod check;
mod lists;

use super::class::{ClassId, GROUP};
use super::front::{GroupId, Ready};
use super::object::place_word;
use crate::core::units::{CpuId, FRAME_SIZE, FrameId};
use lists::{Ends, List, NIL, ends};

/// Groups that a [`GroupId`] has numbers for in a slab.
const GROUPS: u32 = 8;
/// Bits of a slab's number. The rest of a frame's reverse map is the class.
const SLAB_BITS: u32 = 25;

const _: () = assert!(super::class::CLASSES < 1 << (32 - SLAB_BITS));
const _: () = assert!(super::class::MAX_PLACES == GROUPS as usize * GROUP);

/// The number of a slab in its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlabId(pub(super) u32);

impl SlabId {
    /// What the reverse map of a slab's frames says.
    pub(super) fn to_rmap(self, class: ClassId) -> u32 {
        u32::from(class.0) << SLAB_BITS | self.0
    }

    /// What such a number means, if it is one.
    pub(super) fn from_rmap(rmap: u32) -> (ClassId, SlabId) {
        (ClassId((rmap >> SLAB_BITS) as u8), SlabId(rmap & ((1 << SLAB_BITS) - 1)))
    }

    pub(super) fn of(group: GroupId) -> SlabId {
        SlabId(group.0 / GROUPS)
    }

    fn group(self, index: usize) -> GroupId {
        GroupId(self.0 * GROUPS + index as u32)
    }
}

/// The frames of a slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) base: FrameId,
    pub(super) frames: u8,
}

impl Span {
    pub(super) fn contains(self, frame: FrameId) -> bool {
        frame.0.wrapping_sub(self.base.0) < u32::from(self.frames)
    }
}

#[derive(Clone, Debug)]
struct Slab {
    span: Span,
    reserve: bool,
    isolated: bool,
    list: List,
    prev: u32,
    /// The next in its list; of a vacant entry, the next vacant one.
    next: u32,
}

const _: () = assert!(size_of::<Slab>() == 20);

#[derive(Clone, Copy, Debug, Default)]
struct Group {
    free: u32,
    /// The CPU whose front holds it, plus 1.
    holder: u8,
}

/// The process had no memory for a larger table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoTable;

/// A place of a slab, and how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slab: SlabId,
    pub(super) place: u8,
}

/// The slabs of one class.
#[derive(Debug)]
pub(super) struct Cache {
    class: ClassId,
    slabs: Vec<Slab>,
    groups: Vec<Group>,
    /// Empty unless objects have handles.
    owners: Vec<u32>,
    movable: bool,
    vacant: u32,
    /// By list and reserve: see `ends`.
    lists: [Ends; 4],
    live: u32,
    live_reserve: u32,
    #[cfg(test)]
    pub(super) refuse_growth: bool,
}

impl Cache {
    pub(super) fn new(class: ClassId, movable: bool) -> Self {
        Self {
            class,
            slabs: Vec::new(),
            groups: Vec::new(),
            owners: Vec::new(),
            movable,
            vacant: NIL,
            lists: [Ends::NONE; 4],
            live: 0,
            live_reserve: 0,
            #[cfg(test)]
            refuse_growth: false,
        }
    }

    /// Adds a slab of which every place is free.
    pub(super) fn insert(&mut self, span: Span, reserve: bool) -> Result<SlabId, NoTable> {
        if self.vacant == NIL {
            self.grow()?;
        }
        let slab = SlabId(self.vacant);
        let entry = &mut self.slabs[slab.0 as usize];
        self.vacant = entry.next;
        *entry = Slab { span, reserve, isolated: false, list: List::Unlisted, prev: NIL, next: NIL };
        let mut places = usize::from(self.class.class().places(span.frames));
        for group in self.groups_mut(slab) {
            let here = places.min(GROUP);
            places -= here;
            *group = Group { free: low_bits(here), holder: 0 };
        }
        self.live += 1;
        self.live_reserve += u32::from(reserve);
        self.relist(slab);
        Ok(slab)
    }

    /// Makes room for one more slab.
    fn grow(&mut self) -> Result<(), NoTable> {
        #[cfg(test)]
        if self.refuse_growth {
            return Err(NoTable);
        }
        let groups = self.class.class().groups();
        let places = if self.movable { usize::from(self.class.class().best().places) } else { 0 };
        self.slabs.try_reserve(1).map_err(|_| NoTable)?;
        self.groups.try_reserve(groups).map_err(|_| NoTable)?;
        self.owners.try_reserve(places).map_err(|_| NoTable)?;
        let slab = self.slabs.len() as u32;
        if slab >> SLAB_BITS != 0 {
            return Err(NoTable);
        }
        self.groups.resize(self.groups.len() + groups, Group::default());
        self.owners.resize(self.owners.len() + places, 0);
        let span = Span { base: FrameId(0), frames: 0 };
        self.slabs.push(Slab {
            span,
            reserve: false,
            isolated: false,
            list: List::Unlisted,
            prev: NIL,
            next: self.vacant,
        });
        self.vacant = slab;
        Ok(())
    }

    /// Takes a slab out that is empty.
    fn remove(&mut self, slab: SlabId) -> Span {
        self.unlist(slab);
        self.groups_mut(slab).fill(Group::default());
        let vacant = self.vacant;
        let entry = &mut self.slabs[slab.0 as usize];
        let (span, reserve) = (entry.span, entry.reserve);
        entry.span.frames = 0;
        entry.next = vacant;
        self.vacant = slab.0;
        self.live -= 1;
        self.live_reserve -= u32::from(reserve);
        span
    }

    /// Takes an empty slab out if there are more than `keep`; those of reserve frames first.
    pub(super) fn take_empty(&mut self, keep: u32) -> Option<Span> {
        for reserve in [true, false] {
            let ends = self.lists[ends(List::Empty, reserve)];
            if ends.len > if reserve { 0 } else { keep } {
                return Some(self.remove(SlabId(ends.head)));
            }
        }
        None
    }

    /// The frames of a slab of this class, if the number is one.
    pub(super) fn span(&self, slab: SlabId) -> Option<Span> {
        self.slabs.get(slab.0 as usize).map(|entry| entry.span).filter(|span| span.frames > 0)
    }

    pub(super) fn is_reserve(&self, slab: SlabId) -> bool {
        self.slabs[slab.0 as usize].reserve
    }

    /// Gives a group with free places to the front of a CPU, with all of them, from a partial slab if there
    /// is one.
    pub(super) fn take_group(&mut self, reserve: bool, cpu: CpuId) -> Option<Ready> {
        let head = [List::Partial, List::Empty].map(|list| self.lists[ends(list, reserve)].head);
        let slab = SlabId(head.into_iter().find(|&head| head != NIL)?);
        let index = self.groups_mut(slab).iter().position(|group| group.free != 0 && group.holder == 0)?;
        Some(self.take(slab, index, cpu))
    }

    /// Gives the group of a place to the front of a CPU, if none holds it and the slab is not isolated.
    pub(super) fn take_group_of(&mut self, place: Place, cpu: CpuId) -> Option<Ready> {
        let index = usize::from(place.place) / GROUP;
        let free =
            self.groups_mut(place.slab)[index].holder == 0 && !self.slabs[place.slab.0 as usize].isolated;
        free.then(|| self.take(place.slab, index, cpu))
    }

    fn take(&mut self, slab: SlabId, index: usize, cpu: CpuId) -> Ready {
        let group = &mut self.groups_mut(slab)[index];
        group.holder = cpu.0 + 1;
        let bits = std::mem::take(&mut group.free);
        self.relist(slab);
        Ready { group: slab.group(index), bits }
    }

    /// The places of a group that others have freed while a front holds it; `None` if the slab is isolated.
    pub(super) fn take_freed(&mut self, group: GroupId) -> Option<u32> {
        let isolated = self.slabs[SlabId::of(group).0 as usize].isolated;
        (!isolated).then(|| std::mem::take(&mut self.group_mut(group).free))
    }

    /// Takes a group back from a front. An empty slab that is one too many is removed.
    pub(super) fn give_back(&mut self, ready: Ready) -> Option<Span> {
        let group = self.group_mut(ready.group);
        debug_assert_eq!(group.free & ready.bits, 0);
        group.free |= ready.bits;
        group.holder = 0;
        self.settle(SlabId::of(ready.group))
    }

    /// Marks a place as free; who holds its group must be closed to puts. An empty slab that is one too many is removed.
    pub(super) fn put(&mut self, place: Place) -> Option<Span> {
        let bit = 1 << (usize::from(place.place) % GROUP);
        self.groups_mut(place.slab)[usize::from(place.place) / GROUP].free |= bit;
        self.settle(place.slab)
    }

    /// True when a place is free here.
    pub(super) fn is_free(&self, place: Place) -> bool {
        let group = self.groups(place.slab)[usize::from(place.place) / GROUP];
        group.free >> (usize::from(place.place) % GROUP) & 1 != 0
    }

    /// The group of a place, and the CPU whose front holds it.
    pub(super) fn holder(&self, place: Place) -> Option<(CpuId, GroupId)> {
        let index = usize::from(place.place) / GROUP;
        let cpu = self.groups(place.slab)[index].holder.checked_sub(1)?;
        Some((CpuId(cpu), place.slab.group(index)))
    }

    /// The word of the first place of a group.
    pub(super) fn first(&self, group: GroupId) -> u64 {
        let base = self.slabs[SlabId::of(group).0 as usize].span.base;
        place_word(base, u64::from(group.0 % GROUPS) * GROUP as u64, self.class.class().units())
    }

    /// The word of a place.
    pub(super) fn word(&self, place: Place) -> u64 {
        let base = self.slabs[place.slab.0 as usize].span.base;
        place_word(base, place.place.into(), self.class.class().units())
    }

    /// Places of a slab that are handed out, in groups that no front holds.
    pub(super) fn handed_out(&self, slab: SlabId) -> [u32; GROUPS as usize] {
        let mut bits = [0; GROUPS as usize];
        let mut places =
            self.span(slab).map_or(0, |span| usize::from(self.class.class().places(span.frames)));
        for (bits, group) in bits.iter_mut().zip(self.groups(slab)) {
            let here = places.min(GROUP);
            places -= here;
            *bits = if group.holder == 0 { low_bits(here) & !group.free } else { 0 };
        }
        bits
    }

    /// Slabs with few objects, as many as all of theirs fit into what is free in the others: those of reserve frames,
    /// or the others.
    pub(super) fn sparsest(&self, reserve: bool) -> Vec<SlabId> {
        let partial = (0..)
            .map(SlabId)
            .zip(&self.slabs)
            .filter(|(_, slab)| slab.list == List::Partial && slab.reserve == reserve);
        let mut slabs: Vec<(u32, u32, SlabId)> = partial
            .map(|(id, slab)| {
                let places = u32::from(self.class.class().places(slab.span.frames));
                let free = self.groups(id).iter().map(|group| group.free.count_ones()).sum::<u32>();
                (places.saturating_sub(free), free, id)
            })
            .collect();
        slabs.sort_unstable_by_key(|(used, ..)| *used);
        let mut room: u64 = slabs.iter().map(|(_, free, _)| u64::from(*free)).sum();
        let mut objects = 0;
        let sources = slabs.into_iter().take_while(|(used, free, _)| {
            room -= u64::from(*free);
            objects += u64::from(*used);
            objects <= room
        });
        sources.map(|(.., slab)| slab).collect()
    }

    /// Frames of its slabs, and frames that the places that are free in them come to.
    pub(super) fn usage(&self) -> (u64, u64) {
        let frames = self.slabs.iter().map(|slab| u64::from(slab.span.frames)).sum();
        let free: u64 = self.groups.iter().map(|group| u64::from(group.free.count_ones())).sum();
        (frames, free * u64::from(self.class.class().size) / FRAME_SIZE as u64)
    }

    /// From now on nothing is handed out of it.
    pub(super) fn isolate(&mut self, slab: SlabId) {
        self.slabs[slab.0 as usize].isolated = true;
        self.relist(slab);
    }

    /// It is as the others again; or, when it is empty, removed.
    pub(super) fn rejoin(&mut self, slab: SlabId) -> Option<Span> {
        self.slabs[slab.0 as usize].isolated = false;
        self.relist(slab);
        (self.slabs[slab.0 as usize].list == List::Empty).then(|| self.remove(slab))
    }

    pub(super) fn is_isolated(&self, slab: SlabId) -> bool {
        self.slabs[slab.0 as usize].isolated
    }

    /// Whose handle a place is; 0 if objects have none.
    pub(super) fn owner(&self, place: Place) -> u32 {
        self.owners.get(self.owner_index(place)).copied().unwrap_or(0)
    }

    pub(super) fn set_owner(&mut self, place: Place, handle: u32) {
        let index = self.owner_index(place);
        if let Some(owner) = self.owners.get_mut(index) {
            *owner = handle;
        }
    }

    fn owner_index(&self, place: Place) -> usize {
        place.slab.0 as usize * usize::from(self.class.class().best().places) + usize::from(place.place)
    }

    /// Slabs, those of reserve frames among them, places, and places that are free and not ready.
    pub(super) fn totals(&self) -> Totals {
        let live = self.slabs.iter().filter(|slab| slab.span.frames > 0);
        Totals {
            ever_used: !self.slabs.is_empty(),
            slabs: self.live,
            reserve_slabs: self.live_reserve,
            places: live.map(|slab| u64::from(self.class.class().places(slab.span.frames))).sum(),
            free: self.groups.iter().map(|group| u64::from(group.free.count_ones())).sum(),
        }
    }

    fn groups(&self, slab: SlabId) -> &[Group] {
        let groups = self.class.class().groups();
        &self.groups[slab.0 as usize * groups..][..groups]
    }

    fn groups_mut(&mut self, slab: SlabId) -> &mut [Group] {
        let groups = self.class.class().groups();
        &mut self.groups[slab.0 as usize * groups..][..groups]
    }

    fn group_mut(&mut self, group: GroupId) -> &mut Group {
        &mut self.groups_mut(SlabId::of(group))[(group.0 % GROUPS) as usize]
    }
}

/// Sums over the slabs of a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    pub(super) ever_used: bool,
    pub(super) slabs: u32,
    pub(super) reserve_slabs: u32,
    pub(super) places: u64,
    pub(super) free: u64,
}

fn low_bits(count: usize) -> u32 {
    ((1u64 << count) - 1) as u32
}
