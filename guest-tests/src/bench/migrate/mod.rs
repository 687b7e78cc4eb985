//! Benchmark of the mover: its speed beside memcpy of the same bytes, and the wait of a thread that touches a
//! page on the move.
//!
//! | case | what is done |
//! | --- | --- |
//! | `groups` | of every second group of 128 frames the guest has given up; half of the blocks are emptied into the other half, which is split already |
//! | `in_place` | as `groups`, but nothing is split yet: half of the huge pages are split where they are |
//! | `scattered` | as `groups` with every second frame: each page is a move of its own |
//! | `promote` | what was given up of half of the guest is used again, and its blocks are made whole. That whole blocks are zeroed by the kernel is not in the time |
//! | `stall` | as `groups`, while a thread touches live pages at random |
//!
//! The guest is synthetic: guest space that this process touches. Needs no KVM.

mod memory;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use memsvc::core::compact::{PolicyKind, Tuning};
use memsvc::core::units::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK};
use memsvc::{Config, Gfn, MemoryService, Moved, RegionSpec};

use self::memory::{Copies, Memory};
use super::{Run, Samples};
use crate::progress::Progress;
use crate::report::Ratio;

/// 512 MiB.
const BLOCKS: usize = 256;
const PAGES: usize = BLOCKS * FRAMES_PER_BLOCK;
const GROUP: usize = 128;
const MOVERS: [usize; 2] = [1, 2];
const GROUPS: &str = "groups";
const IN_PLACE: &str = "in_place";
const SCATTERED: &str = "scattered";
const PROMOTE: &str = "promote";
const STALL: &str = "stall";
/// A touch that takes longer has waited for a page.
const WAITED: Duration = Duration::from_micros(4);

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// The memory service failed, a page was lost, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    for round in 1..=run.rounds {
        for movers in MOVERS {
            let progress = Progress::start(&format!("round {round} of {}, {movers} movers", run.rounds));
            for case in [GROUPS, IN_PLACE, SCATTERED] {
                harvest(case, movers, &mut samples)?;
            }
            progress.done("");
        }
        let progress = Progress::start(&format!("round {round} of {}, stalls", run.rounds));
        stalls(&mut samples)?;
        progress.done("");
    }
    let mut ratios = Vec::new();
    for (name, case) in [("harvest", GROUPS), ("promote", PROMOTE), ("harvest_scattered", SCATTERED)] {
        for movers in MOVERS {
            let value = samples.median(&named(case, movers), "aerostat", "of memcpy's speed");
            ratios.push(ratio(&format!("{name}_vs_memcpy_{movers}"), value)?);
        }
    }
    ratios.push(ratio("stall_p99_vs_block", samples.median(STALL, "aerostat", "p99 of a block's time"))?);
    run.publish("migrate", &samples, ratios)
}

fn ratio(name: &str, value: Option<f64>) -> anyhow::Result<Ratio> {
    let value = value.ok_or_else(|| anyhow::anyhow!("nothing was measured for {name}"))?;
    Ok(Ratio { name: name.to_owned(), value })
}

fn named(case: &str, movers: usize) -> String {
    format!("{case}/{movers}m")
}

/// A guest that has used all of its memory. Nothing is compacted by itself.
fn used_guest() -> anyhow::Result<(std::sync::Arc<MemoryService>, Memory)> {
    let regions = vec![RegionSpec { gpa: 0, len: (BLOCKS * BLOCK_SIZE) as u64 }];
    let compaction = Tuning { policy: PolicyKind::Off, ..Tuning::default() };
    let service = MemoryService::new(&Config { compaction, ..Config::new(regions) }, |why| panic!("{why}"))?;
    let memory = Memory::of(&service);
    (0..PAGES).for_each(|page| memory.write(page));
    Ok((service, memory))
}

fn given_up(size: usize) -> impl Iterator<Item = usize> {
    (0..PAGES).filter(move |page| page / size % 2 == 1)
}

/// The first half of the guest gives up by balloon, which leaves huge pages with holes; the second, if it is
/// to be split, by reports.
fn give_up(service: &MemoryService, size: usize, split: bool) {
    if !split {
        service.inflate(&gfns(given_up(size)));
        return;
    }
    service.inflate(&gfns(given_up(size).take_while(|page| *page < PAGES / 2)));
    for page in given_up(size).filter(|page| *page >= PAGES / 2 && page.is_multiple_of(size)) {
        service.report_free((page * FRAME_SIZE) as u64, (size * FRAME_SIZE) as u64);
    }
}

fn live(size: usize) -> impl Iterator<Item = usize> {
    (0..PAGES).filter(move |page| (page / size).is_multiple_of(2))
}

fn gfns(pages: impl Iterator<Item = usize>) -> Vec<Gfn> {
    pages.map(|page| Gfn(page as u64)).collect()
}

fn harvest(case: &str, movers: usize, samples: &mut Samples) -> anyhow::Result<()> {
    let size = if case == SCATTERED { 1 } else { GROUP };
    let (service, memory) = used_guest()?;
    let mut copies = Copies::new(BLOCKS / 2 * BLOCK_SIZE)?;
    give_up(&service, size, case != IN_PLACE);
    let moved = service.measure_harvest(movers);
    // The last may find no room while another mover has more than it needs.
    ensure!(moved.blocks + movers as u64 > BLOCKS as u64 / 2, "{} blocks were won", moved.blocks);
    ensure!(live(size).all(|page| memory.is_right(page)), "a page was lost by harvest");
    add(&named(case, movers), moved, &mut copies, size.min(FRAMES_PER_BLOCK), movers, samples);

    if case == GROUPS {
        // What the second half of the guest has goes, so that there are whole blocks for the first.
        service.reset_balloon();
        service.inflate(&gfns(PAGES / 2..PAGES));
        given_up(size).take_while(|page| *page < PAGES / 2).for_each(|page| memory.write(page));
        let moved = service.measure_promotion(movers);
        ensure!(moved.blocks == BLOCKS as u64 / 2, "{} blocks were promoted", moved.blocks);
        ensure!((0..PAGES / 2).all(|page| memory.is_right(page)), "a page was lost by promotion");
        add(&named(PROMOTE, movers), moved, &mut copies, FRAMES_PER_BLOCK, movers, samples);
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "bytes of one guest")]
fn add(case: &str, moved: Moved, copies: &mut Copies, run: usize, movers: usize, samples: &mut Samples) {
    let gb_s = |took: Duration| moved.bytes as f64 / took.as_secs_f64() / 1e9;
    let memcpy = copies.time(moved.bytes as usize, run * FRAME_SIZE, movers);
    samples.add(case, "aerostat", "speed", "GB/s", gb_s(moved.took));
    samples.add(case, "memcpy", "speed", "GB/s", gb_s(memcpy));
    let us = moved.took.as_secs_f64() * 1e6 * movers as f64 / moved.blocks as f64;
    samples.add(case, "aerostat", "time of a block", "µs", us);
    samples.add(case, "aerostat", "of memcpy's speed", "1", gb_s(moved.took) / gb_s(memcpy));
}

#[allow(clippy::cast_precision_loss, reason = "microseconds")]
fn stalls(samples: &mut Samples) -> anyhow::Result<()> {
    let (service, memory) = used_guest()?;
    give_up(&service, GROUP, true);
    let stop = AtomicBool::new(false);
    let (moved, mut waits) = std::thread::scope(|scope| {
        let toucher = scope.spawn(|| touch(&memory, &stop));
        let moved = service.measure_harvest(1);
        stop.store(true, Ordering::Relaxed);
        toucher.join().map(|waits| (moved, waits))
    })
    .map_err(|_| anyhow::anyhow!("the thread that touches memory failed"))?;
    let block = moved.took.as_secs_f64() * 1e6 / moved.blocks as f64;
    waits.sort_unstable();
    let at = |part: usize| waits.get(waits.len() * part / 100).map_or(0.0, |wait| wait.as_secs_f64() * 1e6);
    samples.add(STALL, "aerostat", "time of a block", "µs", block);
    samples.add(STALL, "aerostat", "touches that waited", "1", waits.len() as f64);
    samples.add(STALL, "aerostat", "p50", "µs", at(50));
    samples.add(STALL, "aerostat", "p99", "µs", at(99));
    samples.add(STALL, "aerostat", "p99 of a block's time", "1", at(99) / block);
    Ok(())
}

/// Touches live pages at random; how long those took that had to wait.
fn touch(memory: &Memory, stop: &AtomicBool) -> Vec<Duration> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut waits = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let page = random.usize(0..PAGES);
        if page / GROUP % 2 == 1 {
            continue;
        }
        let start = Instant::now();
        assert!(memory.is_right(page), "page {page} is another's");
        let took = start.elapsed();
        if took > WAITED {
            waits.push(took);
        }
    }
    waits
}
