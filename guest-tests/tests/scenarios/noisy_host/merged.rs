//! The memory service alone, open to KSM as if the monitor had not kept its memory from it. A synthetic
//! guest's pages go and come while they are merged.
#![allow(unsafe_code, reason = "plays the guest: raw reads and writes in guest space")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use guest_tests::agent_client::{OVERDUE, WRONG_DATA};
use guest_tests::noise::Ksm;
use libtest_mimic::Trial;
use memsvc::core::units::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK};
use memsvc::{Config, Gfn, MemoryService, RegionSpec};

use super::{LONGEST, PATIENCE, seconds};
use crate::in_a_host_of_its_own;

const BLOCKS: usize = 8;
const PAGES: usize = BLOCKS * FRAMES_PER_BLOCK;

pub(super) fn trial() -> Option<Trial> {
    in_a_host_of_its_own("noisy_host::merges_pages_of_the_service_and_changes_none", moves)
}

fn word(service: &MemoryService, page: usize, word: usize) -> &AtomicU64 {
    let address = service.regions()[0].host + page * FRAME_SIZE + 8 * word;
    // SAFETY: inside guest RAM, which lives as long as the service.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

/// Whether a page is never given up.
fn is_kept(page: usize) -> bool {
    page % 4 < 2
}

/// Of the kept pages one half is unlike any other, and the other half is all alike.
fn value(page: usize, round: u64) -> u64 {
    if page.is_multiple_of(4) { (page as u64) << 32 | round } else { 7 }
}

/// Reads every kept page, and writes those that are unlike others; gives the longest that one took.
fn pass(service: &MemoryService, round: u64) -> anyhow::Result<Duration> {
    let mut longest = Duration::ZERO;
    for page in (0..PAGES).filter(|&page| is_kept(page)) {
        let start = Instant::now();
        for at in [0, 511] {
            let word = word(service, page, at);
            let (found, right) = (word.load(Ordering::Relaxed), value(page, round));
            ensure!(found == right, "pages {WRONG_DATA}: page {page} has {found:#x} and not {right:#x}");
            if page.is_multiple_of(4) {
                word.store(value(page, round + 1), Ordering::Relaxed);
            }
        }
        longest = longest.max(start.elapsed());
    }
    Ok(longest)
}

/// Gives up the pages between, and takes them back; the compactor has its work all the while.
fn up_and_down(service: &MemoryService, stop: &AtomicBool) -> anyhow::Result<()> {
    let given: Vec<Gfn> = (0..PAGES).filter(|&page| !is_kept(page)).map(|page| Gfn(page as u64)).collect();
    while !stop.load(Ordering::Relaxed) {
        for batch in given.chunks(256) {
            ensure!(service.inflate(batch).refused == 0, "the service refuses a page");
        }
        service.compact(|| !stop.load(Ordering::Relaxed));
        for batch in given.chunks(256) {
            ensure!(service.deflate(batch).refused == 0, "the service refuses a page");
        }
        for gfn in &given {
            // What was given up reads as zero, or as it was: alike.
            let value = word(service, gfn.0 as usize, 0).swap(9, Ordering::Relaxed);
            ensure!(value == 0 || value == 9, "pages {WRONG_DATA}: {gfn:?} has {value:#x}");
        }
        service.compact(|| !stop.load(Ordering::Relaxed));
    }
    Ok(())
}

fn moves() -> anyhow::Result<()> {
    let ksm = Ksm::at_full_speed()?;
    open_to_merging(true)?;
    let right = keeps_its_pages(&ksm);
    open_to_merging(false)?;
    right
}

/// `PR_SET_MEMORY_MERGE` for all memory of this process.
fn open_to_merging(on: bool) -> anyhow::Result<()> {
    // SAFETY: changes how this process's memory is backed, nothing else.
    let done = unsafe { libc::prctl(libc::PR_SET_MEMORY_MERGE, u64::from(on), 0, 0, 0) };
    ensure!(done == 0, "prctl(PR_SET_MEMORY_MERGE): {}", std::io::Error::last_os_error());
    Ok(())
}

fn keeps_its_pages(ksm: &Ksm) -> anyhow::Result<()> {
    let regions = vec![RegionSpec { gpa: 0, len: (BLOCKS * BLOCK_SIZE) as u64 }];
    let service = MemoryService::new(&Config::new(regions), |why| panic!("{why}"))?;
    for page in (0..PAGES).filter(|&page| is_kept(page)) {
        for at in [0, 511] {
            word(&service, page, at).store(value(page, 0), Ordering::Relaxed);
        }
    }
    let (stop, start) = (AtomicBool::new(false), Instant::now());
    let (mut round, mut longest, mut most) = (0, Duration::ZERO, 0);
    let worked = thread::scope(|scope| {
        let other = scope.spawn(|| up_and_down(&service, &stop));
        let mut work = || {
            while start.elapsed() < seconds() || most == 0 {
                ensure!(!other.is_finished(), "nothing comes and goes any more");
                ensure!(start.elapsed() < seconds() + PATIENCE, "nothing is merged");
                longest = longest.max(pass(&service, round)?);
                round += 1;
                most = most.max(ksm.merged(std::process::id())?.merged);
                // Time to be merged.
                thread::sleep(Duration::from_millis(10));
            }
            pass(&service, round)
        };
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        let other = other.join().unwrap_or_else(|_| Err(anyhow!("whoever gives pages up panicked")));
        other.and(worked)
    });
    let stats = service.stats();
    eprintln!("{round} rounds, up to {most} pages merged, longest touch {longest:?}, {:?}", stats.moves);
    longest = longest.max(worked?);
    ensure!(longest < LONGEST, "a touch {OVERDUE}: {longest:?}, {stats:?}");
    ensure!(stats.moves.poison_lost == 0, "somebody wrote to a free frame: {stats:?}");
    Ok(())
}
