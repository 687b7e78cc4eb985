//! The store: the pages of one export, as small as they can be kept.
//!
//! ```text
//!   write ─▶ same-filled? ──▶ a word in the slot
//!              │ no
//!              ▼
//!            packed, or whole where that saves too little ──▶ an object in movable slabs
//!                                                               │ not used for long (`evict`)
//!            read ◀── `reader`: a place of the connection's ◀── ▼ a place on a tier (`level`)
//! ```
//! A page that is written again, or erased, is wiped where it was. A write that finds no room leaves the page
//! as it was; if there are tiers, it waits until they have made room.

mod evict;
mod level;
mod places;
mod pressure;
mod reader;
mod seat;
mod slots;
mod tiers;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::FromBytes;

use super::codec::{Codec, Packed, fill, same_filled};
use super::nbd::NbdError;
use super::session::{Fetch, Page, Stored};
use super::stats::StoreStats;
use super::waker::Waker;
use crate::core::slab::{Handle, SlabError, most_stuck};
use crate::core::units::{CpuId, FRAME_SIZE, FRAMES_PER_BLOCK};
use crate::space::objects::Objects;
use crate::stats::Counter;
pub(crate) use evict::Evictor;
use evict::LEAST_LEAVING;
pub(crate) use level::Level;
use level::Record;
use reader::{Come, Reader};
pub(crate) use seat::Seat;
use slots::{Generation, Slot, Slots};
pub(crate) use tiers::Tiers;

/// What a store may hold, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Pages of the export.
    pub(crate) pages: u64,
    /// Bytes of packed pages in memory.
    pub(crate) bytes: u64,
    /// Frames of the reserve that it leaves to the thread that serves it, beside those for records.
    pub(crate) touched: u32,
}

/// The pages of one export. Every method may be called from any thread.
#[derive(Debug)]
pub(crate) struct Store {
    slots: Slots,
    objects: Arc<Objects>,
    limit: u64,
    touched: u32,
    /// Pages that are there, those of one word with them.
    stored: AtomicU64,
    same: AtomicU64,
    whole: AtomicU64,
    /// Pages on tiers.
    outside: AtomicU64,
    /// Bytes of packed pages, those of whole ones with them.
    bytes: AtomicU64,
    no_room: Counter,
    lost: Counter,
    /// Objects removed.
    removed: AtomicU64,
    released: Hook,
    tiers: Option<Tiers>,
}

/// Told that pages have been released.
pub(crate) type Released = Box<dyn Fn() + Send + Sync>;

struct Hook(Released);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// There is no room for a page, in memory or under the limit.
#[derive(Debug)]
struct NoRoom;

/// Frames that pages leave for records of pages on tiers: enough for as many pages as can leave without a frame being
/// free for it, and one more.
pub(crate) const RECORD_FRAMES: u32 =
    most_stuck(LEAST_LEAVING).div_ceil(FRAME_SIZE / Level::RECORD_BYTES as usize) as u32 + 1;

/// Linux's formula gives no reserve less than 128 KiB (`calculate_min_free_kbytes`, mm/page_alloc.c).
const _: () = assert!(RECORD_FRAMES + 2 <= 32);

/// Objects that are removed before somebody is told: a block's worth of frames at the least.
const MANY: u64 = FRAMES_PER_BLOCK as u64;

/// Objects that there may be beside one for each page: of pages that are written again, the old and the new.
const WRITERS: u64 = 64;

impl Store {
    /// Nothing is stored. With tiers there is to be an [`Evictor`].
    pub(crate) fn new(
        limits: Limits,
        objects: Arc<Objects>,
        released: Released,
        tiers: Option<Tiers>,
    ) -> Self {
        Self {
            slots: Slots::new(limits.pages),
            objects,
            limit: limits.bytes,
            touched: limits.touched,
            stored: AtomicU64::new(0),
            same: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            outside: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            no_room: Counter::default(),
            lost: Counter::default(),
            removed: AtomicU64::new(0),
            released: Hook(released),
            tiers,
        }
    }

    /// A connection's place here. `None` when there is no memory for it.
    pub(crate) fn seat(&self, cpu: CpuId, codec: Codec, waker: &Arc<Waker>) -> Option<Seat> {
        Seat::new(cpu, codec, waker, self.tiers.as_ref())
    }

    /// Makes the tables of slots and of objects, so that they do not grow when a page is stored.
    pub(crate) fn prepare(&self) {
        self.slots.prepare();
        self.objects.prepare(self.pages() + WRITERS);
    }

    /// Pages of the export.
    pub(crate) fn pages(&self) -> u64 {
        self.slots.pages()
    }

    /// Stores a page, now or, if tiers have to make room first, when it is offered again.
    ///
    /// # Errors
    /// There is no room, or no such page; it is as it was.
    pub(crate) fn write(&self, seat: &mut Seat, page: u64, data: &Page) -> Result<Stored, NbdError> {
        if page >= self.pages() {
            return Err(NbdError::NoSpace);
        }
        match same_filled(data) {
            Some(0) => self.replace(seat.cpu, page, Slot::Empty),
            Some(word) => self.replace(seat.cpu, page, Slot::Same(word)),
            None => {
                let packed = seat.packer.pack(data);
                let Err(goes) = self.overwrite(page, &packed) else { return Ok(self.has_stored(seat)) };
                match self.put(seat.cpu, &packed, goes) {
                    Ok(handle) => {
                        self.replace(seat.cpu, page, Slot::Object(handle, packed.codec));
                        self.bytes.fetch_add(goes, Ordering::Relaxed);
                    }
                    Err(NoRoom) if self.tiers.as_ref().is_some_and(|tiers| tiers.has_hope(seat)) => {
                        return Ok(Stored::Later);
                    }
                    Err(NoRoom) => {
                        self.no_room.add(1);
                        return Err(NbdError::NoSpace);
                    }
                }
            }
        }
        Ok(self.has_stored(seat))
    }

    /// A page has been stored.
    fn has_stored(&self, seat: &mut Seat) -> Stored {
        seat.waits = None;
        if let Some(tiers) = &self.tiers {
            tiers.stored_one(self.is_tight(tiers.high()));
        }
        Stored::Now
    }

    /// Writes a page where it was, which takes no memory, if it is as long as it was there. Otherwise it is as it was:
    /// gives the bytes that it has in memory now.
    fn overwrite(&self, page: u64, packed: &Packed<'_>) -> Result<(), u64> {
        let Some(mut slot) = self.slots.lock(page) else { return Err(0) };
        let before = slot.get();
        // Nobody reads or frees the object of a slot that is locked.
        if let Slot::Object(handle, codec) = before
            && codec == packed.codec
            && self.objects.overwrite(handle, packed.bytes).unwrap_or(false)
        {
            slot.replace(before, self.youngest());
            return Ok(());
        }
        Err(self.len_of(before))
    }

    /// The generation of what is used now.
    fn youngest(&self) -> Generation {
        self.tiers.as_ref().map_or(Generation::new(0), Tiers::youngest)
    }

    /// Sees to it that these pages, a window at the most, can be read without waiting until others are fetched.
    /// If they are `next`, they may take the place of others that have been. When this has failed nothing is left of
    /// it: who fetches them again asks tiers anew.
    pub(crate) fn fetch(&self, seat: &Seat, pages: Range<u64>, next: bool) -> Fetch {
        let (Some(tiers), Some(reader)) = (&self.tiers, &seat.reader) else { return Fetch::Ready };
        // First of all: what is in memory now stays there.
        reader.pin(pages.clone());
        let answer = self.ask(tiers, reader, pages.clone(), next);
        if matches!(answer, Fetch::Failed(_)) {
            for page in pages {
                let Some(slot) = self.slots.lock(page) else { continue };
                let Slot::Outside(handle, _) = slot.get() else { continue };
                if let Some(record) = self.record(handle) {
                    reader.drop_failure(page, &record);
                }
            }
        }
        answer
    }

    /// Asks tiers for those of these pages that are there.
    fn ask(&self, tiers: &Tiers, reader: &Arc<Reader>, pages: Range<u64>, next: bool) -> Fetch {
        let mut answer = Fetch::Ready;
        for page in pages {
            let Some(mut slot) = self.slots.lock(page) else { return Fetch::Failed(NbdError::Invalid) };
            slot.touch(tiers.youngest());
            let Slot::Outside(handle, tier) = slot.get() else { continue };
            let asked = self.record(handle).zip(tiers.level(tier)).map(|(record, level)| {
                drop(slot);
                reader.ask(level, page, record, next)
            });
            match asked {
                Some(Come::Here) => {}
                Some(Come::NotYet) => answer = Fetch::Later,
                Some(Come::Failed) => return Fetch::Failed(NbdError::Io),
                None => return Fetch::Failed(self.lost()),
            }
        }
        answer
    }

    /// Reads a page that has been fetched.
    ///
    /// # Errors
    /// There is no such page, or what is stored is none.
    pub(crate) fn read(&self, seat: &mut Seat, page: u64, into: &mut Page) -> Result<(), NbdError> {
        let packer = &mut seat.packer;
        let slot = self.slots.lock(page).ok_or(NbdError::Invalid)?;
        let is_read = match slot.get() {
            Slot::Empty => {
                into.fill(0);
                true
            }
            Slot::Same(word) => {
                fill(into, word);
                true
            }
            // Nobody frees the object as long as the slot is locked.
            Slot::Object(handle, codec) => {
                self.objects.read(handle, |bytes| packer.unpack(codec, bytes, into)).unwrap_or(false)
            }
            Slot::Outside(handle, _) => {
                seat.reader.as_ref().zip(self.record(handle)).is_some_and(|(reader, record)| {
                    let unpack = |bytes: &[u8]| packer.unpack(record.codec(), bytes, into);
                    reader.take(page, &record, unpack).unwrap_or(false)
                })
            }
        };
        drop(slot);
        if let Some(reader) = &seat.reader {
            reader.unpin(page);
        }
        if is_read { Ok(()) } else { Err(self.lost()) }
    }

    /// True when nothing is stored for any of these.
    pub(crate) fn is_hole(&self, mut pages: Range<u64>) -> bool {
        pages.all(|page| self.slots.get(page).is_none_or(|slot| slot == Slot::Empty))
    }

    /// Forgets pages.
    pub(crate) fn erase(&self, cpu: CpuId, pages: Range<u64>) {
        pages.for_each(|page| self.replace(cpu, page, Slot::Empty));
    }

    /// Pages are to leave as long as memory is short.
    pub(crate) fn make_room(&self) {
        if let Some(tiers) = &self.tiers {
            tiers.pressure.want();
        }
    }

    /// Frames of the reserve that are for pages that leave for a tier.
    pub(crate) fn record_frames(&self) -> u32 {
        if self.tiers.is_some() { RECORD_FRAMES } else { 0 }
    }

    /// Where the pages are.
    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What is stored.
    pub(crate) fn stats(&self) -> StoreStats {
        let get = not_negative;
        let (stored, same, outside) = (get(&self.stored), get(&self.same), get(&self.outside));
        let (bytes, records) = (get(&self.bytes), outside * size_of::<Record>() as u64);
        // Pages come and go while they are counted.
        let in_memory = stored.saturating_sub(same + outside) * FRAME_SIZE as u64;
        StoreStats {
            pages: self.pages(),
            stored_pages: stored,
            same_filled_pages: same,
            incompressible_pages: get(&self.whole),
            tier_pages: outside,
            stored_bytes: bytes,
            record_bytes: records,
            ratio_thousandths: (in_memory * 1000).checked_div(bytes.saturating_sub(records)).unwrap_or(0),
            limit_bytes: self.limit,
            table_bytes: self.slots.bytes(),
            no_room: self.no_room.get(),
            lost: self.lost.get(),
            corrupt: self.tiers.as_ref().map_or(0, Tiers::corrupt),
            throttled: self.tiers.as_ref().map_or(0, |tiers| tiers.pressure.throttled()),
            tiers: self.tiers.iter().flat_map(Tiers::stats).collect(),
        }
    }

    /// Counts a page that should be there and is not.
    fn lost(&self) -> NbdError {
        self.lost.add(1);
        NbdError::Io
    }

    /// True when more than so many bytes are stored, or memory is short.
    fn is_tight(&self, bytes: u64) -> bool {
        not_negative(&self.bytes) > bytes || self.objects.is_low()
    }

    /// Puts a page where it is from now on.
    fn replace(&self, cpu: CpuId, page: u64, slot: Slot) {
        let Some(mut locked) = self.slots.lock(page) else { return };
        let before = locked.replace(slot, self.youngest());
        drop(locked);
        self.count(slot, 1);
        self.forget(cpu, before);
    }

    /// Keeps a page that takes the place of `goes` bytes, which are counted no more: who writes again does not grow us, and
    /// how many do at the same time does not matter. It is to count them again once it has let them go.
    fn put(&self, cpu: CpuId, packed: &Packed<'_>, goes: u64) -> Result<Handle, NoRoom> {
        // The last frames are for records, so that pages can leave, and for who serves the store.
        let leaves = self.record_frames() + self.touched;
        // What finds a place in a slab takes no frame, but the record of a page that leaves for it does.
        if self.tiers.is_some() && !self.objects.has_room(leaves.into()) {
            return Err(NoRoom);
        }
        let grows = (packed.bytes.len() as u64).wrapping_sub(goes);
        let before = self.bytes.fetch_add(grows, Ordering::Relaxed);
        let all = before.wrapping_add(grows).cast_signed();
        let is_full = grows.cast_signed() > 0 && all > self.limit.cast_signed();
        let kept = if is_full { Err(NoRoom) } else { self.keep_squeezed(cpu, packed.bytes, leaves) };
        kept.inspect_err(|NoRoom| _ = self.bytes.fetch_sub(grows, Ordering::Relaxed))
    }

    /// Keeps bytes that are counted, in what squeezing makes if there is no other room and no tier that may make some.
    fn keep_squeezed(&self, cpu: CpuId, bytes: &[u8], leaves: u32) -> Result<Handle, NoRoom> {
        self.keep(cpu, bytes, leaves).or_else(|NoRoom| {
            let has_freed = self.tiers.is_none() && self.objects.shrink(cpu, false, || true) > 0;
            if has_freed { self.keep(cpu, bytes, leaves) } else { Err(NoRoom) }
        })
    }

    /// Keeps bytes that are counted, and leaves so many frames of the reserve.
    fn keep(&self, cpu: CpuId, bytes: &[u8], leaves: u32) -> Result<Handle, NoRoom> {
        self.objects.put(cpu, bytes, leaves).map_err(|error| {
            debug_assert!(matches!(error, SlabError::NoFrames { .. } | SlabError::NoTable));
            NoRoom
        })
    }

    /// What was in a slot is not needed any more.
    fn forget(&self, cpu: CpuId, slot: Slot) {
        self.count(slot, u64::MAX);
        match slot {
            Slot::Object(handle, _) => self.remove(cpu, handle),
            Slot::Outside(handle, tier) => {
                if let Some(tiers) = &self.tiers
                    && let Some((level, record)) = tiers.level(tier).zip(self.record(handle))
                {
                    tiers.free_place(level, record.place());
                }
                self.remove(cpu, handle);
            }
            Slot::Empty | Slot::Same(_) => {}
        }
    }

    /// Frees an object.
    fn remove(&self, cpu: CpuId, handle: Handle) {
        let len = self.objects.read(handle, |bytes| bytes.len() as u64).unwrap_or(0);
        match self.objects.remove(cpu, handle) {
            Ok(()) => {
                self.bytes.fetch_sub(len, Ordering::Relaxed);
                if self.removed.fetch_add(1, Ordering::Relaxed) % MANY == MANY - 1 {
                    self.released.0();
                }
            }
            Err(error) => {
                debug_assert!(false, "{error}");
                crate::seldom!(error, %error, "a bug: a page of swap could not be freed");
            }
        }
    }

    /// What is known of a page on a tier. Nobody removes it meanwhile.
    fn record(&self, handle: Handle) -> Option<Record> {
        self.objects.read(handle, |bytes| Record::read_from_bytes(bytes).ok()).ok().flatten()
    }

    /// Bytes of a page in memory, whose slot is locked.
    fn len_of(&self, slot: Slot) -> u64 {
        match slot {
            Slot::Object(handle, _) | Slot::Outside(handle, _) => {
                self.objects.read(handle, |bytes| bytes.len() as u64).unwrap_or(0)
            }
            Slot::Empty | Slot::Same(_) => 0,
        }
    }

    /// Counts a slot in (1) or out (−1).
    fn count(&self, slot: Slot, one: u64) {
        match slot {
            Slot::Empty => return,
            Slot::Same(_) => _ = self.same.fetch_add(one, Ordering::Relaxed),
            Slot::Object(_, Codec::None) => _ = self.whole.fetch_add(one, Ordering::Relaxed),
            Slot::Outside(_, tier) => {
                self.outside.fetch_add(one, Ordering::Relaxed);
                if let Some(level) = self.tiers.as_ref().and_then(|tiers| tiers.level(tier)) {
                    level.count(one);
                }
            }
            Slot::Object(..) => {}
        }
        self.stored.fetch_add(one, Ordering::Relaxed);
    }
}

/// One that is counted out before it is counted in, by two threads, is less than none for a moment.
fn not_negative(counter: &AtomicU64) -> u64 {
    u64::try_from(counter.load(Ordering::Relaxed).cast_signed()).unwrap_or(0)
}

impl Drop for Store {
    /// Wipes all that is stored.
    fn drop(&mut self) {
        self.erase(CpuId(0), 0..self.pages());
    }
}
