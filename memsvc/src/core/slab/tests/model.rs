//! Slabs against a model: every operation, and every invariant after each.
//!
//! `PROPTEST_CASES` says how long. Two sets of slabs over one arena, one of them movable, compete with a hog
//! for frames.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::{CPU, GUEST, frames};
use crate::core::alloc::{FrameAllocator, Full};
use crate::core::page_type::PageType;
use crate::core::request::{Flags, Request};
use crate::core::slab::{Handle, MovableSlabs, Object, SlabError, SlabRequest, Slabs};
use crate::core::units::{BlockId, CpuId, FRAMES_PER_BLOCK, FrameId, Order, OwnerId};

const BLOCKS: u32 = 3;
const FRAMES: u64 = BLOCKS as u64 * FRAMES_PER_BLOCK as u64;
const CPUS: u8 = 2;
const MIN: u64 = 24;

#[derive(Clone, Debug)]
enum Op {
    Alloc {
        cpu: CpuId,
        size: usize,
        flags: Flags,
        times: u32,
    },
    Free {
        cpu: CpuId,
        nth: usize,
        step: usize,
        times: u32,
    },
    /// What was freed last, if it was not handed out again.
    FreeAgain {
        cpu: CpuId,
    },
    /// A live object, with bits of its word changed.
    FreeAlmost {
        cpu: CpuId,
        nth: usize,
        change: u64,
    },
    AllocMovable {
        cpu: CpuId,
        size: usize,
        times: u32,
    },
    FreeMovable {
        cpu: CpuId,
        nth: usize,
        step: usize,
        times: u32,
    },
    FreeMovableAgain {
        cpu: CpuId,
    },
    /// With some objects pinned.
    Relocate {
        cpu: CpuId,
        block: u32,
        pinned: usize,
    },
    Shrink {
        keep: u32,
    },
    Limit {
        limit: Option<u64>,
    },
    /// Leaves so many frames free, if more are.
    Hog {
        leave: u64,
    },
    EndHog,
}

fn op() -> impl Strategy<Value = Op> {
    let cpu = || (0..CPUS).prop_map(CpuId);
    let size = || {
        prop_oneof![
            6 => prop::sample::select(vec![32, 100, 256, 700, 1500, 3000, 3500, 4096]),
            1 => 1usize..=4096,
        ]
    };
    let flags = || prop::sample::select(vec![Flags::NONE, Flags::NOWAIT, Flags::MEMALLOC]);
    let step = || prop::sample::select(vec![1usize, 1, 3, 7]);
    let change = prop_oneof![(0u32..64).prop_map(|bit| 1 << bit), any::<u64>()];
    prop_oneof![
        6 => (cpu(), size(), flags(), 1u32..60).prop_map(|(cpu, size, flags, times)| Op::Alloc { cpu, size, flags, times }),
        5 => (cpu(), any::<usize>(), step(), 1u32..80).prop_map(|(cpu, nth, step, times)| Op::Free { cpu, nth, step, times }),
        1 => cpu().prop_map(|cpu| Op::FreeAgain { cpu }),
        1 => (cpu(), any::<usize>(), change).prop_map(|(cpu, nth, change)| Op::FreeAlmost { cpu, nth, change }),
        4 => (cpu(), size(), 1u32..60).prop_map(|(cpu, size, times)| Op::AllocMovable { cpu, size, times }),
        3 => (cpu(), any::<usize>(), step(), 1u32..80).prop_map(|(cpu, nth, step, times)| Op::FreeMovable { cpu, nth, step, times }),
        1 => cpu().prop_map(|cpu| Op::FreeMovableAgain { cpu }),
        2 => (cpu(), 0..BLOCKS, 0usize..3).prop_map(|(cpu, block, pinned)| Op::Relocate { cpu, block, pinned }),
        1 => (0u32..4).prop_map(|keep| Op::Shrink { keep }),
        1 => prop::option::of(0u64..200).prop_map(|limit| Op::Limit { limit }),
        1 => (0u64..100).prop_map(|leave| Op::Hog { leave }),
        1 => Just(Op::EndHog),
    ]
}

struct World {
    frames: Arc<FrameAllocator<Full>>,
    slabs: Slabs,
    movable: MovableSlabs,
    /// Objects, and whether they were asked for with `MEMALLOC`.
    live: Vec<(Object, bool)>,
    freed: Option<Object>,
    handles: Vec<(Handle, usize)>,
    freed_handle: Option<Handle>,
    /// What lies at the offset of a movable object.
    memory: HashMap<u64, u64>,
    content: HashMap<Handle, u64>,
    next_content: u64,
    hog: Vec<FrameId>,
}

impl World {
    fn new() -> Self {
        let frames = frames(BLOCKS, CPUS, MIN);
        Self {
            slabs: Slabs::new(frames.clone(), OwnerId::HOST, CPUS),
            movable: MovableSlabs::new(frames.clone(), GUEST, CPUS),
            frames,
            live: Vec::new(),
            freed: None,
            handles: Vec::new(),
            freed_handle: None,
            memory: HashMap::new(),
            content: HashMap::new(),
            next_content: 1,
            hog: Vec::new(),
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Alloc { cpu, size, flags, times } => {
                // Who may wait would, for a tenth of a second, while the hog has half the reserve.
                let flags = if flags == Flags::NONE && !self.hog.is_empty() { Flags::NOWAIT } else { flags };
                let request = SlabRequest::new(size).unwrap().flags(flags);
                for _ in 0..times {
                    match self.slabs.alloc(cpu, &request) {
                        Ok(object) => {
                            assert_eq!(object.len(), size);
                            if self.freed.is_some_and(|freed| freed.offset() == object.offset()) {
                                self.freed = None;
                            }
                            self.live.push((object, flags == Flags::MEMALLOC));
                        }
                        Err(error) => {
                            assert!(matches!(error, SlabError::NoFrames { .. }), "{error}");
                            break;
                        }
                    }
                }
            }
            Op::Free { cpu, nth, step, times } => {
                for _ in 0..times {
                    if self.live.is_empty() {
                        break;
                    }
                    let at = nth.wrapping_mul(step) % self.live.len();
                    let (object, _) = self.live.remove(at);
                    assert_eq!(self.slabs.free(cpu, object), Ok(()));
                    self.freed = Some(object);
                }
            }
            Op::FreeAgain { cpu } => {
                if let Some(object) = self.freed {
                    let error = self.slabs.free(cpu, object).unwrap_err();
                    let told = matches!(
                        error,
                        SlabError::NotHandedOut { .. }
                            | SlabError::NotOurs { .. }
                            | SlabError::WrongClass { .. }
                            | SlabError::NotAnObject { .. }
                    );
                    assert!(told, "{error}");
                }
            }
            Op::FreeAlmost { cpu, nth, change } => {
                if let Some((object, _)) = self.live.get(nth % self.live.len().max(1))
                    && let Some(almost) = Object::from_bits(object.to_bits() ^ change)
                    && !self.live.iter().any(|(live, _)| live.offset() == almost.offset())
                {
                    assert!(self.slabs.free(cpu, almost).is_err(), "{almost:?}");
                }
            }
            Op::AllocMovable { cpu, size, times } => {
                let request = SlabRequest::new(size).unwrap().flags(Flags::NOWAIT);
                for _ in 0..times {
                    let Ok(handle) = self.movable.alloc(cpu, &request) else { break };
                    let offset = self.movable.pin(handle).unwrap().object().offset();
                    self.memory.insert(offset, self.next_content);
                    self.content.insert(handle, self.next_content);
                    self.next_content += 1;
                    self.handles.push((handle, size));
                    self.freed_handle = self.freed_handle.filter(|freed| *freed != handle);
                }
            }
            Op::FreeMovable { cpu, nth, step, times } => {
                for _ in 0..times {
                    if self.handles.is_empty() {
                        break;
                    }
                    let (handle, _) = self.handles.remove(nth.wrapping_mul(step) % self.handles.len());
                    assert_eq!(self.movable.free(cpu, handle), Ok(()));
                    self.content.remove(&handle);
                    self.freed_handle = Some(handle);
                }
            }
            Op::FreeMovableAgain { cpu } => {
                if let Some(handle) = self.freed_handle {
                    assert_eq!(self.movable.free(cpu, handle), Err(SlabError::NoObject(handle)));
                }
            }
            Op::Relocate { cpu, block, pinned } => self.relocate(cpu, BlockId(block), pinned),
            Op::Shrink { keep } => {
                self.slabs.shrink(CPU, keep);
                self.movable.shrink(CPU, keep);
            }
            Op::Limit { limit } => self.frames.set_limit(GUEST, limit),
            Op::Hog { leave } => {
                let request =
                    Request::new(Order::FRAME, PageType::Kmem).charge_to(OwnerId(2)).flags(Flags::MEMALLOC);
                self.frames.drain_all();
                for _ in leave..self.frames.buddy_info().free_frames {
                    self.hog.push(self.frames.alloc(CPU, &request).unwrap());
                }
                self.frames.drain_all();
            }
            Op::EndHog => self.end_hog(),
        }
    }

    fn end_hog(&mut self) {
        for frame in self.hog.drain(..) {
            self.frames.free(CPU, frame, Order::FRAME).unwrap();
        }
    }

    fn relocate(&mut self, cpu: CpuId, block: BlockId, pinned: usize) {
        let in_block = |handle: Handle| self.movable.pin(handle).unwrap().object().frame().block() == block;
        let inside: Vec<Handle> =
            self.handles.iter().map(|(handle, _)| *handle).filter(|h| in_block(*h)).collect();
        let pins: Vec<_> =
            inside.iter().take(pinned).map(|handle| self.movable.pin(*handle).unwrap()).collect();
        let memory = &mut self.memory;
        let Some(isolated) = self.frames.isolate(block) else { return };
        let done = self.movable.relocate(cpu, &isolated, |from, to| {
            assert_ne!(to.frame().block(), block);
            assert_eq!((from.frame().block(), from.len()), (block, to.len()));
            memory.insert(to.offset(), memory[&from.offset()]);
            memory.insert(from.offset(), 0);
        });
        assert_eq!(done.in_use as usize, pins.len(), "{done:?}");
        assert_eq!(inside.len(), (done.moved + done.in_use + done.no_memory) as usize);
        let stay = inside.iter().filter(|handle| in_block(**handle)).count();
        assert_eq!(stay, inside.len() - done.moved as usize);
        if stay == 0 {
            assert_eq!(done.slabs_left, 0);
        }
        drop(isolated);
        drop(pins);
    }

    fn check(&self) {
        let kmem = self.slabs.check().unwrap();
        let movable = self.movable.slabs.check().unwrap();
        let frames = [PageType::Slab, PageType::MovableSlab].map(|page_type| self.frames.count(page_type));
        assert_eq!(frames, [kmem, movable]);
        assert_eq!((self.frames.charged(OwnerId::HOST), self.frames.charged(GUEST)), (kmem, movable));
        let mut ends = BTreeMap::new();
        let mut add = |object: Object, page_type: PageType, owner: OwnerId| {
            for frame in object.offset() / 4096..=(object.offset() + object.len() as u64 - 1) / 4096 {
                let frame = FrameId(frame as u32);
                assert_eq!((self.frames.page_type(frame), self.frames.owner(frame)), (page_type, owner));
            }
            assert_eq!(ends.insert(object.offset(), object.offset() + object.len() as u64), None);
        };
        for &(object, memalloc) in &self.live {
            add(object, PageType::Slab, OwnerId::HOST);
            assert!(memalloc || !self.frames.is_reserve(object.frame()));
        }
        for (handle, size) in &self.handles {
            let object = self.movable.pin(*handle).unwrap().object();
            add(object, PageType::MovableSlab, GUEST);
            assert_eq!((object.len(), self.memory[&object.offset()]), (*size, self.content[handle]));
        }
        let pairs = || ends.iter().zip(ends.iter().skip(1));
        assert!(pairs().all(|((_, end), (next, _))| end <= next));
        let sums = |info: crate::stats::SlabInfo| {
            let active: u64 = info.caches.iter().map(|cache| cache.active_objects).sum();
            let reserve: u64 = info.caches.iter().map(|cache| cache.reserve_slabs).sum();
            (active, info.caches.iter().map(|cache| cache.requested_bytes).sum::<u64>(), reserve)
        };
        let bytes = self.live.iter().map(|(object, _)| object.len() as u64).sum();
        let (active, requested, reserve) = sums(self.slabs.info());
        assert_eq!((active, requested), (self.live.len() as u64, bytes));
        let bytes = self.handles.iter().map(|(_, size)| *size as u64).sum();
        assert_eq!(sums(self.movable.info()), (self.handles.len() as u64, bytes, 0));
        assert_eq!(self.frames.zone_info().reserve.in_use, reserve + self.hog_in_reserve());
    }

    fn hog_in_reserve(&self) -> u64 {
        self.hog.iter().filter(|frame| self.frames.is_reserve(**frame)).count() as u64
    }

    fn end(mut self) {
        self.end_hog();
        for (object, _) in self.live.drain(..) {
            self.slabs.free(CPU, object).unwrap();
        }
        for (handle, _) in self.handles.drain(..) {
            self.movable.free(CPU, handle).unwrap();
        }
        self.movable.shrink(CPU, 0);
        self.slabs.assert_all_is_back();
        self.movable.slabs.assert_all_is_back();
        assert_eq!(self.frames.buddy_info().free_frames, FRAMES);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn slabs_agree_with_a_model(ops in prop::collection::vec(op(), 1..40)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
            world.check();
        }
        world.end();
    }
}

#[test]
fn a_block_is_emptied_around_what_is_pinned() {
    let mut world = World::new();
    for size in [100, 700, 3000] {
        world.step(&Op::AllocMovable { cpu: CPU, size, times: 60 });
    }
    let block = |world: &World| world.movable.pin(world.handles[0].0).unwrap().object().frame().block();
    let from = block(&world);
    let held = world.frames.count(PageType::MovableSlab);
    world.relocate(CPU, from, 1);
    world.check();
    assert_eq!(block(&world), from);
    world.relocate(CPU, from, 0);
    world.check();
    assert_ne!(block(&world), from);
    assert!(world.frames.count(PageType::MovableSlab) <= held + 8);
    world.end();
}
