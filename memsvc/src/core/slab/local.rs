//! Getting and putting objects: the fast paths, and what they fall back to.

use super::cache::{Cache, Place, SlabId, Span};
use super::class::{ClassId, GROUP, IN_USE};
use super::error::SlabError;
use super::front::{Cpu, Front, Fronts, Put, Ready};
use super::grow::Source;
use super::object::{LEN_SHIFT, Object};
use super::pool::{SlabRequest, Slabs};
use crate::core::alloc::{Full, Mode};
use crate::core::request::Flags;
use crate::core::sync::MutexGuard;
use crate::core::sync::atomic::Ordering;
use crate::core::units::{CpuId, FRAME_SIZE, FrameId};

/// The fronts of one CPU, held: nobody else gets at them meanwhile, so do not wait with it in hand.
#[derive(Debug)]
pub struct SlabLocal<'a, M: Mode = Full> {
    slabs: &'a Slabs<M>,
    cpu: &'a Cpu,
    /// The fronts of `cpu` that the fast paths use.
    normal: &'a Fronts,
    id: CpuId,
    _held: MutexGuard<'a, ()>,
}

impl<'a, M: Mode> SlabLocal<'a, M> {
    pub(super) fn new(slabs: &'a Slabs<M>, id: CpuId, held: MutexGuard<'a, ()>) -> Self {
        let cpu = slabs.cpu(id);
        Self { slabs, cpu, normal: cpu.normal(), id, _held: held }
    }

    /// Hands out an object. Never waits.
    ///
    /// # Errors
    /// [`SlabError::NoFrames`] when a slab has to be made and the request may have no frames for it, and
    /// [`SlabError::NoTable`].
    #[inline]
    pub fn alloc(&mut self, request: &SlabRequest) -> Result<Object, SlabError> {
        match self.normal.of(request.class()).get(request.len_bits()) {
            Some(object) => Ok(object),
            None => self.alloc_slow(request),
        }
    }

    /// Takes back what was handed out.
    ///
    /// # Errors
    /// [`SlabError`] says why it cannot be freed, where it lies and whose that is; nothing has changed
    /// then. Two threads that free the same object at the same moment may both be believed; one that comes
    /// after the other is not.
    #[inline]
    pub fn free(&mut self, object: Object) -> Result<(), SlabError> {
        let front = self.normal.of(object.class());
        let put = if M::CHECKED { front.put::<true>(object) } else { front.put::<false>(object) };
        match put {
            Put::Done => Ok(()),
            _ => self.free_slow(object),
        }
    }

    /// Gives what the fronts hold back to their slabs.
    pub fn drain(&mut self) {
        self.cpu.wanted.store(false, Ordering::Relaxed);
        for class in ClassId::all() {
            let front = self.normal.of(class);
            if front.held().is_some() {
                let emptied = let_go(front, &mut self.slabs.cache(class));
                self.release(emptied);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn alloc_slow(&mut self, request: &SlabRequest) -> Result<Object, SlabError> {
        let (frames, id) = (&self.slabs.frames, self.id);
        self.alloc_from(request, &mut |request| frames.enter(id).alloc(request))
    }

    /// Hands out an object of a normal slab, if no new one has to be made for it.
    pub(super) fn alloc_ready(&mut self, request: &SlabRequest) -> Option<Object> {
        let object = self.get(request, false);
        object.or_else(|| if self.refill(request.class(), false) { self.get(request, false) } else { None })
    }

    /// Hands out an object of a slab of reserve frames, if no new one has to be made for it.
    pub(super) fn alloc_ready_of_reserve(&mut self, request: &SlabRequest) -> Option<Object> {
        if self.refill(request.class(), true) { self.get(request, true) } else { None }
    }

    /// Hands out an object, with frames from this source if it takes a new slab.
    pub(super) fn alloc_from(
        &mut self,
        request: &SlabRequest,
        from: Source<'_>,
    ) -> Result<Object, SlabError> {
        if let Some(object) = self.alloc_ready(request) {
            return Ok(object);
        }
        let (class, memalloc) = (request.class(), request.get_flags().contains(Flags::MEMALLOC));
        if !memalloc {
            return self.grow(request, class.class().best(), request.get_flags(), from);
        }
        if let Ok(object) = self.grow(request, class.class().best(), Flags::NOWAIT, from) {
            return Ok(object);
        }
        if let Some(object) = self.alloc_ready_of_reserve(request) {
            return Ok(object);
        }
        // No more of the reserve than the one frame that this object needs.
        self.grow(request, class.class().least(), Flags::MEMALLOC, from)
    }

    /// Takes what is ready. A front of reserve slabs lets go of its group again, so that the slab goes with
    /// its last object.
    fn get(&self, request: &SlabRequest, reserve: bool) -> Option<Object> {
        let front = self.cpu.front(request.class(), reserve);
        let object = front.get(request.len_bits());
        if reserve {
            let emptied = let_go(front, &mut self.slabs.cache(request.class()));
            self.release(emptied);
        }
        object
    }

    /// Finds a group for a front that has nothing ready. False when there is none.
    fn refill(&self, class: ClassId, reserve: bool) -> bool {
        let front = self.cpu.front(class, reserve);
        let mut cache = self.slabs.cache(class);
        if let Some(held) = front.held() {
            let freed = cache.take_freed(held.group).unwrap_or(0);
            if freed != 0 {
                front.hold(Ready { group: held.group, bits: held.bits | freed }, cache.first(held.group));
                return true;
            }
        }
        let Some(ready) = cache.take_group(reserve, self.id) else { return false };
        let emptied = change_over(front, &mut cache, ready);
        drop(cache);
        self.release(emptied);
        true
    }

    /// Makes a slab and hands its first place out.
    fn grow(
        &mut self,
        request: &SlabRequest,
        shape: super::class::Shape,
        flags: Flags,
        from: Source<'_>,
    ) -> Result<Object, SlabError> {
        let class = request.class();
        let span = self.slabs.obtain(request, shape, flags, self.id, from)?;
        let reserve = self.slabs.frames.is_reserve(span.base);
        let front = self.cpu.front(class, reserve);
        let mut cache = self.slabs.cache(class);
        let slab = match self.slabs.insert(&mut cache, class, span, reserve) {
            Ok(slab) => slab,
            Err(error) => {
                drop(cache);
                self.slabs.release(self.id, span);
                return Err(error);
            }
        };
        let mut emptied = None;
        if let Some(ready) = cache.take_group_of(Place { slab, place: 0 }, self.id) {
            emptied = change_over(front, &mut cache, ready);
        }
        drop(cache);
        self.release(emptied);
        self.get(request, reserve).ok_or(SlabError::NoTable)
    }

    #[cold]
    #[inline(never)]
    fn free_slow(&mut self, object: Object) -> Result<(), SlabError> {
        let (class, frame) = (object.class(), object.frame());
        if u64::from(frame.0) >= self.slabs.frames.frames() {
            return Err(SlabError::OutOfRange(frame));
        }
        let (of_class, slab) = SlabId::from_rmap(self.slabs.frames.rmap(frame));
        if usize::from(of_class.0) >= IN_USE {
            return Err(self.not_ours(frame));
        }
        let mut cache = self.slabs.cache(of_class);
        let place = self.place_of(&cache, of_class, slab, object)?;
        let front = self.cpu.front(class, cache.is_reserve(slab));
        let holder = cache
            .holder(place)
            .map(|(cpu, group)| (cpu, self.slabs.front(cpu, class, cache.is_reserve(slab)), group));
        let bit = 1 << (usize::from(place.place) % GROUP);
        let ready = holder.and_then(|(_, front, _)| front.held()).map_or(0, |held| held.bits);
        if M::CHECKED && (cache.is_free(place) || ready & bit != 0) {
            let size = class.class().size;
            return Err(SlabError::NotHandedOut { frame, place: place.place, size, owner: self.slabs.owner });
        }
        front.count((object.to_bits() >> LEN_SHIFT).wrapping_neg());
        let emptied = match holder {
            None if cache.is_reserve(slab) => cache.put(place),
            None => match cache.take_group_of(place, self.id) {
                Some(Ready { group, bits }) => {
                    change_over(front, &mut cache, Ready { group, bits: bits | bit })
                }
                None => cache.put(place),
            },
            Some((cpu, holder, group)) => {
                let freed = if cpu == self.id { cache.take_freed(group) } else { None };
                match freed {
                    Some(freed) => {
                        front.hold(Ready { group, bits: ready | freed | bit }, cache.first(group));
                        None
                    }
                    None => {
                        holder.close();
                        cache.put(place)
                    }
                }
            }
        };
        drop(cache);
        self.release(emptied);
        Ok(())
    }

    /// Which place of the slab the object is, if the slab is of its class and has such a place.
    fn place_of(
        &self,
        cache: &Cache,
        class: ClassId,
        slab: SlabId,
        object: Object,
    ) -> Result<Place, SlabError> {
        let (frame, owner) = (object.frame(), self.slabs.owner);
        let Some(span) = cache.span(slab).filter(|span| span.contains(frame)) else {
            return Err(self.not_ours(frame));
        };
        let (is, given) = (class.class().size, object.class().class().size);
        if class != object.class() {
            return Err(SlabError::WrongClass { frame, is, given, owner });
        }
        let bytes = object.offset() - span.base.offset() as u64;
        let place = object.place();
        if u64::from(place) * u64::from(is) != bytes || u16::from(place) >= class.class().places(span.frames)
        {
            let offset = (object.offset() % FRAME_SIZE as u64) as u16;
            return Err(SlabError::NotAnObject { frame, offset, size: is, owner });
        }
        Ok(Place { slab, place })
    }

    fn not_ours(&self, frame: FrameId) -> SlabError {
        let frames = &self.slabs.frames;
        SlabError::NotOurs { frame, tag: frames.page_type(frame), owner: frames.owner(frame) }
    }

    fn release(&self, emptied: Option<Span>) {
        if let Some(span) = emptied {
            self.slabs.release(self.id, span);
        }
    }
}

impl<M: Mode> Drop for SlabLocal<'_, M> {
    fn drop(&mut self) {
        if self.cpu.wanted.load(Ordering::Relaxed) {
            self.drain();
        }
    }
}

/// Gives a front another group, and what it held back to its slab. Says which slab that emptied.
fn change_over(front: &Front, cache: &mut Cache, ready: Ready) -> Option<Span> {
    let emptied = let_go(front, cache);
    front.hold(ready, cache.first(ready.group));
    emptied
}

/// Takes what a front holds back to its slab. Says which slab that emptied.
fn let_go(front: &Front, cache: &mut Cache) -> Option<Span> {
    let held = front.held()?;
    front.let_go();
    cache.give_back(held)
}
