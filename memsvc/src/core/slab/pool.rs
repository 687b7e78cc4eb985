//! The slabs of one owner: all size classes, and who may get at them how.

use std::sync::Arc;

use super::cache::Cache;
use super::class::{ClassId, IN_USE};
use super::error::SlabError;
use super::front::{Cpu, Front};
use super::local::SlabLocal;
use super::object::{LEN_SHIFT, Object};
use crate::core::alloc::{FrameAllocator, Full, Mode};
use crate::core::page_type::PageType;
use crate::core::request::Flags;
use crate::core::sync::atomic::Ordering;
use crate::core::sync::{Mutex, lock};
use crate::core::units::{CpuId, FRAME_SIZE, OwnerId};
use crate::stats::{CacheInfo, SlabInfo};

/// An object that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabRequest {
    class: ClassId,
    flags: Flags,
    leaves: u32,
    /// Length − 1, where an object has it.
    len_bits: u64,
}

impl SlabRequest {
    /// Of so many bytes, 1 to 4096.
    ///
    /// # Errors
    /// [`SlabError::Size`] for any other number.
    #[inline]
    pub const fn new(size: usize) -> Result<SlabRequest, SlabError> {
        if size == 0 || size > FRAME_SIZE {
            return Err(SlabError::Size(size));
        }
        let less_1 = (size - 1) as u16;
        Ok(SlabRequest {
            class: ClassId::of(less_1),
            flags: Flags::NONE,
            leaves: 0,
            len_bits: (less_1 as u64) << LEN_SHIFT,
        })
    }

    /// With these flags.
    pub const fn flags(mut self, flags: Flags) -> SlabRequest {
        self.flags = flags;
        self
    }

    /// As of [`Request::leaves`](crate::core::request::Request::leaves), if it takes a new slab.
    pub const fn leaves(mut self, frames: u32) -> SlabRequest {
        self.leaves = frames;
        self
    }

    #[inline]
    pub(super) const fn class(&self) -> ClassId {
        self.class
    }

    pub(super) const fn get_flags(&self) -> Flags {
        self.flags
    }

    pub(super) const fn get_leaves(&self) -> u32 {
        self.leaves
    }

    #[inline]
    pub(super) const fn len_bits(&self) -> u64 {
        self.len_bits
    }
}

/// Slabs whose frames are charged to one owner. Every method may be called from any thread that holds no
/// lists of the frame allocator.
#[derive(Debug)]
pub struct Slabs<M: Mode = Full> {
    pub(super) frames: Arc<FrameAllocator<M>>,
    pub(super) owner: OwnerId,
    /// What its frames are.
    pub(super) page_type: PageType,
    pub(super) caches: Box<[Mutex<Cache>]>,
    pub(super) cpus: Box<[Cpu]>,
}

impl<M: Mode> Slabs<M> {
    /// No slabs yet. Their frames, of type [`Slab`](crate::core::page_type::PageType::Slab) and unmovable,
    /// will be charged to the owner. `cpus` is how many threads have lists of their own, 1 to 64.
    pub fn new(frames: Arc<FrameAllocator<M>>, owner: OwnerId, cpus: u8) -> Self {
        Self::with_type(frames, owner, cpus, PageType::Slab)
    }

    pub(super) fn with_type(
        frames: Arc<FrameAllocator<M>>,
        owner: OwnerId,
        cpus: u8,
        page_type: PageType,
    ) -> Self {
        let movable = page_type.is_movable();
        Self {
            frames,
            owner,
            page_type,
            caches: ClassId::all().map(|class| Mutex::new(Cache::new(class, movable))).collect(),
            cpus: (0..cpus.clamp(1, CpuId::MAX as u8)).map(|_| Cpu::new()).collect(),
        }
    }

    /// Takes the fronts of a CPU, for as many operations as wanted: a lock, some nanoseconds. Waits while
    /// another thread has them. A number beyond the CPUs there are means one of them.
    pub fn enter(&self, cpu: CpuId) -> SlabLocal<'_, M> {
        let cpu = CpuId((usize::from(cpu.0) % self.cpus.len()) as u8);
        SlabLocal::new(self, cpu, self.cpu(cpu).hold())
    }

    /// Hands out an object. A requester that may wait does so as in
    /// [`FrameAllocator::alloc`], if a slab has to be made: hold no lock here that freeing needs.
    ///
    /// # Errors
    /// [`SlabError::NoFrames`] and [`SlabError::NoTable`].
    pub fn alloc(&self, cpu: CpuId, request: &SlabRequest) -> Result<Object, SlabError> {
        if request.get_flags().may_wait() {
            if let Some(object) = self.enter(cpu).alloc_ready(request) {
                return Ok(object);
            }
            self.add_slab(cpu, request)?;
        }
        self.enter(cpu).alloc(request)
    }

    /// Adds an empty slab; whoever comes first has its places.
    fn add_slab(&self, cpu: CpuId, request: &SlabRequest) -> Result<(), SlabError> {
        let class = request.class();
        let mut source = |request: &_| self.frames.alloc(cpu, request);
        let span = self.obtain(request, class.class().best(), request.get_flags(), cpu, &mut source)?;
        let mut cache = self.cache(class);
        let inserted = self.insert(&mut cache, class, span, false);
        drop(cache);
        inserted.map(|_| ()).inspect_err(|_| {
            self.release(cpu, span);
        })
    }

    /// Takes an object back.
    ///
    /// # Errors
    /// See [`SlabLocal::free`].
    pub fn free(&self, cpu: CpuId, object: Object) -> Result<(), SlabError> {
        self.enter(cpu).free(object)
    }

    /// Returns empty slabs, all but `keep` of each class and all of reserve frames, and says how many frames
    /// that was. It needs no memory. Fronts that are in use at the moment keep what they hold until their
    /// holder lets go; what becomes empty then stays until the next time.
    pub fn shrink(&self, cpu: CpuId, keep: u32) -> u64 {
        self.drain_all();
        let mut returned = 0;
        for class in ClassId::all() {
            loop {
                let Some(span) = self.cache(class).take_empty(keep) else { break };
                returned += self.release(cpu, span);
            }
        }
        returned
    }

    /// Gives back what the fronts of all CPUs hold, but for those that are in use: they do it themselves when
    /// they are let go.
    pub(super) fn drain_all(&self) {
        for (id, cpu) in (0..).zip(self.cpus.iter()) {
            cpu.wanted.store(true, Ordering::Release);
            if let Some(held) = cpu.try_hold() {
                SlabLocal::new(self, CpuId(id), held).drain();
            }
        }
    }

    /// By size class. Exact once nobody is getting or putting.
    pub fn info(&self) -> SlabInfo {
        SlabInfo { caches: ClassId::all().filter_map(|class| self.cache_info(class)).collect() }
    }

    fn cache_info(&self, class: ClassId) -> Option<CacheInfo> {
        let cache = self.cache(class);
        let totals = cache.totals();
        if !totals.ever_used {
            return None;
        }
        let (mut ready, mut lengths) = (0u64, 0u64);
        for cpu in &self.cpus {
            for front in [false, true].map(|reserve| cpu.front(class, reserve)) {
                ready += front.held().map_or(0, |held| u64::from(held.bits.count_ones()));
                lengths = lengths.wrapping_add(front.counted());
            }
        }
        let active = totals.places.saturating_sub(totals.free + ready);
        let kind = if self.page_type.is_movable() { "movable" } else { "kmem" };
        let best = class.class().best();
        Some(CacheInfo {
            name: format!("{kind}-{}", class.class().size),
            object_size: class.class().size.into(),
            active_objects: active,
            objects: totals.places,
            objects_per_slab: best.places.into(),
            frames_per_slab: best.frames.into(),
            slabs: totals.slabs.into(),
            reserve_slabs: totals.reserve_slabs.into(),
            requested_bytes: lengths.wrapping_add(active),
        })
    }

    /// The frame allocator below.
    pub fn frames(&self) -> &Arc<FrameAllocator<M>> {
        &self.frames
    }

    pub(super) fn cpu(&self, cpu: CpuId) -> &Cpu {
        &self.cpus[usize::from(cpu.0) % self.cpus.len()]
    }

    pub(super) fn front(&self, cpu: CpuId, class: ClassId, reserve: bool) -> &Front {
        self.cpu(cpu).front(class, reserve)
    }

    /// Locks a class.
    pub(super) fn cache(&self, class: ClassId) -> crate::core::sync::MutexGuard<'_, Cache> {
        lock(&self.caches[usize::from(class.0) % IN_USE])
    }
}
