//! Every point where an allocation can fail is made to fail: nothing leaks, and what is refused is as
//! before.

use super::{CPU, GUEST, frames};
use crate::core::alloc::Full;
use crate::core::request::{AllocError, Flags};
use crate::core::slab::class::ClassId;
use crate::core::slab::{MovableSlabs, SlabError, SlabRequest, Slabs};
use crate::core::sync::lock;
use crate::core::units::{FRAME_SIZE, OwnerId};

/// Sizes whose slabs are of 1, 3, 5, 7 and 8 frames.
const SIZES: [usize; 6] = [32, 96, 3000, 2900, 3500, 2980];

fn refuse<M: crate::core::alloc::Mode>(slabs: &Slabs<M>, refuse: bool) {
    for class in ClassId::all() {
        lock(&slabs.caches[usize::from(class.0)]).refuse_growth = refuse;
    }
}

#[test]
fn frames_refused_by_a_limit_of_any_size() {
    for limit in 0..24 {
        for flags in [Flags::NONE, Flags::NOWAIT] {
            let frames = frames::<Full>(1, 1, 0);
            frames.set_limit(GUEST, Some(limit));
            let slabs = Slabs::new(frames.clone(), GUEST, 1);
            let mut objects = Vec::new();
            for size in SIZES {
                let request = SlabRequest::new(size).unwrap().flags(flags);
                let error = loop {
                    match slabs.alloc(CPU, &request) {
                        Ok(object) => objects.push(object),
                        Err(error) => break error,
                    }
                };
                let limited =
                    matches!(error, SlabError::NoFrames { cause: AllocError::LimitReached { .. }, .. });
                assert!(limited, "{error}");
                // Smaller slabs were made until not a single frame was left.
                assert_eq!(slabs.check(), Ok(limit));
            }
            assert_eq!(frames.charged(GUEST), limit);
            for object in objects {
                slabs.free(CPU, object).unwrap();
            }
            slabs.assert_all_is_back();
        }
    }
}

#[test]
fn an_arena_of_which_nothing_is_left() {
    let frames = frames::<Full>(1, 1, 0);
    let slabs = Slabs::new(frames, OwnerId::HOST, 1);
    let request = SlabRequest::new(3000).unwrap().flags(Flags::MEMALLOC);
    let objects: Vec<_> = std::iter::from_fn(|| slabs.alloc(CPU, &request).ok()).collect();
    assert_eq!(slabs.check(), Ok(512));
    // Four in three frames, and one in each fourth frame that these leave.
    assert_eq!(objects.len(), 512 / 4 * 5);
    for object in objects {
        slabs.free(CPU, object).unwrap();
    }
    slabs.assert_all_is_back();
}

#[test]
fn tables_that_cannot_grow() {
    for flags in [Flags::NONE, Flags::NOWAIT, Flags::MEMALLOC] {
        let frames = frames::<Full>(1, 1, 0);
        let slabs = MovableSlabs::new(frames, GUEST, 1);
        for size in SIZES {
            let request = SlabRequest::new(size).unwrap().flags(flags);
            refuse(&slabs.slabs, true);
            assert_eq!(slabs.alloc(CPU, &request), Err(SlabError::NoTable));
            assert_eq!(slabs.slabs.check(), Ok(0));
            refuse(&slabs.slabs, false);
        }
        slabs.handles.refuse_growth(true);
        let request = SlabRequest::new(100).unwrap().flags(flags);
        assert_eq!(slabs.alloc(CPU, &request), Err(SlabError::NoTable));
        assert_eq!(slabs.info().caches.iter().map(|cache| cache.active_objects).sum::<u64>(), 0);
        slabs.handles.refuse_growth(false);
        let handle = slabs.alloc(CPU, &request).unwrap();
        // With a handle to spare nothing has to grow.
        slabs.handles.refuse_growth(true);
        let other = slabs.alloc(CPU, &request).unwrap();
        for handle in [handle, other] {
            slabs.free(CPU, handle).unwrap();
        }
        slabs.slabs.assert_all_is_back();
    }
}

#[test]
fn sizes_that_no_slab_has() {
    for size in [0, FRAME_SIZE + 1, usize::MAX] {
        assert_eq!(SlabRequest::new(size), Err(SlabError::Size(size)));
    }
}
