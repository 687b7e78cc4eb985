//! Emptying a block of movable slabs, so that compaction can have it.
//!
//! ```text
//!   isolate   the slabs in the block are taken off the lists: nothing more is handed out of them;
//!             the fronts give back what they hold
//!   move      object by object: a place elsewhere, begin_move, copy, finish, free the old place
//!   rejoin    slabs that are empty now are returned; the others are as before
//! ```
//! An object moves wholly or stays. It stays when it is pinned, when there is no place for it, or
//! when its group is in the front of a CPU that is in use at the moment.
//!
//! The block is isolated: the frame allocator offers no frames in it.

use super::cache::{Place, SlabId};
use super::class::{ClassId, GROUP};
use super::handle::Handle;
use super::movable::MovableSlabs;
use super::object::Object;
use super::pool::SlabRequest;
use crate::core::alloc::Mode;
use crate::core::isolate::Isolated;
use crate::core::request::Flags;
use crate::core::sync::lock;
use crate::core::units::{BlockId, CpuId, FRAMES_PER_BLOCK};

/// What emptying a block came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relocated {
    /// Objects moved.
    pub moved: u32,
    /// Objects that stay because they are in use.
    pub in_use: u32,
    /// Objects that stay because there was no place for them.
    pub no_memory: u32,
    /// Frames returned.
    pub frames: u64,
    /// Slabs that are still in the block.
    pub slabs_left: u32,
}

impl<M: Mode> MovableSlabs<M> {
    /// Moves the objects in a block elsewhere and returns the frames. `copy` is called with where an object
    /// is and where it is to be; nobody has it pinned meanwhile, and it must not be asked for in there.
    pub fn relocate(
        &self,
        cpu: CpuId,
        isolated: &Isolated<'_, M>,
        mut copy: impl FnMut(Object, Object),
    ) -> Relocated {
        let _one_at_a_time = lock(&self.relocating);
        let block = isolated.block();
        let mut done = Relocated::default();
        // Frames in it may be ready in per-CPU lists.
        self.slabs.frames.drain_all();
        self.for_slabs(block, |class, slab| self.slabs.cache(class).isolate(slab));
        self.slabs.drain_all();
        self.for_slabs(block, |class, slab| {
            let groups = self.slabs.cache(class).handed_out(slab);
            for (group, mut bits) in groups.into_iter().enumerate() {
                while bits != 0 {
                    let place = (group * GROUP) as u32 + bits.trailing_zeros();
                    bits &= bits - 1;
                    let place = Place { slab, place: place as u8 };
                    let elsewhere = |object: Object| self.place_elsewhere(cpu, object);
                    self.move_one(cpu, class, place, &mut done, &mut copy, elsewhere);
                }
            }
        });
        self.for_slabs(block, |class, slab| {
            let mut cache = self.slabs.cache(class);
            let isolated = cache.is_isolated(slab);
            let emptied = if isolated { cache.rejoin(slab) } else { None };
            drop(cache);
            match emptied {
                Some(span) => done.frames += self.slabs.release(cpu, span),
                None => done.slabs_left += 1,
            }
        });
        done
    }

    /// Calls back for each slab of ours in a block.
    fn for_slabs(&self, block: BlockId, mut f: impl FnMut(ClassId, SlabId)) {
        let mut last = None;
        for index in 0..FRAMES_PER_BLOCK {
            let slab = self.slab_of(block.frame(index));
            if let Some((class, slab)) = slab.filter(|_| slab != last) {
                f(class, slab);
            }
            last = slab;
        }
    }

    /// Moves what is in a place to one that `elsewhere` finds.
    pub(super) fn move_one(
        &self,
        cpu: CpuId,
        class: ClassId,
        place: Place,
        done: &mut Relocated,
        copy: &mut impl FnMut(Object, Object),
        elsewhere: impl Fn(Object) -> Option<Object>,
    ) {
        let cache = self.slabs.cache(class);
        let (handle, word) = (Handle(cache.owner(place)), cache.word(place));
        drop(cache);
        let Some(from) = self.handles.peek(handle).filter(|object| object.lies_at(word)) else {
            done.in_use += 1;
            return;
        };
        let Some(to) = elsewhere(from) else {
            done.no_memory += 1;
            return;
        };
        let moving = self.handles.begin_move(handle, from);
        let unused = match moving {
            Some(moving) => {
                self.set_owner(to, handle);
                copy(from, to);
                moving.finish(to);
                done.moved += 1;
                from
            }
            None => {
                done.in_use += 1;
                to
            }
        };
        let freed = self.slabs.free(cpu, unused);
        debug_assert_eq!(freed, Ok(()));
    }

    /// A place like that of the object, in another block.
    fn place_elsewhere(&self, cpu: CpuId, object: Object) -> Option<Object> {
        let request = SlabRequest::new(object.len()).ok()?.flags(Flags::NOWAIT);
        let mut local = self.slabs.enter(cpu);
        let to = local.alloc(&request).ok()?;
        // A list that was in use may have held frames of the block.
        if to.frame().block() != object.frame().block() {
            return Some(to);
        }
        let freed = local.free(to);
        debug_assert_eq!(freed, Ok(()));
        None
    }
}
