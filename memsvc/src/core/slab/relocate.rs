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
//! Frames that the frame allocator offers in this very block are set aside until the end, so that it
//! offers others. They count against the owner's limit meanwhile.

use super::cache::{Place, SlabId};
use super::class::{ClassId, GROUP};
use super::handle::Handle;
use super::movable::MovableSlabs;
use super::object::Object;
use super::pool::SlabRequest;
use crate::core::alloc::Mode;
use crate::core::bitmap::BlockBitmap;
use crate::core::request::{AllocError, Flags};
use crate::core::sync::lock;
use crate::core::units::{BlockId, CpuId, FRAMES_PER_BLOCK, FrameId, Order};

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
    pub fn relocate(&self, cpu: CpuId, block: BlockId, mut copy: impl FnMut(Object, Object)) -> Relocated {
        let _one_at_a_time = lock(&self.relocating);
        let mut done = Relocated::default();
        if u64::from(block.0) * FRAMES_PER_BLOCK as u64 >= self.slabs.frames.frames() {
            return done;
        }
        let mut aside = Aside::new(block);
        self.for_slabs(block, |class, slab| self.slabs.cache(class).isolate(slab));
        self.slabs.drain_all();
        self.for_slabs(block, |class, slab| {
            let groups = self.slabs.cache(class).handed_out(slab);
            for (group, mut bits) in groups.into_iter().enumerate() {
                while bits != 0 {
                    let place = (group * GROUP) as u32 + bits.trailing_zeros();
                    bits &= bits - 1;
                    self.move_one(
                        cpu,
                        class,
                        Place { slab, place: place as u8 },
                        &mut aside,
                        &mut done,
                        &mut copy,
                    );
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
        aside.give_back(|head, order| {
            let freed = self.slabs.frames.free(cpu, head, order);
            debug_assert_eq!(freed, Ok(()));
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

    fn move_one(
        &self,
        cpu: CpuId,
        class: ClassId,
        place: Place,
        aside: &mut Aside,
        done: &mut Relocated,
        copy: &mut impl FnMut(Object, Object),
    ) {
        let cache = self.slabs.cache(class);
        let (handle, word) = (Handle(cache.owner(place)), cache.word(place));
        drop(cache);
        let Some(from) = self.handles.peek(handle).filter(|object| object.lies_at(word)) else {
            done.in_use += 1;
            return;
        };
        let Some(to) = self.place_elsewhere(cpu, from, aside) else {
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
    fn place_elsewhere(&self, cpu: CpuId, object: Object, aside: &mut Aside) -> Option<Object> {
        let request = SlabRequest::new(object.len()).ok()?.flags(Flags::NOWAIT);
        let frames = &self.slabs.frames;
        let mut local = self.slabs.enter(cpu);
        let to = local.alloc_from(&request, &mut |request| {
            loop {
                let head = frames.enter(cpu).alloc(request)?;
                if !aside.set(head, request.get_order()) {
                    return Ok::<_, AllocError>(head);
                }
            }
        });
        // Somebody else may have made a slab in the block since.
        let to = to.ok()?;
        if to.frame().block() != aside.block {
            return Some(to);
        }
        let freed = local.free(to);
        debug_assert_eq!(freed, Ok(()));
        None
    }
}

/// Chunks of the block that were offered meanwhile, by order; there is room for all of it.
#[derive(Debug)]
struct Aside {
    block: BlockId,
    heads: [BlockBitmap; Order::COUNT],
}

impl Aside {
    fn new(block: BlockId) -> Self {
        Self { block, heads: [BlockBitmap::EMPTY; Order::COUNT] }
    }

    /// Sets a chunk aside if it is of the block.
    fn set(&mut self, head: FrameId, order: Order) -> bool {
        let ours = head.block() == self.block;
        ours && self.heads[usize::from(order.get())].insert(head.index())
    }

    fn give_back(self, mut free: impl FnMut(FrameId, Order)) {
        for (order, heads) in Order::all().zip(self.heads) {
            heads.iter().for_each(|index| free(self.block.frame(index), order));
        }
    }
}
