//! Movable slabs: objects have handles, so that the blocks in which they lie can be emptied.

use std::sync::Arc;

use super::cache::{Place, SlabId};
use super::class::{ClassId, IN_USE};
use super::error::SlabError;
use super::handle::{Handle, HandleTable, Pinned};
use super::object::Object;
use super::pool::{SlabRequest, Slabs};
use crate::core::alloc::{FrameAllocator, Full, Mode};
use crate::core::page_type::PageType;
use crate::core::sync::Mutex;
use crate::core::units::{CpuId, FrameId, OwnerId};
use crate::stats::SlabInfo;

/// Slabs of one owner whose objects can be moved. Every method may be called from any thread that holds no
/// lists of the frame allocator.
#[derive(Debug)]
pub struct MovableSlabs<M: Mode = Full> {
    pub(super) slabs: Slabs<M>,
    pub(super) handles: HandleTable,
    /// Held while a block is emptied: one at a time.
    pub(super) relocating: Mutex<()>,
}

impl<M: Mode> MovableSlabs<M> {
    /// No slabs yet. Their frames are of type [`PageType::MovableSlab`]; else as [`Slabs::new`].
    pub fn new(frames: Arc<FrameAllocator<M>>, owner: OwnerId, cpus: u8) -> Self {
        Self {
            slabs: Slabs::with_type(frames, owner, cpus, PageType::MovableSlab),
            handles: HandleTable::new(),
            relocating: Mutex::new(()),
        }
    }

    /// Makes the table of handles for so many objects, if there is address space for that: none of these needs
    /// memory for its handle then. What is not used is address space only.
    pub fn prepare(&self, objects: u64) {
        self.handles.prepare(objects);
    }

    /// Hands out an object; waits as [`Slabs::alloc`] does.
    ///
    /// # Errors
    /// [`SlabError::NoFrames`] and [`SlabError::NoTable`].
    pub fn alloc(&self, cpu: CpuId, request: &SlabRequest) -> Result<Handle, SlabError> {
        let object = self.slabs.alloc(cpu, request)?;
        match self.handles.add(object) {
            Ok(handle) => {
                self.set_owner(object, handle);
                Ok(handle)
            }
            Err(_) => {
                self.slabs.free(cpu, object)?;
                Err(SlabError::NoTable)
            }
        }
    }

    /// Keeps an object where it is, and says where that is. Waits for a copy if it is being moved.
    ///
    /// # Errors
    /// [`SlabError::NoObject`]; [`SlabError::Pinned`] when 13 others have it pinned.
    pub fn pin(&self, handle: Handle) -> Result<Pinned<'_>, SlabError> {
        self.handles.pin(handle)
    }

    /// Takes an object back.
    ///
    /// # Errors
    /// [`SlabError::NoObject`]; [`SlabError::Pinned`] when somebody has it pinned.
    pub fn free(&self, cpu: CpuId, handle: Handle) -> Result<(), SlabError> {
        let moving = self.handles.begin_free(handle)?;
        self.slabs.free(cpu, moving.object())?;
        self.handles.remove(handle, moving);
        Ok(())
    }

    /// See [`Slabs::shrink`].
    pub fn shrink(&self, cpu: CpuId, keep: u32) -> u64 {
        self.slabs.shrink(cpu, keep)
    }

    /// See [`Slabs::info`].
    pub fn info(&self) -> SlabInfo {
        self.slabs.info()
    }

    /// The frame allocator below.
    pub fn frames(&self) -> &Arc<FrameAllocator<M>> {
        self.slabs.frames()
    }

    /// Notes in the slab whose handle the place of an object is.
    pub(super) fn set_owner(&self, object: Object, handle: Handle) {
        if let Some((class, slab)) = self.slab_of(object.frame()) {
            self.slabs.cache(class).set_owner(Place { slab, place: object.place() }, handle.0);
        }
    }

    /// The slab of ours in which a frame is.
    pub(super) fn slab_of(&self, frame: FrameId) -> Option<(ClassId, SlabId)> {
        let (class, slab) = SlabId::from_rmap(self.slabs.frames.rmap(frame));
        if usize::from(class.0) >= IN_USE {
            return None;
        }
        let span = self.slabs.cache(class).span(slab)?;
        span.contains(frame).then_some((class, slab))
    }
}
