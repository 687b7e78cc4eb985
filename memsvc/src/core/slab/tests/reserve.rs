//! Reserve frames serve `MEMALLOC` only, and only while there is nothing else.

use std::sync::Arc;

use super::{CPU, frames};
use crate::core::alloc::{FrameAllocator, Full};
use crate::core::page_type::PageType;
use crate::core::request::{AllocError, Flags, Request};
use crate::core::slab::{SlabError, SlabRequest, Slabs};
use crate::core::units::{FrameId, Order, OwnerId};

const MIN: u64 = 64;

const HOG: Request = Request::new(Order::FRAME, PageType::Kmem).flags(Flags::NOWAIT);

/// Slabs where all but the reserve is taken.
fn used_up() -> (Arc<FrameAllocator>, Slabs, Vec<FrameId>) {
    let frames = frames::<Full>(1, 1, MIN);
    let slabs = Slabs::new(frames.clone(), OwnerId::HOST, 1);
    let hog = std::iter::from_fn(|| frames.alloc(CPU, &HOG).ok()).collect();
    (frames, slabs, hog)
}

#[test]
fn a_reserve_slab_serves_memalloc_only_and_only_until_memory_is_back() {
    let (frames, slabs, hog) = used_up();
    let plain = SlabRequest::new(100).unwrap().flags(Flags::NOWAIT);
    let memalloc = plain.flags(Flags::MEMALLOC);

    let first = slabs.alloc(CPU, &memalloc).unwrap();
    assert!(frames.is_reserve(first.frame()));
    assert_eq!((slabs.info().caches[0].reserve_slabs, frames.zone_info().reserve.in_use), (1, 1));
    // It has places left, and they are not for everybody.
    let refused = slabs.alloc(CPU, &plain).unwrap_err();
    assert!(matches!(refused, SlabError::NoFrames { cause: AllocError::NoMemory { .. }, .. }), "{refused}");
    assert_eq!(slabs.alloc(CPU, &memalloc).unwrap().frame(), first.frame());
    // Also not when its group has been given back and is on the list.
    slabs.shrink(CPU, 0);
    assert!(slabs.alloc(CPU, &plain).is_err());
    assert_eq!(slabs.alloc(CPU, &memalloc).unwrap().frame(), first.frame());
    slabs.shrink(CPU, 0);

    for frame in hog {
        frames.free(CPU, frame, Order::FRAME).unwrap();
    }
    let normal = slabs.alloc(CPU, &memalloc).unwrap();
    assert!(!frames.is_reserve(normal.frame()));
    assert!(!frames.is_reserve(slabs.alloc(CPU, &plain).unwrap().frame()));
    assert_eq!(slabs.info().caches[0].reserve_slabs, 1);
}

#[test]
fn an_empty_reserve_slab_is_returned_at_once_and_its_frame_is_as_any_other() {
    let (frames, slabs, hog) = used_up();
    let memalloc = SlabRequest::new(4096).unwrap().flags(Flags::MEMALLOC);

    let objects = [(); 2].map(|()| slabs.alloc(CPU, &memalloc).unwrap());
    assert_eq!(frames.zone_info().reserve.in_use, 2);
    for (object, left) in objects.into_iter().zip([1, 0]) {
        slabs.free(CPU, object).unwrap();
        assert_eq!(frames.zone_info().reserve.in_use, left);
    }
    for frame in hog {
        frames.free(CPU, frame, Order::FRAME).unwrap();
    }
    slabs.assert_all_is_back();
}

#[test]
fn who_may_wait_for_a_slab_waits_once_and_not_for_each_size_of_slab() {
    let frames = frames::<Full>(1, 1, MIN);
    let slabs = Slabs::new(frames.clone(), OwnerId::HOST, 1);
    let hog_request = Request::new(Order::FRAME, PageType::Kmem).flags(Flags::MEMALLOC);
    let hog: Vec<_> = std::iter::from_fn(|| frames.alloc(CPU, &hog_request).ok()).collect();
    // The best slab for this size is of 8 frames: there are worse ones.
    assert!(slabs.alloc(CPU, &SlabRequest::new(2976).unwrap()).is_err());
    assert_eq!(frames.zone_info().reserve.throttled, 1);
    for frame in hog {
        frames.free(CPU, frame, Order::FRAME).unwrap();
    }
    slabs.assert_all_is_back();
}

#[test]
fn frames_that_a_request_leaves_are_for_those_that_leave_fewer_and_it_still_gets_places_that_are_there() {
    let (frames, slabs, _) = used_up();
    let half = SlabRequest::new(2048).unwrap().flags(Flags::MEMALLOC);

    let first = slabs.alloc(CPU, &half).unwrap();
    assert!(
        matches!(slabs.alloc(CPU, &half.leaves(64)).map(|it| it.frame()), Ok(frame) if frame == first.frame())
    );
    let refused = slabs.alloc(CPU, &half.leaves(63)).unwrap_err();
    assert!(matches!(refused, SlabError::NoFrames { cause: AllocError::NoMemory { .. }, .. }), "{refused}");
    assert!(slabs.alloc(CPU, &half.leaves(62)).is_ok());

    let frame = HOG.flags(Flags::MEMALLOC).leaves(7);
    let taken = std::iter::from_fn(|| frames.alloc(CPU, &frame).ok()).count() as u64;
    assert_eq!((taken, frames.zone_info().free), (MIN - 2 - 7, 7));
}
