//! Memory of the memory service, compacted by one of its policies. The monitor itself asks for whole pages.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use memsvc::{
    Config, Gfn, MemoryService, Outcome, RegionSpec,
    core::{
        compact::{PolicyKind, Tuning},
        page_type::PageType,
        request::{Flags, Request},
        units::{BLOCK_SIZE, BlockId, CpuId, FRAMES_PER_BLOCK, FrameId, Order},
    },
    stats::LatencyStats,
};

use super::{
    bounds::Ledger,
    memory::{Memory, Standing, Work},
    pages::Pages,
    report::Stalls,
};
use crate::devices::virtio::lock;

/// A frame of the monitor's own.
const KMEM: Request = Request::new(Order::FRAME, PageType::Kmem).flags(Flags::NOWAIT);
/// The per-CPU lists of what is not the guest's.
const CPU: CpuId = CpuId(1);
/// The stash begins to be given back when no fault has come for half a second, and what has changed was looked
/// at by then.
const SETTLE: Duration = Duration::from_millis(600);
/// It is given back by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// A guest of the memory service.
#[derive(Debug)]
pub(super) struct Served {
    service: Arc<MemoryService>,
    policy: PolicyKind,
    /// Free blocks that are left to begin with.
    free_blocks: u64,
    /// All other free blocks.
    aside: Vec<BlockId>,
    won: Mutex<Vec<BlockId>>,
    failed: Arc<Mutex<Option<String>>>,
}

/// Nothing is compacted but what is asked for, and what the balloon's pages bring by themselves.
fn tuning(policy: PolicyKind) -> Tuning {
    Tuning { policy, proactiveness: 0, ..Tuning::default() }
}

impl Served {
    /// A guest of so many blocks, of which nothing is compacted until it is [`Memory::ready`].
    pub(super) fn new(blocks: u32, policy: PolicyKind, free_blocks: u64) -> anyhow::Result<Self> {
        let regions = vec![RegionSpec { gpa: 0, len: u64::from(blocks) * BLOCK_SIZE as u64 }];
        let config = Config { compaction: tuning(PolicyKind::Off), ..Config::new(regions) };
        let failed = Arc::<Mutex<Option<String>>>::default();
        let service = {
            let failed = Arc::clone(&failed);
            MemoryService::new(&config, move |why| *lock(&failed) = Some(why))?
        };
        Ok(Self { service, policy, free_blocks, aside: Vec::new(), won: Mutex::default(), failed })
    }

    /// Waits until nothing is on its way any more.
    fn settle(&self) -> anyhow::Result<()> {
        thread::sleep(SETTLE);
        let start = Instant::now();
        while self.service.stats().stash.blocks > 0 {
            ensure!(start.elapsed() < PATIENCE, "The stash was not given back in {PATIENCE:?}");
            thread::sleep(Duration::from_millis(50));
        }
        self.service.allocator().drain_all();
        Ok(())
    }
}

fn all(outcome: Outcome, pages: &[u32]) -> anyhow::Result<()> {
    ensure!(outcome.accepted as usize == pages.len(), "Of {} pages of the balloon: {outcome:?}", pages.len());
    Ok(())
}

fn gfns(pages: &[u32]) -> Vec<Gfn> {
    pages.iter().map(|&page| Gfn(page.into())).collect()
}

impl Memory for Served {
    fn pages(&self) -> Pages<'_> {
        Pages::of_service(&self.service)
    }

    fn give(&self, pages: &[u32]) -> anyhow::Result<()> {
        all(self.service.inflate(&gfns(pages)), pages)
    }

    fn take(&self, pages: &[u32]) -> anyhow::Result<()> {
        all(self.service.deflate(&gfns(pages)), pages)
    }

    fn pin(&self) -> anyhow::Result<Option<FrameId>> {
        Ok(Some(self.service.allocator().alloc(CPU, &KMEM)?))
    }

    fn unpin(&self, frame: FrameId) -> anyhow::Result<()> {
        Ok(self.service.allocator().free(CPU, frame, Order::FRAME)?)
    }

    fn ready(&mut self, live: &[u16], pinned: &[FrameId]) -> anyhow::Result<Ledger> {
        self.settle()?;
        let alloc = self.service.allocator();
        while alloc.free_blocks() > self.free_blocks {
            self.aside.push(self.service.get_block()?);
        }
        alloc.drain_all();
        self.service.tune_compaction(tuning(self.policy))?;

        let spoiled: HashSet<BlockId> = pinned.iter().map(|frame| frame.block()).collect();
        let blocks =
            alloc.frames() / FRAMES_PER_BLOCK as u64 - self.aside.len() as u64 - spoiled.len() as u64;
        let free = blocks.checked_sub(live.len() as u64).context("More blocks are in use than there are")?;
        let used = live.iter().map(|live| u64::from(*live)).sum::<u64>() + pinned.len() as u64;
        let unused = alloc.frames() - (self.aside.len() * FRAMES_PER_BLOCK) as u64 - used;
        let by_type = alloc.frames_by_type();
        ensure!(
            by_type.buddy + by_type.balloon == unused,
            "{unused} frames are unused, and the allocator says {by_type:?}"
        );
        let free = std::iter::repeat_n(0, usize::try_from(free)?);
        Ok(Ledger {
            live: free.chain(live.iter().copied()).collect(),
            unused,
            reserve: alloc.watermarks().min,
        })
    }

    fn ask(&self) -> anyhow::Result<bool> {
        let Ok(block) = self.service.get_block() else { return Ok(false) };
        lock(&self.won).push(block);
        Ok(true)
    }

    fn put_all(&self, _given: &mut dyn Iterator<Item = u32>) -> anyhow::Result<()> {
        for block in lock(&self.won).drain(..) {
            self.service.put_block(block)?;
        }
        Ok(())
    }

    fn standing(&self) -> anyhow::Result<Standing> {
        let host = self.service.walk()?;
        Ok(Standing {
            won: lock(&self.won).len() as u64,
            resident: host.guest_resident_bytes,
            huge: host.guest_huge_bytes,
        })
    }

    fn work(&self) -> Option<Work> {
        let (info, mover) = (self.service.compaction_info(), self.service.stats().mover);
        let mut work = Work { copied: mover.counts.copied_bytes, deferred: info.deferred, ..Work::default() };
        for trigger in &info.triggers {
            work.migrated += trigger.migrated_frames;
            work.sources += trigger.sources;
            work.emptied += trigger.blocks;
        }
        work.stalls = stalls(&mover.stalls);
        Some(work)
    }

    fn is_well(&self) -> anyhow::Result<()> {
        match &*lock(&self.failed) {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }
}

fn stalls(stats: &LatencyStats) -> Stalls {
    let bucket = |below_us| stats.buckets.iter().find(|it| it.below_us == below_us).map_or(0, |it| it.count);
    Stalls::new(std::array::from_fn(|bit| bucket(1 << bit)), stats.max_us)
}
