//! Under loom: fronts against those who get at their slabs from elsewhere, handles against the mover.
//!
//! There is one class, of 32 bytes (see `ClassId::all`), so that the state is small.

use std::sync::Arc;

use loom::model::Builder;
use loom::thread;

use super::class::ClassId;
use super::handle::HandleTable;
use super::{Object, SlabError, SlabRequest, Slabs};
use crate::core::alloc::{Config, FrameAllocator, Full};
use crate::core::page_type::PageType;
use crate::core::sync::atomic::{AtomicU32, Ordering};
use crate::core::units::{CpuId, OwnerId};
use crate::core::watermark::Watermarks;

const OWN: CpuId = CpuId(0);
const OTHER: CpuId = CpuId(1);

fn check(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let f = std::sync::Arc::new(f);
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(move || {
        let f = f.clone();
        spawn(move || f()).join().unwrap();
    });
}

/// A thread with a stack for what is boxed after it was made.
fn spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(1 << 20).spawn(f).unwrap()
}

fn slabs() -> Arc<Slabs> {
    let watermarks = Watermarks { min: 0, low: 0, high: 0 };
    let frames: FrameAllocator<Full> = FrameAllocator::new(Config { blocks: 1, cpus: 1, watermarks });
    Arc::new(Slabs::new(Arc::new(frames), OwnerId::HOST, 2))
}

fn request() -> SlabRequest {
    SlabRequest::new(32).unwrap()
}

/// All that is live is freed once, then nothing is left.
fn end(slabs: &Slabs, live: &[Object]) {
    assert_eq!(slabs.info().caches[0].active_objects, live.len() as u64);
    for object in live {
        assert_eq!(live.iter().filter(|other| *other == object).count(), 1);
        slabs.free(OTHER, *object).unwrap();
        assert!(matches!(slabs.free(OTHER, *object), Err(SlabError::NotHandedOut { .. })));
    }
    slabs.shrink(OWN, 0);
    slabs.frames().drain_all();
    assert_eq!(slabs.frames().count(PageType::Slab), 0);
}

#[test]
fn front_against_shrink() {
    check(2, || {
        let slabs = slabs();
        let first = slabs.alloc(OWN, &request()).unwrap();
        let owner = {
            let slabs = slabs.clone();
            spawn(move || {
                let second = slabs.alloc(OWN, &request()).unwrap();
                slabs.free(OWN, first).unwrap();
                second
            })
        };
        slabs.shrink(OTHER, 0);
        let second = owner.join().unwrap();
        end(&slabs, &[second]);
    });
}

#[test]
fn front_against_a_free_elsewhere() {
    check(3, || {
        let slabs = slabs();
        let [first, second] = [(); 2].map(|()| slabs.alloc(OWN, &request()).unwrap());
        let other = {
            let slabs = slabs.clone();
            spawn(move || slabs.free(OTHER, first).unwrap())
        };
        let mut local = slabs.enter(OWN);
        local.free(second).unwrap();
        let third = local.alloc(&request()).unwrap();
        drop(local);
        other.join().unwrap();
        // It may have been handed out again.
        assert!(third == first || slabs.free(OWN, first).is_err());
        end(&slabs, &[third]);
    });
}

#[test]
fn a_pin_sees_the_object_where_it_is_and_whole() {
    check(3, || {
        let table = Arc::new(HandleTable::new());
        let [from, to] = [0, 1].map(|word| Object::from_bits(word).unwrap());
        assert_eq!(from.class(), ClassId(0));
        let memory = Arc::new([AtomicU32::new(7), AtomicU32::new(0)]);
        let handle = table.add(from).unwrap();
        let user = {
            let (table, memory) = (table.clone(), memory.clone());
            spawn(move || {
                for _ in 0..2 {
                    let pinned = table.pin(handle).unwrap();
                    let at = &memory[(pinned.object().offset() / 32) as usize];
                    let value = at.load(Ordering::Relaxed);
                    assert!(value >= 7);
                    at.store(value + 1, Ordering::Relaxed);
                }
            })
        };
        if let Some(moving) = table.begin_move(handle, from) {
            memory[1].store(memory[0].load(Ordering::Relaxed), Ordering::Relaxed);
            memory[0].store(0, Ordering::Relaxed);
            moving.finish(to);
        }
        user.join().unwrap();
        let pinned = table.pin(handle).unwrap();
        assert_eq!(memory[(pinned.object().offset() / 32) as usize].load(Ordering::Relaxed), 9);
    });
}

#[test]
fn an_object_is_freed_or_moved_and_never_both() {
    check(3, || {
        let table = Arc::new(HandleTable::new());
        let [from, to] = [0, 1].map(|word| Object::from_bits(word).unwrap());
        let handle = table.add(from).unwrap();
        let freer = {
            let table = table.clone();
            spawn(move || {
                let freeing = table.begin_free(handle).unwrap();
                let object = freeing.object();
                table.remove(handle, freeing);
                object
            })
        };
        let moved = table.begin_move(handle, from).map(|moving| moving.finish(to)).is_some();
        assert_eq!(freer.join().unwrap(), if moved { to } else { from });
        assert!(table.pin(handle).is_err());
        assert_eq!(table.add(from), Ok(handle));
    });
}
