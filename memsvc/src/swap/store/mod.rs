//! The store: the pages of one export, as small as they can be kept.
//!
//! ```text
//!   write ─▶ same-filled? ──▶ a word in the slot
//!              │ no
//!              ▼
//!            packed, or whole where that saves too little ──▶ an object in movable slabs
//! ```
//! A page that is written again, or erased, is wiped where it was. A write that finds no room leaves the page
//! as it was.

mod slots;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::codec::{Codec, Packed, Packer, fill, same_filled};
use super::nbd::NbdError;
use super::session::Page;
use super::stats::StoreStats;
use crate::core::slab::{Handle, SlabError};
use crate::core::units::{CpuId, FRAMES_PER_BLOCK};
use crate::space::objects::Objects;
use crate::stats::Counter;
use slots::{Slot, Slots};

/// What a store may hold, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Pages of the export.
    pub(crate) pages: u64,
    /// Bytes of packed pages in memory.
    pub(crate) bytes: u64,
}

/// The pages of one export. Every method may be called from any thread.
#[derive(Debug)]
pub(crate) struct Store {
    slots: Slots,
    objects: Arc<Objects>,
    limit: u64,
    /// Pages that are there, those of one word with them.
    stored: AtomicU64,
    same: AtomicU64,
    whole: AtomicU64,
    /// Bytes of packed pages, those of whole ones with them.
    bytes: AtomicU64,
    no_room: Counter,
    lost: Counter,
    /// Objects removed.
    removed: AtomicU64,
    released: Hook,
}

/// Told that pages have been released.
pub(crate) type Released = Box<dyn Fn() + Send + Sync>;

struct Hook(Released);

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// Objects that are removed before somebody is told: a block's worth of frames at the least.
const MANY: u64 = FRAMES_PER_BLOCK as u64;

/// Objects that there may be beside one for each page: of pages that are written again, the old and the new.
const WRITERS: u64 = 64;

impl Store {
    /// Nothing is stored.
    pub(crate) fn new(limits: Limits, objects: Arc<Objects>, released: Released) -> Self {
        Self {
            slots: Slots::new(limits.pages),
            objects,
            limit: limits.bytes,
            stored: AtomicU64::new(0),
            same: AtomicU64::new(0),
            whole: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            no_room: Counter::default(),
            lost: Counter::default(),
            removed: AtomicU64::new(0),
            released: Hook(released),
        }
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

    /// Stores a page.
    ///
    /// # Errors
    /// There is no room, or no such page; it is as it was.
    pub(crate) fn write(
        &self,
        cpu: CpuId,
        packer: &mut Packer,
        page: u64,
        data: &Page,
    ) -> Result<(), NbdError> {
        if page >= self.pages() {
            return Err(NbdError::NoSpace);
        }
        let slot = match same_filled(data) {
            Some(0) => Slot::Empty,
            Some(word) => Slot::Same(word),
            None => {
                let packed = packer.pack(data);
                // What it takes the place of goes.
                let goes = self.slots.see(page, |slot| self.len_of(slot)).unwrap_or(0);
                let handle = self.put(cpu, &packed, goes).inspect_err(|_| self.no_room.add(1))?;
                Slot::Object(handle, packed.codec)
            }
        };
        self.count(slot, 1);
        self.forget(cpu, self.slots.replace(page, slot));
        Ok(())
    }

    /// Reads a page.
    ///
    /// # Errors
    /// There is no such page, or what is stored is none.
    pub(crate) fn read(&self, packer: &mut Packer, page: u64, into: &mut Page) -> Result<(), NbdError> {
        let read = self.slots.see(page, |slot| match slot {
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
        });
        match read {
            Some(true) => Ok(()),
            Some(false) => {
                self.lost.add(1);
                Err(NbdError::Io)
            }
            None => Err(NbdError::Invalid),
        }
    }

    /// True when nothing is stored for any of these.
    pub(crate) fn is_hole(&self, mut pages: Range<u64>) -> bool {
        pages.all(|page| self.slots.see(page, |slot| slot == Slot::Empty).unwrap_or(true))
    }

    /// Forgets pages.
    pub(crate) fn erase(&self, cpu: CpuId, pages: Range<u64>) {
        for page in pages {
            self.forget(cpu, self.slots.replace(page, Slot::Empty));
        }
    }

    /// Where the pages are.
    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What is stored.
    pub(crate) fn stats(&self) -> StoreStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreStats {
            pages: self.pages(),
            stored_pages: get(&self.stored),
            same_filled_pages: get(&self.same),
            incompressible_pages: get(&self.whole),
            stored_bytes: get(&self.bytes),
            limit_bytes: self.limit,
            table_bytes: self.slots.bytes(),
            no_room: self.no_room.get(),
            lost: self.lost.get(),
        }
    }

    /// Keeps a page, of which `goes` bytes go as soon as it is there.
    fn put(&self, cpu: CpuId, packed: &Packed<'_>, goes: u64) -> Result<Handle, NbdError> {
        let len = packed.bytes.len() as u64;
        if self.bytes.fetch_add(len, Ordering::Relaxed) + len > self.limit + goes {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            return Err(NbdError::NoSpace);
        }
        self.objects.put(cpu, packed.bytes).map_err(|error| {
            self.bytes.fetch_sub(len, Ordering::Relaxed);
            debug_assert!(matches!(error, SlabError::NoFrames { .. } | SlabError::NoTable));
            NbdError::NoSpace
        })
    }

    /// What was in a slot is not needed any more.
    fn forget(&self, cpu: CpuId, slot: Slot) {
        self.count(slot, u64::MAX);
        if let Slot::Object(handle, _) = slot {
            let len = self.len_of(slot);
            match self.objects.remove(cpu, handle) {
                Ok(()) => {
                    self.bytes.fetch_sub(len, Ordering::Relaxed);
                    if self.removed.fetch_add(1, Ordering::Relaxed) % MANY == MANY - 1 {
                        self.released.0();
                    }
                }
                Err(error) => tracing::error!(%error, "a bug: a page of swap could not be freed"),
            }
        }
    }

    /// Bytes of a page in memory.
    fn len_of(&self, slot: Slot) -> u64 {
        match slot {
            Slot::Object(handle, _) => self.objects.read(handle, |bytes| bytes.len() as u64).unwrap_or(0),
            Slot::Empty | Slot::Same(_) => 0,
        }
    }

    /// Counts a slot in (1) or out (−1).
    fn count(&self, slot: Slot, one: u64) {
        match slot {
            Slot::Empty => return,
            Slot::Same(_) => _ = self.same.fetch_add(one, Ordering::Relaxed),
            Slot::Object(_, Codec::None) => _ = self.whole.fetch_add(one, Ordering::Relaxed),
            Slot::Object(..) => {}
        }
        self.stored.fetch_add(one, Ordering::Relaxed);
    }
}

impl Drop for Store {
    /// Wipes all that is stored.
    fn drop(&mut self) {
        self.erase(CpuId(0), 0..self.pages());
    }
}
