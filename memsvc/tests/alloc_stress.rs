//! Threads get, put, hand over, drain and retag at once; each frame has a mark that says whose it is.
//!
//! `MEMSVC_STRESS_STEPS` says how many steps each thread takes; `ci/soak` asks for many.

#![allow(clippy::unwrap_used)] // a test

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Instant;

use memsvc::core::alloc::{Config, FrameAllocator};
use memsvc::core::page_type::PageType;
use memsvc::core::request::{Flags, FreeError, Request};
use memsvc::core::units::{CpuId, FRAMES_PER_BLOCK, FrameId, Order, OwnerId};
use memsvc::core::watermark::Watermarks;

const THREADS: u8 = 4;
const BLOCKS: u32 = 24;
/// Steps that a thread takes between entering its CPU and leaving it.
const STAY: u32 = 64;
/// Frames that a thread may hold: all together, and so some requests find nothing.
const MOST: u32 = BLOCKS * FRAMES_PER_BLOCK as u32 / THREADS as u32;

#[derive(Clone, Copy)]
struct Chunk {
    head: FrameId,
    order: Order,
    page_type: PageType,
}

impl Chunk {
    fn frames(self) -> impl Iterator<Item = usize> {
        (self.head.0..self.head.0 + self.order.frames()).map(|frame| frame as usize)
    }
}

struct World {
    alloc: FrameAllocator,
    /// 0 for a free frame, 1 for one in use.
    marks: Vec<AtomicU8>,
    /// What is given to whoever comes for it.
    handed_over: Mutex<Vec<Chunk>>,
    barrier: Barrier,
}

impl World {
    fn new() -> Self {
        let frames = u64::from(BLOCKS) * FRAMES_PER_BLOCK as u64;
        let watermarks = Watermarks::for_arena(frames);
        Self {
            alloc: FrameAllocator::new(Config { blocks: BLOCKS, cpus: THREADS, watermarks }),
            marks: (0..frames).map(|_| AtomicU8::new(0)).collect(),
            handed_over: Mutex::new(Vec::new()),
            barrier: Barrier::new(THREADS.into()),
        }
    }

    fn mark(&self, chunk: Chunk) {
        for frame in chunk.frames() {
            assert_eq!(self.marks[frame].swap(1, Ordering::AcqRel), 0, "frame {frame} was given out twice");
        }
    }

    fn unmark(&self, chunk: Chunk) {
        for frame in chunk.frames() {
            assert_eq!(self.marks[frame].swap(0, Ordering::AcqRel), 1, "frame {frame} was in use by nobody");
        }
    }
}

/// What a thread asks for: mostly frames and blocks, for three owners.
fn request(random: &mut fastrand::Rng, thread: u8) -> (Order, PageType, Request) {
    let order = match random.u8(..32) {
        0 => Order::BLOCK,
        1..4 => Order::new(random.u8(1..9)).unwrap(),
        _ => Order::FRAME,
    };
    let types = [PageType::Guest, PageType::Guest, PageType::Guest, PageType::Kmem, PageType::Slab];
    let flags = [Flags::NOWAIT, Flags::NOWAIT, Flags::NOWAIT, Flags::MEMALLOC];
    // What is retagged later is a single frame or a whole block.
    let fronted = order == Order::FRAME || order == Order::BLOCK;
    let page_type = if fronted { types[random.usize(..types.len())] } else { PageType::Kmem };
    let request = Request::new(order, page_type)
        .flags(flags[random.usize(..flags.len())])
        .charge_to(OwnerId(thread % 3));
    (order, page_type, request)
}

fn work(world: &World, thread: u8, steps: u32) {
    let mut random = fastrand::Rng::with_seed(thread.into());
    let mut held: Vec<Chunk> = Vec::new();
    let mut frames = 0;
    let mut taken = 0;
    while taken < steps {
        // Outside its lists: what takes other locks, or others' lists.
        match random.u8(..16) {
            0 => {
                world.alloc.drain_all();
            }
            1 => {
                if let Some(block) = world.alloc.take_emptied() {
                    let chunk =
                        Chunk { head: block.frame(0), order: Order::BLOCK, page_type: PageType::Return };
                    world.mark(chunk);
                    held.push(chunk);
                    frames += FRAMES_PER_BLOCK as u32;
                }
            }
            2..6 => {
                let chunks = std::mem::take(&mut *world.handed_over.lock().unwrap());
                frames += chunks.iter().map(|chunk| chunk.order.frames()).sum::<u32>();
                held.extend(chunks);
            }
            6..9 => {
                let some = held.split_off(held.len() - held.len().min(40));
                frames -= some.iter().map(|chunk| chunk.order.frames()).sum::<u32>();
                world.handed_over.lock().unwrap().extend(some);
            }
            _ => {}
        }
        let mut local = world.alloc.enter(CpuId(thread));
        for _ in 0..STAY {
            taken += 1;
            let (order, page_type, request) = request(&mut random, thread);
            if frames < MOST && random.u8(..8) < 5 {
                if let Ok(head) = local.alloc(&request) {
                    let chunk = Chunk { head, order, page_type };
                    world.mark(chunk);
                    held.push(chunk);
                    frames += order.frames();
                }
            } else if !held.is_empty() {
                let nth = random.usize(..held.len());
                let chunk = held.swap_remove(nth);
                refuse_wrong(&mut local, chunk);
                if chunk.page_type == PageType::Guest && random.u8(..8) == 0 {
                    world.alloc.retagger().retag(chunk.head, PageType::Balloon);
                }
                frames -= chunk.order.frames();
                world.unmark(chunk);
                assert_eq!(local.free(chunk.head, chunk.order), Ok(()), "{:?}", chunk.page_type);
            }
        }
    }
    // Nobody looks for what was handed over before all have stopped to hand over.
    world.barrier.wait();
    held.append(&mut world.handed_over.lock().unwrap());
    for chunk in held {
        world.unmark(chunk);
        assert_eq!(world.alloc.free(CpuId(thread), chunk.head, chunk.order), Ok(()));
    }
}

/// What is in use cannot be freed with another order, nor from its middle.
fn refuse_wrong(local: &mut memsvc::core::alloc::Local<'_>, chunk: Chunk) {
    if chunk.order != Order::FRAME {
        let wrong = local.free(chunk.head, Order::FRAME);
        assert!(matches!(wrong, Err(FreeError::WrongOrder { .. })), "{wrong:?}");
        let middle = local.free(FrameId(chunk.head.0 + 1), Order::FRAME);
        assert!(matches!(middle, Err(FreeError::NotHead { .. })), "{middle:?}");
    }
}

#[test]
fn no_frame_is_given_out_twice_and_none_is_lost() {
    let steps = std::env::var("MEMSVC_STRESS_STEPS").map_or(500_000, |steps| steps.parse().unwrap());
    let world = World::new();
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let world = &world;
            scope.spawn(move || work(world, thread, steps));
        }
    });
    world.alloc.drain_all();
    assert_eq!(world.alloc.check(), Ok(()));
    assert_eq!(world.alloc.free_blocks(), u64::from(BLOCKS));
    assert!(world.marks.iter().all(|mark| mark.load(Ordering::Acquire) == 0));
    let counters = world.alloc.zone_info().counters;
    println!("{steps} steps of {THREADS} threads in {:.1} s: {counters:?}", start.elapsed().as_secs_f64());
}
