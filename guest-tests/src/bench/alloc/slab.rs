//! Objects smaller than a frame: slabs beside the system's `malloc`.
//!
//! Waste is what is held beyond the bytes asked for, in hundredths of them, while many objects are in use.
//! For slabs that is whole frames; for `malloc`, chunks with their headers, as it counts them itself.

#![allow(unsafe_code, reason = "malloc and free are called directly")]

use std::ffi::c_void;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use memsvc::core::alloc::{Config, FrameAllocator};
use memsvc::core::slab::{Object, SlabLocal, SlabRequest, Slabs};
use memsvc::core::units::{CpuId, FRAME_SIZE, FRAMES_PER_BLOCK, OwnerId};
use memsvc::core::watermark::Watermarks;

use super::Samples;

/// Bytes of an object.
pub(super) const SIZES: [usize; 4] = [32, 256, 1500, 3000];
/// Names of the subjects.
pub(super) const MEMSVC: &str = "memsvc";
pub(super) const MALLOC: &str = "malloc";
/// Objects in use at once.
const OBJECTS: usize = 50_000;
const PAIRS: usize = 2_000_000;

/// Each size, with both.
pub(super) fn measure(samples: &mut Samples) -> anyhow::Result<()> {
    for size in SIZES {
        slabs(size, samples)?;
        system(size, samples)?;
    }
    Ok(())
}

pub(super) fn case(size: usize, what: &str) -> String {
    format!("slab/{size}/1t/{what}")
}

fn slabs(size: usize, samples: &mut Samples) -> anyhow::Result<()> {
    let blocks = u32::try_from(OBJECTS.div_ceil(FRAMES_PER_BLOCK) + 8)?;
    let config = Config { blocks, cpus: 1, watermarks: Watermarks::NONE };
    let slabs = Slabs::new(Arc::new(FrameAllocator::new(config)), OwnerId::HOST, 1);
    let request = SlabRequest::new(size)?;
    let get = |local: &mut SlabLocal<'_>| local.alloc(black_box(&request)).ok();
    let put = |local: &mut SlabLocal<'_>, object: Object| local.free(object).is_ok();
    // The first pass writes to tables that were never written; it does not count.
    bulk(&mut slabs.enter(CpuId(0)), get, put, || ())?;
    let mut held = 0;
    let (got, given) = bulk(&mut slabs.enter(CpuId(0)), get, put, || {
        held = slabs.info().caches.iter().map(|cache| cache.slabs * u64::from(cache.frames_per_slab)).sum();
    })?;
    let pair = pairs(&mut slabs.enter(CpuId(0)), get, put)?;
    add(samples, MEMSVC, size, [got, given, pair, waste(held * FRAME_SIZE as u64, size)]);
    Ok(())
}

fn system(size: usize, samples: &mut Samples) -> anyhow::Result<()> {
    // SAFETY: any size may be asked for.
    let get = |(): &mut ()| Some(unsafe { libc::malloc(black_box(size)) }).filter(|at| !at.is_null());
    let put = |(): &mut (), at: *mut c_void| {
        // SAFETY: it came from `malloc`, and is freed once.
        unsafe { libc::free(at) };
        true
    };
    bulk(&mut (), get, put, || ())?;
    let before = in_use();
    let mut held = 0;
    let (got, given) = bulk(&mut (), get, put, || held = in_use())?;
    let pair = pairs(&mut (), get, put)?;
    // The table in which `bulk` keeps what it got is not of the objects.
    let table = (OBJECTS * size_of::<*mut c_void>()) as u64;
    add(samples, MALLOC, size, [got, given, pair, waste(held - before - table, size)]);
    Ok(())
}

/// Bytes that `malloc` has handed out, with their headers.
fn in_use() -> u64 {
    // SAFETY: it only reads malloc's own figures.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as u64
}

/// Many are taken, and given back in the same order: nanoseconds of a get and of a put.
fn bulk<L, T: Copy>(
    local: &mut L,
    get: impl Fn(&mut L) -> Option<T>,
    put: impl Fn(&mut L, T) -> bool,
    between: impl FnOnce(),
) -> anyhow::Result<(f64, f64)> {
    let mut objects = Vec::with_capacity(OBJECTS);
    let start = Instant::now();
    objects.extend((0..OBJECTS).map_while(|_| get(local)));
    let got = per(start, OBJECTS);
    between();
    let start = Instant::now();
    let put = objects.iter().filter(|&&object| put(local, object)).count();
    ensure!(put == OBJECTS, "{put} of {OBJECTS} objects came and went");
    Ok((got, per(start, OBJECTS)))
}

/// Nanoseconds of a pair, one object at a time.
fn pairs<L, T>(
    local: &mut L,
    get: impl Fn(&mut L) -> Option<T>,
    put: impl Fn(&mut L, T) -> bool,
) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..PAIRS {
        let object = get(local).context("nothing to be had")?;
        ensure!(put(local, black_box(object)), "an object was refused");
    }
    Ok(per(start, PAIRS))
}

fn add(samples: &mut Samples, subject: &'static str, size: usize, [get, put, pair, waste]: [f64; 4]) {
    samples.add(&case(size, "get"), subject, "mean", "ns", get);
    samples.add(&case(size, "put"), subject, "mean", "ns", put);
    samples.add(&case(size, "pair"), subject, "mean", "ns", pair);
    samples.add(&case(size, "waste"), subject, "of bytes", "%", waste);
}

#[allow(clippy::cast_precision_loss, reason = "numbers of operations")]
fn per(start: Instant, operations: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / operations as f64
}

#[allow(clippy::cast_precision_loss, reason = "some megabytes")]
fn waste(held: u64, size: usize) -> f64 {
    100.0 * (held as f64 / (OBJECTS * size) as f64 - 1.0)
}
