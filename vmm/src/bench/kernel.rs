//! Memory as monitors treat it today: plain anonymous memory that may be huge. Memory that is given back is
//! discarded page by page, and the kernel is asked to make huge pages again (`MADV_COLLAPSE`). khugepaged
//! stays as it is.
//!
//! A collapse takes a new huge page of the host, copies what is live, and puts memory behind what had been
//! given back, too: it wins no page for the host. Pages are won here while the stated part of free memory
//! lasts, and where nothing at all is left of 2 MiB.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::Context;
use memsvc::core::units::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK, FrameId};

use super::{
    bounds::Ledger,
    memory::{Memory, Standing, Work},
    pages::{Pages, Plain},
};

/// Bytes that `/proc/self/pagemap` has for a page.
const ENTRY: usize = 8;
/// Of these, the bit that says that there is one.
const PRESENT: u8 = 0x80;

/// A guest whose memory is the kernel's.
#[derive(Debug)]
pub(super) struct Kernel {
    plain: Plain,
    blocks: u32,
    /// Blocks that the guest has filled.
    filled: u32,
    /// Beyond the guest's memory: what is free to begin with.
    free_blocks: u32,
    free_used: AtomicU32,
    /// The next block to collapse.
    next: AtomicU32,
    pagemap: File,
}

impl Kernel {
    /// A guest of so many blocks.
    pub(super) fn new(blocks: u32, free_blocks: u32) -> anyhow::Result<Self> {
        let pagemap = File::open("/proc/self/pagemap").context("/proc/self/pagemap cannot be read")?;
        let plain = Plain::new(blocks + free_blocks).context("There is no room for the guest's memory")?;
        let zero = || AtomicU32::new(0);
        Ok(Self { plain, blocks, filled: 0, free_blocks, free_used: zero(), next: zero(), pagemap })
    }

    /// Filled blocks of which nothing is left.
    fn emptied(&self) -> anyhow::Result<u64> {
        let mut entries = vec![0; self.filled as usize * FRAMES_PER_BLOCK * ENTRY];
        let at = (self.plain.base() / FRAME_SIZE * ENTRY) as u64;
        self.pagemap.read_exact_at(&mut entries, at).context("/proc/self/pagemap cannot be read")?;
        let is_absent = |entry: &[u8]| entry[ENTRY - 1] & PRESENT == 0;
        let blocks = entries.chunks_exact(FRAMES_PER_BLOCK * ENTRY);
        Ok(blocks.filter(|block| block.chunks_exact(ENTRY).all(is_absent)).count() as u64)
    }
}

impl Memory for Kernel {
    fn pages(&self) -> Pages<'_> {
        self.plain.pages(self.blocks)
    }

    fn give(&self, pages: &[u32]) -> anyhow::Result<()> {
        pages.iter().try_for_each(|&page| self.plain.discard_page(page)).context("madvise failed")
    }

    fn take(&self, _pages: &[u32]) -> anyhow::Result<()> {
        Ok(())
    }

    fn pin(&self) -> anyhow::Result<Option<FrameId>> {
        Ok(None)
    }

    fn unpin(&self, _frame: FrameId) -> anyhow::Result<()> {
        Ok(())
    }

    fn ready(&mut self, live: &[u16], _pinned: &[FrameId]) -> anyhow::Result<Ledger> {
        self.filled = u32::try_from(live.len())?;
        let free = self.free_blocks as usize;
        let used: u64 = live.iter().map(|live| u64::from(*live)).sum();
        let unused = ((free + live.len()) * FRAMES_PER_BLOCK) as u64 - used;
        let live = std::iter::repeat_n(0, free).chain(live.iter().copied());
        Ok(Ledger { live: live.collect(), unused, reserve: 0 })
    }

    fn ask(&self) -> anyhow::Result<bool> {
        let used = self.free_used.load(Ordering::Relaxed);
        if used < self.free_blocks {
            self.free_used.store(used + 1, Ordering::Relaxed);
            return Ok(self.plain.populate(self.blocks + used).is_ok());
        }
        let block = self.next.fetch_add(1, Ordering::Relaxed) % self.filled.max(1);
        Ok(self.plain.collapse(block).is_ok())
    }

    fn put_all(&self, given: &mut dyn Iterator<Item = u32>) -> anyhow::Result<()> {
        for block in 0..self.free_used.swap(0, Ordering::Relaxed) {
            self.plain.discard(self.blocks + block)?;
        }
        // What collapses have taken is taken again.
        self.give(&given.collect::<Vec<_>>())
    }

    fn standing(&self) -> anyhow::Result<Standing> {
        let smaps = fs::read_to_string("/proc/self/smaps").context("/proc/self/smaps cannot be read")?;
        let len = (self.blocks + self.free_blocks) as usize * BLOCK_SIZE;
        let behind = Behind::of(&smaps, self.plain.base(), len);
        let free_used = u64::from(self.free_used.load(Ordering::Relaxed));
        // Those are huge, or they are not won.
        let free_huge = free_used.min(behind.huge / BLOCK_SIZE as u64);
        Ok(Standing {
            won: free_huge + self.emptied()?,
            resident: behind.resident.saturating_sub(free_used * BLOCK_SIZE as u64),
            huge: behind.huge - free_huge * BLOCK_SIZE as u64,
        })
    }

    fn work(&self) -> Option<Work> {
        None
    }

    fn is_well(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What is behind a range, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Behind {
    resident: u64,
    huge: u64,
}

impl Behind {
    /// By what smaps says of the mappings that begin in it.
    fn of(smaps: &str, base: usize, len: usize) -> Self {
        let mut behind = Self::default();
        let mut is_in = false;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let (first, second) = (words.next().unwrap_or_default(), words.next());
            let kib = || second.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0) << 10;
            match first {
                "Rss:" if is_in => behind.resident += kib(),
                "AnonHugePages:" if is_in => behind.huge += kib(),
                _ => {
                    let start =
                        first.split_once('-').and_then(|(start, _)| usize::from_str_radix(start, 16).ok());
                    is_in = start.map_or(is_in, |start| (base..base + len).contains(&start));
                }
            }
        }
        behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_range_counts() {
        let smaps = "\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n\
Rss:                2100 kB\nAnonHugePages:      2048 kB\n\
7f0000200000-7f0000600000 rw-p 00000000 00:00 0 \n\
Rss:                3072 kB\nAnonHugePages:      2048 kB\nVmFlags: rd wr\n\
7f0000600000-7f0000800000 rw-p 00000000 00:00 0 \n\
Rss:                   4 kB\nAnonHugePages:         0 kB\n\
7f0000800000-7f0000900000 r--p 00000000 00:00 0 [vvar]\nRss:   7 kB\n";
        let behind = Behind::of(smaps, 0x7f00_0020_0000, 0x60_0000);
        assert_eq!(behind, Behind { resident: 3076 << 10, huge: 2048 << 10 });
    }
}
