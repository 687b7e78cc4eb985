//! The memory service alone, of which the host swaps out all: free frames are dropped in the host's swap and not read.
#![allow(
    unsafe_code,
    reason = "plays the guest and the host: raw reads and writes in guest space, and advice to the kernel"
)]

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};
use guest_tests::agent_client::WRONG_DATA;
use guest_tests::noise::Zram;
use libtest_mimic::Trial;
use memsvc::core::units::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK};
use memsvc::{Config, MemoryService, RegionSpec};

use crate::in_a_host_of_its_own;

const BLOCKS: usize = 4;
const PAGES: usize = BLOCKS * FRAMES_PER_BLOCK;

pub(super) fn trial() -> Option<Trial> {
    in_a_host_of_its_own("noisy_host::swaps_free_frames_out_and_they_are_dropped_there", drops)
}

fn drops() -> anyhow::Result<()> {
    let zram = Zram::on(128)?;
    let regions = vec![RegionSpec { gpa: 0, len: (BLOCKS * BLOCK_SIZE) as u64 }];
    let mut config = Config::new(regions);
    config.allow_host_swap = true;
    let service = MemoryService::new(&config, |why| panic!("{why}"))?;
    let word = |page: usize| {
        let address = service.regions()[0].host + page * FRAME_SIZE;
        // SAFETY: inside guest RAM, which lives as long as the service.
        unsafe { AtomicU64::from_ptr(address as *mut u64) }
    };
    let is_kept = |page: &usize| page.is_multiple_of(2);
    (0..PAGES).for_each(|page| word(page).store(page as u64 + 1, Ordering::Relaxed));
    // A report leaves no hole: the blocks are split, and what was reported is free.
    for page in (0..PAGES).filter(|page| !is_kept(page)) {
        ensure!(service.report_free((page * FRAME_SIZE) as u64, FRAME_SIZE as u64).refused == 0);
    }
    let before = zram.traffic()?;
    swap_out()?;
    let out = zram.traffic()?.pages_out - before.pages_out;
    ensure!(out > 0, "the host swaps nothing out");
    for page in (0..PAGES).filter(|page| !is_kept(page)) {
        let found = word(page).swap(1, Ordering::Relaxed);
        ensure!(found == 0 || found == 1, "pages {WRONG_DATA}: page {page} has {found:#x}");
    }
    for page in (0..PAGES).filter(is_kept) {
        let found = word(page).load(Ordering::Relaxed);
        ensure!(found == page as u64 + 1, "pages {WRONG_DATA}: page {page} has {found:#x}");
    }
    let stats = service.stats();
    eprintln!("the host has swapped {out} pages out, and {} were free", stats.moves.swap_dropped);
    ensure!(stats.moves.swap_dropped > 0, "no free frame was dropped from the host's swap: {stats:?}");
    ensure!(stats.moves.poison_lost == 0, "somebody wrote to a free frame: {stats:?}");
    Ok(())
}

/// Has the host swap out all that this process has mapped at addresses of whole blocks, which arena and guest RAM are.
fn swap_out() -> anyhow::Result<()> {
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let (range, rest) = line.split_once(' ').context("no range")?;
        let (start, end) = range.split_once('-').context("no range")?;
        let (start, end) = (usize::from_str_radix(start, 16)?, usize::from_str_radix(end, 16)?);
        if rest.starts_with("rw-p")
            && start.is_multiple_of(BLOCK_SIZE)
            && (end - start).is_multiple_of(BLOCK_SIZE)
        {
            // SAFETY: it changes where memory is, and not what is in it.
            let _ = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_PAGEOUT) };
        }
    }
    Ok(())
}
