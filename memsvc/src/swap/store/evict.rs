//! The evictor: a thread that moves pages that have not been used for long from memory to a tier.
//!
//! ```text
//!   choose some ─▶ copy, seal, mark as leaving ─▶ write ─▶ wait for all ─▶ still leaving? ─▶ the record takes
//!                                                                             │ no            the page's place
//!                                                                             └─▶ its place on the tier is free
//! ```
//! A tier that takes nothing of a batch rests, and the next one is tried: who waits for room is refused when
//! none is left. One that has no room is first asked to write only where something lies already.
//!
//! It needs no memory that is not there from the start, but for the records: a frame for 128 pages, which writes
//! leave for it ([`RECORD_FRAMES`](super::RECORD_FRAMES)); slabs are squeezed if it finds none, for which they are
//! listed on the heap.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use zerocopy::IntoBytes;

use super::level::{Batch, Level, Place, READERS, Record, Waits, empty_block};
use super::pressure::Next;
use super::slots::{Generation, Slot};
use super::tiers::Tiers;
use super::{NoRoom, Store};
use crate::core::slab::Handle;
use crate::core::units::{CpuId, FRAME_SIZE};
use crate::guard::Guard;
use crate::swap::session::WINDOW;
use crate::swap::tier::{Block, Op, TierError};

/// Stack of the thread: no recursion, no pages on it.
const STACK: usize = 256 << 10;

/// Pages that take less than that, packed, stay: what is left of one that leaves is hardly less.
pub(super) const LEAST_LEAVING: usize = 4 * Level::RECORD_BYTES as usize;

/// Pages that connections may have been promised.
const MOST_PROMISED: usize = READERS * WINDOW as usize;

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Evictor {
    store: Arc<Store>,
    thread: Option<JoinHandle<()>>,
    guard: Guard,
}

impl Evictor {
    /// Starts it, if the store has tiers. `cpu` as for [`Store::erase`].
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn spawn(store: &Arc<Store>, cpu: CpuId, guard: &Guard) -> io::Result<Option<Self>> {
        if store.tiers.is_none() {
            return Ok(None);
        }
        let thread = guard.spawn("evict", STACK, "no page of swap can leave for a tier any more", {
            let store = Arc::clone(store);
            move || {
                if let Some(tiers) = &store.tiers {
                    Eviction::new(&store, tiers, cpu).run();
                }
                Ok(())
            }
        })?;
        Ok(Some(Self { store: Arc::clone(store), thread: Some(thread), guard: guard.clone() }))
    }
}

impl Drop for Evictor {
    fn drop(&mut self) {
        if let Some(tiers) = &self.store.tiers {
            tiers.pressure.stop();
            // Closed tiers fail all operations at once, so the thread does not wait for a server that is away.
            tiers.levels().iter().for_each(Level::close);
        }
        if let Some(thread) = self.thread.take() {
            // It may wait for a tier whose thread has failed.
            self.guard.join(thread);
        }
    }
}

/// A page on its way.
#[derive(Debug)]
struct Leaving {
    page: u64,
    tier: u8,
    place: Place,
    /// Of its record.
    handle: Handle,
    /// How it went; refused until it has ended.
    result: Result<(), TierError>,
}

/// How a batch went.
#[derive(Debug, Default)]
struct Moved {
    /// Pages that tiers were asked to take.
    asked: usize,
    /// Pages that they took.
    left: u64,
    /// One did not answer.
    is_away: bool,
}

/// What the thread has.
struct Eviction<'a> {
    store: &'a Store,
    tiers: &'a Tiers,
    cpu: CpuId,
    /// Where it is looked for the next page.
    hand: u64,
    batch: Arc<Batch>,
    blocks: Vec<Box<Block>>,
    leaving: Vec<Leaving>,
    /// Of each tier.
    discards: Vec<Discards>,
}

impl<'a> Eviction<'a> {
    fn new(store: &'a Store, tiers: &'a Tiers, cpu: CpuId) -> Self {
        Self {
            store,
            tiers,
            cpu,
            hand: 0,
            batch: Arc::new(Batch::new()),
            blocks: (0..Batch::SIZE).map(|_| empty_block()).collect(),
            leaving: Vec::with_capacity(Batch::SIZE),
            discards: tiers.levels().iter().map(|_| Discards::new()).collect(),
        }
    }

    fn run(&mut self) {
        loop {
            match self.tiers.pressure.next() {
                Next::Stop => return,
                Next::Idle => self.discard(),
                Next::Evict => self.evict(),
            }
        }
    }

    /// Makes room until there is enough of it.
    fn evict(&mut self) {
        let (tiers, pressure) = (self.tiers, &self.tiers.pressure);
        // Batches in a row of which nothing left.
        let (mut in_vain, mut is_away) = (0, false);
        while self.store.is_tight(self.tiers.low()) || pressure.has_waiters() {
            // Who is away is asked with one page, of which the place is lost if there is no answer.
            let count = if pressure.is_away() { 1 } else { Batch::SIZE };
            let moved = self.move_some(count);
            if pressure.has_stopped() {
                return;
            }
            if moved.left > 0 {
                (in_vain, is_away) = (0, false);
                pressure.made_room();
                continue;
            }
            (in_vain, is_away) = (in_vain + 1, is_away || moved.is_away);
            // Who was asked rests now, the second time at the latest: the next tier may stand in. A rest may be over before
            // the last one has answered, so they are counted.
            if moved.asked > 0 && in_vain < 2 * tiers.levels().len() {
                continue;
            }
            // All places may be some whose discard was not answered; all memory, slabs that are hardly used.
            if !self.discard_undone() && !self.squeeze() {
                // As long as nobody can be asked, what was said the last time holds.
                pressure.made_none(is_away || pressure.is_away() && tiers.all_rest());
                return;
            }
            pressure.made_room();
        }
    }

    /// Moves so many pages. A tier that took none of those that it was asked to take rests, unless it is only full.
    fn move_some(&mut self, count: usize) -> Moved {
        // More pages than connections can have been promised: somebody may leave.
        for _ in 0..count + MOST_PROMISED {
            if self.leaving.len() == count {
                break;
            }
            let Some(page) = self.choose() else { break };
            if !self.send(page) {
                break;
            }
        }
        let mut moved = Moved { asked: self.leaving.len(), ..Moved::default() };
        let batch = Arc::clone(&self.batch);
        batch.wait(self.leaving.len(), |index, op, result| {
            moved.is_away |= result.is_err_and(TierError::is_away);
            moved.left += u64::from(self.arrived(index, result));
            if let Op::Write { block, .. } | Op::Read { block, .. } = op {
                self.blocks.push(block);
            }
        });
        for (number, level) in (0..).zip(self.tiers.levels()) {
            let own =
                || self.leaving.iter().filter(|leaving| leaving.tier == number).map(|leaving| leaving.result);
            let has_room = !own().any(|result| result == Err(TierError::Full));
            let takes_none = own().next().is_some() && own().all(|result| result.is_err());
            // One that is full may still write where something lies already.
            if (has_room || level.fill()) && takes_none {
                level.rest();
            }
        }
        self.leaving.clear();
        moved
    }

    /// A page that has not been used for the longest time, more or less.
    fn choose(&mut self) -> Option<u64> {
        let slots = &self.store.slots;
        let in_memory = |slot| match slot {
            Slot::Object(handle, _) => {
                self.store.objects.read(handle, <[u8]>::len).is_ok_and(|len| len >= LEAST_LEAVING)
            }
            _ => false,
        };
        // Twice the generations and one round more: who is used meanwhile becomes younger.
        for _ in 0..4 * Generation::COUNT {
            let oldest = self.tiers.oldest();
            match slots.find(self.hand..slots.pages(), oldest, in_memory) {
                Some(page) => {
                    self.hand = page + 1;
                    return Some(page);
                }
                None if self.hand > 0 => self.hand = 0,
                None if self.tiers.oldest_is_empty() => {}
                None => return None,
            }
        }
        None
    }

    /// Sends a page off. False when there is no place for it, or no memory for its record; a page that cannot
    /// leave stays.
    fn send(&mut self, page: u64) -> bool {
        let Some(mut block) = self.blocks.pop() else { return false };
        let Some((tier, level, place)) = self.tiers.take_place() else {
            self.blocks.push(block);
            return false;
        };
        let sealed = self.seal(page, place.number, &mut block);
        let handle = sealed.and_then(|record| self.keep(&record));
        let Some(handle) = handle else {
            self.tiers.give_back(level, place);
            self.blocks.push(block);
            // Without a record nobody leaves; a page that somebody uses is no reason to end.
            if let Some(mut slot) = self.store.slots.lock(page) {
                slot.stay();
                slot.touch(self.tiers.youngest());
            }
            return sealed.is_none();
        };
        let index = self.leaving.len();
        self.leaving.push(Leaving { page, tier, place, handle, result: Err(TierError::Refused) });
        let op = Op::Write { place: place.number, block };
        level.begin(Waits::Evictor(Arc::clone(&self.batch), index), op);
        true
    }

    /// Copies a page that may leave, sealed. `None` when it is to stay.
    fn seal(&self, page: u64, place: u64, block: &mut Block) -> Option<Record> {
        let mut slot = self.store.slots.lock(page)?;
        let Slot::Object(handle, codec) = slot.get() else { return None };
        // One that was written anew since it was chosen would take the older one's mark for its own.
        let is_here = self.leaving.iter().any(|leaving| leaving.page == page);
        if is_here || slot.is_leaving() || self.tiers.is_pinned(page) {
            return None;
        }
        let copied = self.store.objects.read(handle, |bytes| {
            block.0.get_mut(..bytes.len())?.copy_from_slice(bytes);
            u16::try_from(bytes.len()).ok()
        });
        let len = copied.ok().flatten()?;
        slot.leave();
        drop(slot);
        Some(Record::new(self.tiers.sealer().seal(page, len, block), codec, place))
    }

    /// Keeps a record: in the frames that pages leave, or in what squeezing makes.
    fn keep(&self, record: &Record) -> Option<Handle> {
        let (bytes, counted) = (record.as_bytes(), &self.store.bytes);
        counted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let kept = self.store.keep(self.cpu, bytes, 0).or_else(|NoRoom| {
            self.store.objects.shrink(self.cpu, true, || true);
            self.store.keep(self.cpu, bytes, 0)
        });
        kept.inspect_err(|NoRoom| _ = counted.fetch_sub(bytes.len() as u64, Ordering::Relaxed)).ok()
    }

    /// A page has been written, or not. True when it has left.
    fn arrived(&mut self, index: usize, result: Result<(), TierError>) -> bool {
        let Some(leaving) = self.leaving.get_mut(index) else { return false };
        leaving.result = result;
        let &mut Leaving { page, tier, place, handle, .. } = leaving;
        let level = self.tiers.level(tier);
        let Some(mut slot) = self.store.slots.lock(page) else { return false };
        let is_leaving = slot.is_leaving();
        // Somebody may have been promised it while it was written.
        if is_leaving && result.is_ok() && !self.tiers.is_pinned(page) {
            let before = slot.replace(Slot::Outside(handle, tier), self.tiers.oldest());
            drop(slot);
            self.store.count(Slot::Outside(handle, tier), 1);
            self.store.count(before, u64::MAX);
            if let Slot::Object(object, _) = before {
                self.store.remove(self.cpu, object);
            }
            return true;
        }
        if is_leaving {
            slot.stay();
            slot.touch(self.tiers.youngest());
        }
        drop(slot);
        self.store.remove(self.cpu, handle);
        match (result, level) {
            // It may still be written, at any time: nothing else is to lie there.
            (Err(TierError::Away), _) | (_, None) => {}
            (Err(TierError::Full | TierError::Unasked), Some(level)) => self.tiers.give_back(level, place),
            (_, Some(level)) => self.tiers.free_place(level, place.number),
        }
        // What it would have been room for is gone already.
        result.is_ok()
    }

    /// Where memory is what is short: true when there is more of it now.
    fn squeeze(&self) -> bool {
        let objects = &self.store.objects;
        objects.is_low() && objects.shrink(self.cpu, true, || true) > 0
    }

    /// Waits for what tiers that can be heard have not discarded. True when places can be used again for that.
    fn discard_undone(&mut self) -> bool {
        let Self { tiers, discards, .. } = self;
        let mut has_some = false;
        for (level, discards) in tiers.levels().iter().zip(discards).filter(|(level, _)| !level.is_away()) {
            has_some |= discards.places.is_some()
                && discards.ask(level)
                && discards.hear(level, || false) == Some(true);
        }
        has_some
    }

    /// Discards what lies where nothing is needed any more, as long as nobody wants room: for that it is not waited.
    fn discard(&mut self) {
        let Self { tiers, discards, .. } = self;
        let is_wanted = || tiers.pressure.is_wanted();
        for (level, discards) in tiers.levels().iter().zip(discards) {
            while discards.ask(level) {
                let heard = discards.hear(level, is_wanted);
                if heard == Some(true) && !is_wanted() {
                    continue;
                }
                // Later.
                tiers.pressure.freed();
                if heard == Some(false) {
                    break;
                }
                return;
            }
        }
    }
}

/// What a tier is to discard.
#[derive(Debug)]
struct Discards {
    batch: Arc<Batch>,
    /// It has been asked to, or was and did not answer. It may do it late: nothing is to lie there until it has said that it
    /// did.
    places: Option<Range<u64>>,
    /// It has been asked, and may still answer.
    is_asked: bool,
}

impl Discards {
    fn new() -> Self {
        Self { batch: Arc::new(Batch::new()), places: None, is_asked: false }
    }

    /// Asks for some places, if that is not under way. False when there are none.
    fn ask(&mut self, level: &Level) -> bool {
        if self.is_asked {
            return true;
        }
        let Some(places) = self.places.take().or_else(|| level.take_freed()) else { return false };
        self.places = Some(places.clone());
        self.is_asked = true;
        level.begin(Waits::Evictor(Arc::clone(&self.batch), 0), Op::Discard { places });
        true
    }

    /// Waits for the answer, unless there is something better to do. True when places can be used again, false when the
    /// tier is away.
    fn hear(&mut self, level: &Level, stop: impl Fn() -> bool) -> Option<bool> {
        let is_away = self.batch.wait_one(stop)?.is_err_and(TierError::is_away);
        self.is_asked = false;
        // Whether it did it or not: what lies there is not needed.
        if !is_away && let Some(places) = self.places.take() {
            level.discarded(places);
        }
        Some(!is_away)
    }
}

const _: () = assert!(FRAME_SIZE <= u16::MAX as usize);
