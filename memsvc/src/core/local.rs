//! Getting and putting: the fast paths. The slow ones are in `refill` and `put`.

use super::alloc::{FrameAllocator, Full, Mode};
use super::block::GROUP;
use super::cpu::{Cpu, FRONTS, Front, Lists, group_of, head_of, lowest_item};
use super::request::{AllocError, FreeError, Request};
use super::sync::MutexGuard;
use super::sync::atomic::Ordering;
use super::units::{FrameId, Order};

/// The lists of one CPU, held: nobody else gets at them meanwhile, so do not wait with it in hand.
#[derive(Debug)]
pub struct Local<'a, M: Mode = Full> {
    pub(super) alloc: &'a FrameAllocator<M>,
    pub(super) cpu: &'a Cpu,
    pub(super) lists: MutexGuard<'a, Lists>,
    /// The fronts of which something was got last: of frames, of blocks.
    pub(super) recent: [Recent<'a>; 2],
}

/// A front of which something was got: what the fast paths need of it, side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recent<'a> {
    pub(super) front: &'a Front,
    /// Its key, as long as it has a ready group.
    pub(super) key: u32,
}

impl<'a> Recent<'a> {
    pub(super) fn new(front: &'a Front) -> Self {
        Self { front, key: front.key.load(Ordering::Relaxed) }
    }

    /// The `ready` word with one more item. `None` when that is not of the group, not handed out by this
    /// front, tagged otherwise since, or ready already.
    #[inline]
    fn with_ready<M: Mode>(&self, ready: u64, head: FrameId, order: Order) -> Option<u64> {
        let item = item_of(head, order)?;
        if group_of(ready) != item / GROUP {
            return None;
        }
        let nth = item % GROUP;
        if M::CHECKED && self.front.mine.load(Ordering::Relaxed) >> nth & 1 == 0 {
            return None;
        }
        let with = ready | 1 << nth;
        (with != ready).then_some(with)
    }
}

impl<'a, M: Mode> Local<'a, M> {
    pub(super) fn new(alloc: &'a FrameAllocator<M>, cpu: &'a Cpu, lists: MutexGuard<'a, Lists>) -> Self {
        let recent = lists.recent.map(|index| {
            let index = index % FRONTS;
            Recent::new(&cpu.fronts[index])
        });
        Self { alloc, cpu, lists, recent }
    }

    /// The allocator.
    pub fn allocator(&self) -> &'a FrameAllocator<M> {
        self.alloc
    }

    /// Hands out `2^order` contiguous frames. Never waits.
    ///
    /// # Errors
    /// [`AllocError`] when there is nothing that the request may have, after all per-CPU lists have been
    /// drained. Lists that are in use at that moment drain themselves a little later.
    #[inline]
    pub fn alloc(&mut self, request: &Request) -> Result<FrameId, AllocError> {
        let recent = &self.recent[sort_index(request.get_order())];
        if recent.key == request.key
            && let Some(item) = get_ready(recent.front)
        {
            return Ok(head_of(item, request.get_order()));
        }
        self.alloc_slow(request)
    }

    /// Takes back what was handed out, whatever its page type, and uncharges it.
    ///
    /// # Errors
    /// [`FreeError`] says why it cannot be freed, what it is and whose; nothing has changed then. What
    /// is looked at is read and written, not exchanged: of two threads that free the same frame at the very same
    /// moment, both may be believed. The second is found out when it is drained, and counted, unless the
    /// frame has been handed out again by then: then it frees what is in use, as a late second free would.
    #[inline]
    pub fn free(&mut self, head: FrameId, order: Order) -> Result<(), FreeError> {
        let recent = &self.recent[sort_index(order)];
        let ready = recent.front.ready.load(Ordering::Relaxed);
        match recent.with_ready::<M>(ready, head, order) {
            Some(ready) => {
                recent.front.ready.store(ready, Ordering::Release);
                Ok(())
            }
            None => match order {
                Order::FRAME => self.free_elsewhere::<0>(head),
                Order::BLOCK => self.free_elsewhere::<1>(head),
                _ => self.free_slow(head, order),
            },
        }
    }

    /// These lists hold something from now on.
    pub(super) fn mark(&mut self) {
        if !self.lists.marked {
            self.lists.marked = true;
            self.alloc.holding.fetch_or(1 << self.cpu.id.0, Ordering::AcqRel);
        }
    }
}

impl<M: Mode> Drop for Local<'_, M> {
    fn drop(&mut self) {
        if self.cpu.wanted.load(Ordering::Relaxed) {
            self.drain();
        }
    }
}

/// Takes the lowest item of the ready group.
#[inline]
pub(super) fn get_ready(front: &Front) -> Option<u32> {
    let ready = front.ready.load(Ordering::Relaxed);
    let bits = ready as u32;
    if bits == 0 {
        return None;
    }
    front.ready.store(ready & (ready - 1), Ordering::Release);
    Some(lowest_item(ready))
}

/// The sort of front that serves an order, if any does: frames, blocks.
#[inline]
pub(super) fn sort_index(order: Order) -> usize {
    usize::from(order != Order::FRAME)
}

/// The number of a frame or block in the lists of its sort; `None` for what there are no lists of.
#[inline]
pub(super) fn item_of(head: FrameId, order: Order) -> Option<u32> {
    match order {
        Order::FRAME => Some(head.0),
        Order::BLOCK if head.index() == 0 => Some(head.block().0),
        _ => None,
    }
}

/// True for the orders that have per-CPU lists.
pub(super) fn is_fronted(order: Order) -> bool {
    order == Order::FRAME || order == Order::BLOCK
}

#[cfg(test)]
#[cfg(not(memsvc_loom))]
mod tests {
    use super::*;
    use crate::core::alloc::Config;
    use crate::core::page_type::PageType;
    use crate::core::units::CpuId;
    use crate::core::watermark::Watermarks;

    const FRAME: Request = Request::new(Order::FRAME, PageType::Guest);

    /// Two CPUs have different frames of one group ready. A frame that is ready on one and freed once more
    /// on the other is refused, whichever of them had the group first.
    #[test]
    fn a_frame_that_is_ready_on_one_cpu_is_not_freed_on_another_that_shares_its_group() {
        let alloc: FrameAllocator =
            FrameAllocator::new(Config { blocks: 1, cpus: 2, watermarks: Watermarks::NONE });
        let (mut first, mut second) = (alloc.enter(CpuId(0)), alloc.enter(CpuId(1)));
        let got: Vec<_> = (0..10).map(|_| first.alloc(&FRAME).unwrap()).collect();
        let (given_back, kept) = got.split_at(5);
        for &frame in given_back {
            second.free(frame, Order::FRAME).unwrap();
        }
        second.drain();
        // The second CPU takes what it gave back, and more: until a frame of the shared group comes.
        let mut more = std::iter::repeat_with(|| second.alloc(&FRAME).unwrap()).take(512);
        let again = more.find(|frame| given_back.contains(frame)).expect("they are free");
        let is_refused = |local: &mut Local<'_>, frame| {
            let result = local.free(frame, Order::FRAME);
            assert!(matches!(result, Err(FreeError::NotHandedOut { .. })), "{frame:?}: {result:?}");
        };
        let ready: Vec<_> = given_back.iter().filter(|&&frame| frame != again).collect();
        assert!(!ready.is_empty());
        for &&frame in &ready {
            is_refused(&mut first, frame);
            is_refused(&mut second, frame);
        }
        // What is in use is freed on the other CPU than where it was got, once.
        first.free(again, Order::FRAME).unwrap();
        is_refused(&mut second, again);
        second.free(kept[0], Order::FRAME).unwrap();
        is_refused(&mut first, kept[0]);
        drop((first, second));
        assert_eq!(alloc.check(), Ok(()));
    }
}
