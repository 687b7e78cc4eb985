//! Helpers that several tests need.

mod faults;
mod model;
mod reserve;

use std::sync::Arc;

use super::Slabs;
use super::class::ClassId;
use crate::core::alloc::{Config, FrameAllocator, Mode};
use crate::core::sync::lock;
use crate::core::units::{CpuId, OwnerId};
use crate::core::watermark::Watermarks;

/// A guest, in tests.
pub(super) const GUEST: OwnerId = OwnerId(1);
pub(super) const CPU: CpuId = CpuId(0);

pub(super) fn frames<M: Mode>(blocks: u32, cpus: u8, min: u64) -> Arc<FrameAllocator<M>> {
    let watermarks = Watermarks { min, low: min, high: min };
    Arc::new(FrameAllocator::new(Config { blocks, cpus, watermarks }))
}

impl<M: Mode> Slabs<M> {
    /// Looks at everything while nobody gets or puts, and says how many frames there are.
    pub(super) fn check(&self) -> Result<u64, String> {
        let mut frames = 0;
        for class in ClassId::all() {
            frames += lock(&self.caches[usize::from(class.0)]).check(|cpu, reserve, group| {
                let held = self.front(cpu, class, reserve).held();
                held.filter(|held| held.group == group).map(|held| held.bits)
            })?;
        }
        Ok(frames)
    }

    /// Nothing is left of these slabs, nor of a frame of the arena.
    pub(super) fn assert_all_is_back(&self) {
        self.shrink(CPU, 0);
        assert_eq!(self.check(), Ok(0));
        self.frames.drain_all();
        assert_eq!(self.frames.count(self.page_type), 0);
        assert_eq!(self.frames.charged(self.owner), 0);
        assert_eq!(self.frames.check(), Ok(()));
    }
}
