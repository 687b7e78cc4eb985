//! Frames for slabs, and back.

use super::cache::{Cache, SlabId, Span};
use super::class::{ClassId, Shape, order_of};
use super::error::SlabError;
use super::pool::{SlabRequest, Slabs};
use crate::core::alloc::Mode;
use crate::core::request::{AllocError, Flags, Request};
use crate::core::units::{CpuId, FrameId, Order};

/// Where frames come from: a method of the frame allocator, as the caller may wait or not.
pub(super) type Source<'a> = &'a mut dyn FnMut(&Request) -> Result<FrameId, AllocError>;

impl<M: Mode> Slabs<M> {
    /// Frames for one slab: of the shape, or of the next worse one while there is no such chunk. Who may
    /// wait does so for the least of them only, and its error is the one that counts.
    pub(super) fn obtain(
        &self,
        wanted: &SlabRequest,
        mut shape: Shape,
        flags: Flags,
        cpu: CpuId,
        from: Source<'_>,
    ) -> Result<Span, SlabError> {
        let class = wanted.class();
        loop {
            let worse = class.class().worse(shape);
            let request = Request::new(shape.order(), self.page_type)
                .flags(if worse.is_some() { flags.union(Flags::NOWAIT) } else { flags })
                .leaves(wanted.get_leaves())
                .charge_to(self.owner);
            match (from(&request), worse) {
                (Ok(head), _) => return self.cut(head, shape, cpu),
                (Err(_), Some(worse)) => shape = worse,
                (Err(cause), None) => return Err(SlabError::NoFrames { size: class.class().size, cause }),
            }
        }
    }

    /// Gives what a chunk has too much back, as `alloc_pages_exact` does (mm/page_alloc.c).
    fn cut(&self, head: FrameId, shape: Shape, cpu: CpuId) -> Result<Span, SlabError> {
        let order = shape.order();
        if u32::from(shape.frames) != order.frames() {
            self.frames.split(head, order).map_err(SlabError::Frames)?;
            let mut frames = self.frames.enter(cpu);
            for tail in head.0 + u32::from(shape.frames)..head.0 + order.frames() {
                frames.free(FrameId(tail), Order::FRAME).map_err(SlabError::Frames)?;
            }
        }
        Ok(Span { base: head, frames: shape.frames })
    }

    /// Makes a slab of frames. Nobody else knows of it until the lock of its class is given up.
    pub(super) fn insert(
        &self,
        cache: &mut Cache,
        class: ClassId,
        span: Span,
        reserve: bool,
    ) -> Result<SlabId, SlabError> {
        let slab = cache.insert(span, reserve).map_err(|_| SlabError::NoTable)?;
        for frame in 0..u32::from(span.frames) {
            self.frames.set_rmap(FrameId(span.base.0 + frame), slab.to_rmap(class));
        }
        Ok(slab)
    }

    /// Gives the frames of a slab back, and says how many they are. Not under the lock of a class.
    pub(super) fn release(&self, cpu: CpuId, span: Span) -> u64 {
        let order = order_of(span.frames);
        let mut frames = self.frames.enter(cpu);
        let freed = if u32::from(span.frames) == order.frames() {
            frames.free(span.base, order)
        } else {
            (0..u32::from(span.frames))
                .try_for_each(|frame| frames.free(FrameId(span.base.0 + frame), Order::FRAME))
        };
        // They are ours. If somebody freed them all the same, the frame allocator has counted it here.
        debug_assert_eq!(freed, Ok(()));
        span.frames.into()
    }
}
