//! Fewer slabs for the same objects: those with the fewest are emptied into the others (`zs_compact`,
//! mm/zsmalloc.c).
//!
//! ```text
//!   slabs of a class, by objects:   1  2  5 │ 17 20 31      sources: as many as the others have places for
//!                                   └──┴──┘─┴▶ free places
//! ```
//! All sources are isolated before the first object moves, so that none moves twice. Blocks that have frames
//! free then are compaction's, as any. Who asks for it is asked in turn, piece by piece, whether it goes on:
//! it may rest then. Sources that are left are as before.
//!
//! Slabs of reserve frames are squeezed by themselves, after the others: an object that does without them does not get there.

use super::cache::Place;
use super::class::{ClassId, GROUP};
use super::movable::MovableSlabs;
use super::object::Object;
use super::relocate::Relocated;
use crate::core::alloc::Mode;
use crate::core::sync::lock;
use crate::core::units::{CpuId, FRAMES_PER_BLOCK};

/// Slabs between two questions whether it goes on: at most a block's worth of frames.
const PIECE: usize = 64;

/// True when so many frames of slabs, of which places that come to `unused` frames are free, are worth
/// squeezing unasked: a block is to be had, and a quarter of them.
pub fn is_worth_squeezing(frames: u64, unused: u64) -> bool {
    unused >= FRAMES_PER_BLOCK as u64 && unused >= frames / 4
}

impl<M: Mode> MovableSlabs<M> {
    /// Moves objects together, and returns the slabs that are empty then. `copy` is called as by
    /// [`MovableSlabs::relocate`]; `goes_on` before each piece of work.
    pub fn squeeze(
        &self,
        cpu: CpuId,
        mut goes_on: impl FnMut() -> bool,
        mut copy: impl FnMut(Object, Object),
    ) -> Relocated {
        let _one_at_a_time = lock(&self.relocating);
        let mut done = Relocated { frames: self.slabs.shrink(cpu, 0), ..Relocated::default() };
        let kinds =
            [false, true].into_iter().flat_map(|reserve| ClassId::all().map(move |class| (class, reserve)));
        for (class, reserve) in kinds {
            if !self.squeeze_class(cpu, class, reserve, &mut done, &mut goes_on, &mut copy) {
                break;
            }
        }
        done
    }

    /// False when it was stopped.
    fn squeeze_class(
        &self,
        cpu: CpuId,
        class: ClassId,
        reserve: bool,
        done: &mut Relocated,
        goes_on: &mut impl FnMut() -> bool,
        copy: &mut impl FnMut(Object, Object),
    ) -> bool {
        let mut stopped = false;
        let sources = {
            let mut cache = self.slabs.cache(class);
            let sources = cache.sparsest(reserve);
            sources.iter().for_each(|slab| cache.isolate(*slab));
            sources
        };
        for (number, slab) in sources.into_iter().enumerate() {
            stopped = stopped || number.is_multiple_of(PIECE) && !goes_on();
            let groups = if stopped { [0; _] } else { self.slabs.cache(class).handed_out(slab) };
            for (group, mut bits) in groups.into_iter().enumerate() {
                while bits != 0 {
                    let place = (group * GROUP) as u32 + bits.trailing_zeros();
                    bits &= bits - 1;
                    let elsewhere = |object: Object| self.ready_place(cpu, object, reserve);
                    self.move_one(cpu, class, Place { slab, place: place as u8 }, done, copy, elsewhere);
                }
            }
            let emptied = self.slabs.cache(class).rejoin(slab);
            match emptied {
                Some(span) => done.frames += self.slabs.release(cpu, span),
                None => done.slabs_left += 1,
            }
        }
        !stopped
    }

    /// A place like that of the object, in a slab that is there; one of `reserve` frames will do for what is in such.
    fn ready_place(&self, cpu: CpuId, object: Object, reserve: bool) -> Option<Object> {
        let request = super::SlabRequest::new(object.len()).ok()?;
        let mut local = self.slabs.enter(cpu);
        let place = local.alloc_ready(&request);
        place.or_else(|| if reserve { local.alloc_ready_of_reserve(&request) } else { None })
    }

    /// Frames of slabs, and frames that the places that are free in them come to.
    pub fn usage(&self) -> (u64, u64) {
        let (mut frames, mut unused) = (0, 0);
        for class in ClassId::all() {
            let (has, free) = self.slabs.cache(class).usage();
            frames += has;
            unused += free;
        }
        (frames, unused)
    }
}

#[cfg(test)]
#[cfg(not(memsvc_loom))]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::SlabRequest;
    use super::*;
    use crate::core::alloc::{Config, FrameAllocator};
    use crate::core::units::OwnerId;
    use crate::core::watermark::Watermarks;

    const CPU: CpuId = CpuId(0);

    #[test]
    fn a_block_and_a_quarter_are_worth_it() {
        assert!(!is_worth_squeezing(1000, 511));
        assert!(is_worth_squeezing(2048, 512));
        assert!(!is_worth_squeezing(2052, 512));
    }

    proptest! {
        /// Objects are in as few slabs as they can be, one more for each class at most, and none is lost.
        #[test]
        fn few_slabs_are_left(
            sizes in prop::collection::vec(1..=4096usize, 1..6),
            count in 1..2000usize,
            keep in 1..9usize,
            // After so many pieces of work it is stopped, and begun again.
            pieces in 0..3u32,
            seed: u64,
        ) {
            let frames = FrameAllocator::new(Config { blocks: 8, cpus: 1, watermarks: Watermarks::NONE });
            let slabs: MovableSlabs = MovableSlabs::new(Arc::new(frames), OwnerId::HOST, 1);
            let mut random = fastrand::Rng::with_seed(seed);
            let mut handles = Vec::new();
            for _ in 0..count {
                let size = sizes[random.usize(0..sizes.len())];
                let Ok(handle) = slabs.alloc(CPU, &SlabRequest::new(size).unwrap()) else { break };
                handles.push(handle);
            }
            let mut contents = HashMap::new();
            for (number, handle) in handles.into_iter().enumerate() {
                if random.usize(0..8) < keep {
                    contents.insert(slabs.pin(handle).unwrap().object().offset(), (handle, number));
                } else {
                    slabs.free(CPU, handle).unwrap();
                }
            }
            let mut copy = |from: Object, to: Object| {
                let what = contents.remove(&from.offset()).unwrap();
                let before = contents.insert(to.offset(), what);
                assert_eq!(before, None, "an object was put where another is");
            };
            let mut left = pieces;
            let goes_on = || {
                left = left.saturating_sub(1);
                left > 0
            };
            slabs.squeeze(CPU, goes_on, &mut copy);
            slabs.squeeze(CPU, || true, &mut copy);
            for (offset, (handle, _)) in &contents {
                prop_assert_eq!(slabs.pin(*handle).unwrap().object().offset(), *offset);
            }
            let caches = slabs.info().caches;
            for cache in caches {
                let least = cache.active_objects.div_ceil(cache.objects_per_slab.into());
                prop_assert!(cache.slabs <= least + 1, "{:?}", cache);
            }
        }
    }
}
