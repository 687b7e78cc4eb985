//! The fast paths, one function each, for `ci/callgrind` to count and to watch.
//!
//! `fastpath full|bare`: pairs of get and put, of frames and of blocks, on CPU 0 and then on CPU 1. What
//! comes first (the refill) is done outside the functions that are counted, so that each call of them takes
//! the fast path. Says on standard output where the functions lie, for who reads a trace of addresses.

use std::hint::black_box;
use std::process::ExitCode;

use memsvc::core::alloc::{Bare, Config, FrameAllocator, Full, Local, Mode};
use memsvc::core::page_type::PageType;
use memsvc::core::request::Request;
use memsvc::core::units::{CpuId, FrameId, Order};
use memsvc::core::watermark::Watermarks;

/// Pairs of each kind on each CPU. `ci/callgrind` divides by it.
const PAIRS: usize = 1000;
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

/// Where a trace goes from one CPU to the next.
#[inline(never)]
fn next_cpu(cpu: u8) -> CpuId {
    CpuId(black_box(cpu))
}

fn run<M: Mode>() -> Option<()> {
    let watermarks = Watermarks::for_arena(u64::from(BLOCKS) * 512);
    let alloc = FrameAllocator::<M>::new(Config { blocks: BLOCKS, cpus: 2, watermarks });
    for (name, at) in [
        ("frame_get", frame_get::<M> as *const () as usize),
        ("frame_put", frame_put::<M> as *const () as usize),
        ("block_get", block_get::<M> as *const () as usize),
        ("block_put", block_put::<M> as *const () as usize),
        ("next_cpu", next_cpu as *const () as usize),
    ] {
        println!("{name} {at:x}");
    }
    for cpu in 0..2 {
        let mut local = alloc.enter(next_cpu(cpu));
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
