//! The physical memory behind a guest.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::Context;

use super::{read, runs};

const PAGE: u64 = 4096;
const PAGES_IN_BLOCK: u64 = 512;
/// Of an entry of `pagemap`: that there is a page, and its number (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const NUMBER: u64 = (1 << 55) - 1;

/// Numbers of the physical pages behind guest memory and arena, by address. None where they are not shown (no
/// `CAP_SYS_ADMIN`). The kernel's page of zeroes may come often.
///
/// # Errors
/// The process is gone.
pub fn physical_pages(pid: u32) -> anyhow::Result<Vec<u64>> {
    let path = format!("/proc/{pid}/pagemap");
    let pagemap = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let mut pages = Vec::new();
    let mut entries = [0; PAGES_IN_BLOCK as usize * size_of::<u64>()];
    for run in runs(&read(&format!("/proc/{pid}/smaps"))?).iter().filter(|run| run.is_ram()) {
        for start in (run.start..run.end).step_by((PAGE * PAGES_IN_BLOCK) as usize) {
            let count = PAGES_IN_BLOCK.min((run.end - start) / PAGE) as usize;
            let entries = &mut entries[..count * size_of::<u64>()];
            pagemap.read_exact_at(entries, start / PAGE * size_of::<u64>() as u64)?;
            let entries = entries.as_chunks().0.iter().map(|entry| u64::from_ne_bytes(*entry));
            let present = entries.filter(|entry| entry & PRESENT != 0).map(|entry| entry & NUMBER);
            pages.extend(present.filter(|&page| page != 0));
        }
    }
    Ok(pages)
}

/// Has the kernel take a physical page for one that has failed (Documentation/mm/hwpoison.rst).
///
/// # Errors
/// The kernel cannot, or must not.
pub fn fail_page(page: u64) -> anyhow::Result<()> {
    let file = "/sys/devices/system/memory/hard_offline_page";
    std::fs::write(file, format!("{:#x}", page * PAGE)).with_context(|| format!("cannot write to {file}"))
}

/// Pages of guest memory, and of the arena behind it, that lie in 2 MiB of the host of which something is not theirs:
/// what keeps such 2 MiB from being whole. None where numbers of pages are not shown (no `CAP_SYS_ADMIN`).
///
/// # Errors
/// The process is gone.
pub fn stray_pages(pid: u32) -> anyhow::Result<Option<u64>> {
    let mut blocks: HashMap<u64, [u64; 8]> = HashMap::new();
    let pages = physical_pages(pid)?;
    if pages.is_empty() {
        return Ok(None);
    }
    for page in pages {
        // The kernel's page of zeroes comes often, and counts once.
        let index = (page % PAGES_IN_BLOCK) as usize;
        blocks.entry(page / PAGES_IN_BLOCK).or_default()[index / 64] |= 1 << (index % 64);
    }
    let pages = blocks.values().map(|bits| bits.iter().map(|word| u64::from(word.count_ones())).sum());
    Ok(Some(pages.filter(|&pages: &u64| pages < PAGES_IN_BLOCK).sum()))
}
