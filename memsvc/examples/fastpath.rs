//! The fast paths, one function each, for `ci/callgrind` to count and to watch.
//!
//! `fastpath full|bare`: pairs of get and put, of frames, blocks and slab objects, on CPU 0 and then on
//! CPU 1. What comes first (the refill) is done outside the functions that are counted, so that each call
//! of them takes the fast path.
//!
//! # Shared cache lines
//! Frames and blocks: a get reads the front that its CPU used last and writes one word of it; a put reads
//! one word more, which stands for the tags. Fronts are part of their CPU's struct, which shares no line
//! with another's. So of the lines that several CPUs use, these fast paths touch none.
//!
//! That can be seen: this program says where the functions lie, and `ci/callgrind` reads a trace of all
//! addresses that they read and write. No line that they write on one CPU may be touched on the other.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use memsvc::core::alloc::{Bare, Config, FrameAllocator, Full, Local, Mode};
use memsvc::core::page_type::PageType;
use memsvc::core::request::Request;
use memsvc::core::slab::{Object, SlabLocal, SlabRequest, Slabs};
use memsvc::core::units::{CpuId, FrameId, Order, OwnerId};
use memsvc::core::watermark::Watermarks;

/// Pairs of each kind on each CPU. `ci/callgrind` divides by it.
const PAIRS: usize = 1000;
/// Bytes of a slab object: a compressed page, say.
const OBJECT: usize = 1500;
const BLOCKS: u32 = 256;
const FRAME: Request = Request::new(Order::FRAME, PageType::Guest);
const BLOCK: Request = Request::new(Order::BLOCK, PageType::Guest);

#[inline(never)]
fn frame_get<M: Mode>(local: &mut Local<'_, M>) -> Option<FrameId> {
    local.alloc(&FRAME).ok()
}

#[inline(never)]
fn frame_put<M: Mode>(local: &mut Local<'_, M>, head: FrameId) -> bool {
    local.free(head, Order::FRAME).is_ok()
}

#[inline(never)]
fn block_get<M: Mode>(local: &mut Local<'_, M>) -> Option<FrameId> {
    local.alloc(&BLOCK).ok()
}

#[inline(never)]
fn block_put<M: Mode>(local: &mut Local<'_, M>, head: FrameId) -> bool {
    local.free(head, Order::BLOCK).is_ok()
}

#[inline(never)]
fn slab_get<M: Mode>(local: &mut SlabLocal<'_, M>, request: &SlabRequest) -> Option<Object> {
    local.alloc(request).ok()
}

#[inline(never)]
fn slab_put<M: Mode>(local: &mut SlabLocal<'_, M>, object: Object) -> bool {
    local.free(object).is_ok()
}

/// Where a trace goes from one CPU to the next.
#[inline(never)]
fn next_cpu(cpu: u8) -> CpuId {
    CpuId(black_box(cpu))
}

fn run<M: Mode>() -> Option<()> {
    let watermarks = Watermarks::for_arena(u64::from(BLOCKS) * 512);
    let alloc = Arc::new(FrameAllocator::<M>::new(Config { blocks: BLOCKS, cpus: 2, watermarks }));
    let slabs = Slabs::new(Arc::clone(&alloc), OwnerId::HOST, 2);
    let object = SlabRequest::new(OBJECT).ok()?;
    for (name, at) in [
        ("frame_get", frame_get::<M> as *const () as usize),
        ("frame_put", frame_put::<M> as *const () as usize),
        ("block_get", block_get::<M> as *const () as usize),
        ("block_put", block_put::<M> as *const () as usize),
        ("slab_get", slab_get::<M> as *const () as usize),
        ("slab_put", slab_put::<M> as *const () as usize),
        ("next_cpu", next_cpu as *const () as usize),
    ] {
        println!("{name} {at:x}");
    }
    for cpu in 0..2 {
        let cpu = next_cpu(cpu);
        let mut local = alloc.enter(cpu);
        // The refills. With more than one ready, none of what follows takes the last.
        for request in [&FRAME, &BLOCK, &BLOCK] {
            local.alloc(request).ok()?;
        }
        for _ in 0..PAIRS {
            let head = frame_get(&mut local)?;
            frame_put(&mut local, black_box(head)).then_some(())?;
        }
        for _ in 0..PAIRS {
            let head = block_get(&mut local)?;
            block_put(&mut local, black_box(head)).then_some(())?;
        }
        drop(local);
        let mut local = slabs.enter(cpu);
        local.alloc(&object).ok()?;
        for _ in 0..PAIRS {
            let object = slab_get(&mut local, black_box(&object))?;
            slab_put(&mut local, black_box(object)).then_some(())?;
        }
    }
    Some(())
}

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("full") => run::<Full>(),
        Some("bare") => run::<Bare>(),
        _ => None,
    };
    if done.is_some() {
        return ExitCode::SUCCESS;
    }
    eprintln!("fastpath: say full or bare; or there was no memory");
    ExitCode::FAILURE
}
