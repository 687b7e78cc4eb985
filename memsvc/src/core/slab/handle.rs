//! Handles: names of objects that stay while the objects move.
//!
//! ```text
//!                   pin: +1 (up to 13)
//!   free ──▶ idle ◀──────────────────▶ pinned       entry: the object, and in its four spare bits
//!    ▲        │ ▲    unpin: −1                      0      free; the low half is the next free handle
//!    │  begin │ │ finish, or dropped                1      idle
//!    │        ▼ │                                   2..14  one less have it pinned
//!    └────── moving                                 15     moving: it is being copied or freed
//! ```
//! Who has an object pinned knows where it lies and that it stays there: nobody can move or free it
//! meanwhile. What moves cannot be pinned until it has: who wants it waits for one copy of at most a frame.
//! Offsets are had from a [`Pinned`] only, so that no code can keep one without.

use std::sync::OnceLock;

use super::cache::NoTable;
use super::error::SlabError;
use super::object::{Object, STATE_SHIFT};
use crate::core::sync::atomic::{AtomicU64, Ordering};
use crate::core::sync::{Mutex, lock};

/// The name of an object that can be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u32);

const STATE: u64 = 15 << STATE_SHIFT;
const PIN: u64 = 1 << STATE_SHIFT;
/// Zeroes are free handles, so that a table of them is not memory until it is used.
const FREE: u64 = 0;
const IDLE: u64 = 1 << STATE_SHIFT;
const MOST_PINS: u64 = 14 << STATE_SHIFT;
const MOVING: u64 = 15 << STATE_SHIFT;

/// Handles in the first chunk; each further one is as large as all before it.
const FIRST_CHUNK: usize = if cfg!(memsvc_loom) { 2 } else { 1024 };
const CHUNKS: usize = 22;

const _: () = assert!((FIRST_CHUNK << (CHUNKS - 1)) as u64 <= 1 << 31);

/// All handles. The table grows and never moves, so that a pin takes no lock.
#[derive(Debug)]
pub(super) struct HandleTable {
    chunks: [OnceLock<Box<[AtomicU64]>>; CHUNKS],
    free: Mutex<FreeHandles>,
}

#[derive(Debug)]
struct FreeHandles {
    /// The first of those that were freed; 0 is none.
    head: u32,
    /// The first that was never used.
    fresh: u32,
    #[cfg(test)]
    refuse_growth: bool,
}

impl HandleTable {
    pub(super) fn new() -> Self {
        Self {
            chunks: std::array::from_fn(|_| OnceLock::new()),
            free: Mutex::new(FreeHandles {
                head: 0,
                fresh: 1,
                #[cfg(test)]
                refuse_growth: false,
            }),
        }
    }

    /// Names an object.
    pub(super) fn add(&self, object: Object) -> Result<Handle, NoTable> {
        let mut free = lock(&self.free);
        let handle = if free.head != 0 { free.head } else { free.fresh };
        let entry = match self.entry(handle) {
            Some(entry) => entry,
            None => {
                #[cfg(test)]
                if free.refuse_growth {
                    return Err(NoTable);
                }
                self.grow(handle)?
            }
        };
        if free.head != 0 {
            free.head = entry.load(Ordering::Relaxed) as u32;
        } else {
            free.fresh += 1;
        }
        entry.store(object.to_bits() | IDLE, Ordering::Release);
        Ok(Handle(handle))
    }

    /// Makes the chunks for so many handles, as far as there is address space.
    pub(super) fn prepare(&self, objects: u64) {
        let _grow_one_at_a_time = lock(&self.free);
        let (last, _) = position(u32::try_from(objects).unwrap_or(u32::MAX));
        for chunk in
            (0..=last).filter(|&chunk| self.chunks.get(chunk).is_some_and(|cell| cell.get().is_none()))
        {
            if self.make(chunk).is_err() {
                break;
            }
        }
    }

    fn grow(&self, handle: u32) -> Result<&AtomicU64, NoTable> {
        self.make(position(handle).0)?;
        self.entry(handle).ok_or(NoTable)
    }

    fn make(&self, chunk: usize) -> Result<(), NoTable> {
        let cell = self.chunks.get(chunk).ok_or(NoTable)?;
        let len = if chunk == 0 { FIRST_CHUNK } else { FIRST_CHUNK << (chunk - 1) };
        // Only under the lock of `free`, so it is not set yet.
        let _ = cell.set(free_handles(len)?);
        Ok(())
    }

    /// Keeps an object where it is.
    pub(super) fn pin(&self, handle: Handle) -> Result<Pinned<'_>, SlabError> {
        let entry = self.entry(handle.0).ok_or(SlabError::NoObject(handle))?;
        let mut now = entry.load(Ordering::Relaxed);
        loop {
            match now & STATE {
                FREE => return Err(SlabError::NoObject(handle)),
                MOST_PINS => return Err(SlabError::Pinned(handle)),
                MOVING => {
                    wait_a_little();
                    now = entry.load(Ordering::Relaxed);
                }
                _ => {
                    match entry.compare_exchange_weak(now, now + PIN, Ordering::Acquire, Ordering::Relaxed) {
                        Ok(_) => return Ok(Pinned { entry, object: object_of(now) }),
                        Err(other) => now = other,
                    }
                }
            }
        }
    }

    /// The object of a handle, if it is idle at the moment.
    pub(super) fn peek(&self, handle: Handle) -> Option<Object> {
        let now = self.entry(handle.0)?.load(Ordering::Relaxed);
        (now & STATE == IDLE).then_some(object_of(now))
    }

    /// Takes an object that is idle, and is this one, to be moved.
    pub(super) fn begin_move(&self, handle: Handle, object: Object) -> Option<Moving<'_>> {
        let entry = self.entry(handle.0)?;
        let idle = object.to_bits() | IDLE;
        // Not before it is taken: a `Moving` that is dropped makes the object idle.
        let taken = entry.compare_exchange(idle, idle | MOVING, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then(|| Moving { entry, object })
    }

    /// Takes an object to be freed.
    pub(super) fn begin_free(&self, handle: Handle) -> Result<Moving<'_>, SlabError> {
        let entry = self.entry(handle.0).ok_or(SlabError::NoObject(handle))?;
        let mut now = entry.load(Ordering::Relaxed);
        loop {
            match now & STATE {
                FREE => return Err(SlabError::NoObject(handle)),
                MOVING => {
                    wait_a_little();
                    now = entry.load(Ordering::Relaxed);
                }
                IDLE => {
                    match entry.compare_exchange_weak(now, now | MOVING, Ordering::Acquire, Ordering::Relaxed)
                    {
                        Ok(_) => return Ok(Moving { entry, object: object_of(now) }),
                        Err(other) => now = other,
                    }
                }
                _ => return Err(SlabError::Pinned(handle)),
            }
        }
    }

    /// The object is freed: the handle can be given out again.
    pub(super) fn remove(&self, handle: Handle, moving: Moving<'_>) {
        let mut free = lock(&self.free);
        moving.entry.store(FREE | u64::from(free.head), Ordering::Release);
        std::mem::forget(moving);
        free.head = handle.0;
    }

    #[cfg(test)]
    #[cfg(not(memsvc_loom))]
    pub(super) fn refuse_growth(&self, refuse: bool) {
        lock(&self.free).refuse_growth = refuse;
    }

    fn entry(&self, handle: u32) -> Option<&AtomicU64> {
        let (chunk, index) = position(handle);
        self.chunks.get(chunk)?.get()?.get(index)
    }
}

/// So many free handles, in memory that is zeroed when it is first touched.
#[cfg(not(memsvc_loom))]
fn free_handles(len: usize) -> Result<Box<[AtomicU64]>, NoTable> {
    use zerocopy::FromZeros;

    <[AtomicU64]>::new_box_zeroed_with_elems(len).map_err(|_| NoTable)
}

#[cfg(memsvc_loom)]
fn free_handles(len: usize) -> Result<Box<[AtomicU64]>, NoTable> {
    Ok((0..len).map(|_| AtomicU64::new(FREE)).collect())
}

/// The chunk of a handle, and its place there.
fn position(handle: u32) -> (usize, usize) {
    let handle = handle as usize;
    match (handle / FIRST_CHUNK).checked_ilog2() {
        None => (0, handle),
        Some(log) => (log as usize + 1, handle - (FIRST_CHUNK << log)),
    }
}

fn object_of(entry: u64) -> Object {
    Object::from_word(entry & !STATE)
}

/// Somebody copies at most a frame, unless the scheduler has taken the processor away.
fn wait_a_little() {
    #[cfg(memsvc_loom)]
    loom::thread::yield_now();
    #[cfg(not(memsvc_loom))]
    std::thread::yield_now();
}

/// An object that stays where it is as long as this lives. Do not keep it for long: its block cannot be
/// emptied.
#[derive(Debug)]
pub struct Pinned<'a> {
    entry: &'a AtomicU64,
    object: Object,
}

impl Pinned<'_> {
    /// Where it is.
    pub fn object(&self) -> Object {
        self.object
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        self.entry.fetch_sub(PIN, Ordering::Release);
    }
}

/// An object that nobody can pin or move. Dropped, it is idle again, where it was.
#[derive(Debug)]
pub(super) struct Moving<'a> {
    entry: &'a AtomicU64,
    object: Object,
}

impl Moving<'_> {
    pub(super) fn object(&self) -> Object {
        self.object
    }

    /// It has moved.
    pub(super) fn finish(mut self, to: Object) {
        self.object = to;
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.entry.store(self.object.to_bits() | IDLE, Ordering::Release);
    }
}
