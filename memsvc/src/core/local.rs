//! Getting and putting: the fast paths, and what they fall back to.

use super::alloc::{FrameAllocator, Full, Mode};
use super::block::GROUP;
use super::buddy::{Buddy, GroupStack};
use super::cpu::{
    Cpu, FRONTS, Front, Lists, NO_GROUP, any_group_of, front_of, group_of, head_of, lowest_item, sort_of,
    word_of,
};
use super::request::{AllocError, Flags, FreeError, Request};
use super::sync::atomic::Ordering;
use super::sync::{MutexGuard, lock};
use super::table::GroupTags;
use super::tag::Tag;
use super::units::{FrameId, Order};

/// The lists of one CPU, held: nobody else gets at them meanwhile, so do not wait with it in hand.
#[derive(Debug)]
pub struct Local<'a, M: Mode = Full> {
    pub(super) alloc: &'a FrameAllocator<M>,
    pub(super) cpu: &'a Cpu,
    pub(super) lists: MutexGuard<'a, Lists>,
    /// The fronts of which something was got last: of frames, of blocks.
    recent: [Recent<'a>; 2],
}

/// A front of which something was got: what the fast paths need of it, side by side.
#[derive(Clone, Copy, Debug)]
struct Recent<'a> {
    front: &'a Front,
    /// Those of its ready group, if it has one.
    tags: &'a GroupTags,
    /// Its key, as long as it has a ready group.
    key: u32,
}

impl<'a> Recent<'a> {
    fn new<M: Mode>(alloc: &'a FrameAllocator<M>, front: &'a Front, order: Order) -> Self {
        let group = any_group_of(front.ready.load(Ordering::Relaxed)).unwrap_or(0);
        let key = front.key.load(Ordering::Relaxed);
        Self { front, tags: alloc.table.group_tags(order, group), key }
    }

    /// The `ready` word with one more item. `None` when that is not of the group, not tagged as the front
    /// tags what it hands out, or ready already.
    #[inline]
    fn with_ready<M: Mode>(&self, ready: u64, head: FrameId, order: Order) -> Option<u64> {
        let item = item_of(head, order)?;
        if group_of(ready) != item / GROUP {
            return None;
        }
        let nth = item % GROUP;
        if M::CHECKED && self.tags[nth as usize].load(Ordering::Relaxed) != self.key as u16 {
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
            Recent::new(alloc, &cpu.fronts[index], sort_of(index))
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
    /// [`FreeError`] says why it cannot be freed, what it is and whose; nothing has changed then. Two
    /// threads that free the same frame at the same moment may both be believed: the second is found
    /// when it is drained, counted, and not given out twice.
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

    #[cold]
    #[inline(never)]
    fn alloc_slow(&mut self, request: &Request) -> Result<FrameId, AllocError> {
        let index = request.front as usize % FRONTS;
        let front = &self.cpu.fronts[index];
        if is_fronted(request.get_order()) && front.key.load(Ordering::Relaxed) == request.key {
            if front.ready.load(Ordering::Relaxed) as u32 != 0 {
                self.turn_to(index);
                return self.alloc(request);
            }
            if self.advance(index) {
                return self.alloc(request);
            }
        }
        if let Ok(frame) = self.refill(index, request) {
            return Ok(frame);
        }
        // What others hold may be what is missing, and counts against a limit too.
        self.drain();
        self.alloc.drain_others(Some(self.cpu.id));
        self.refill(index, request).inspect_err(|error| self.count_failure(request, error))
    }

    fn count_failure(&self, request: &Request, error: &AllocError) {
        let mut buddy = lock(&self.alloc.buddy);
        buddy.counters.failed += 1;
        if matches!(error, AllocError::LimitReached { .. }) {
            buddy.charges.owner_mut(request.get_owner()).refused += 1;
        }
    }

    /// Makes the next stacked group ready. False when there is none.
    fn advance(&mut self, index: usize) -> bool {
        let Some((group, bits)) = self.lists.fronts[index].stack.pop() else { return false };
        let front = &self.cpu.fronts[index];
        let stacked = front.stacked.load(Ordering::Relaxed);
        front.stacked.store(stacked - bits.count_ones(), Ordering::Relaxed);
        self.make_ready(index, group, bits);
        true
    }

    /// Makes a group ready: claims it, tags it as handed out, and lets go of the one before, which must be
    /// empty.
    fn make_ready(&mut self, index: usize, group: u32, bits: u32) {
        let (front, order) = (&self.cpu.fronts[index], sort_of(index));
        let mut shared = false;
        self.let_go(index);
        if M::CHECKED {
            shared = !self.alloc.table.claim(order, group);
            let tag = front.tag().with_shared(shared);
            let tags = self.alloc.table.group_tags(order, group);
            if bits == u32::MAX {
                tags.iter().for_each(|cell| cell.store(tag.bits(), Ordering::Relaxed));
            } else {
                let mut rest = bits;
                while rest != 0 {
                    tags[rest.trailing_zeros() as usize].store(tag.bits(), Ordering::Relaxed);
                    rest &= rest - 1;
                }
            }
        }
        front.ready.store(word_of(group, bits, shared), Ordering::Release);
        self.turn_to(index);
    }

    /// Gets from this front, and puts to it, until it is another's turn.
    fn turn_to(&mut self, index: usize) {
        let order = sort_of(index);
        let sort = sort_index(order);
        self.lists.recent[sort] = index;
        self.recent[sort] = Recent::new(self.alloc, &self.cpu.fronts[index], order);
    }

    /// Lets go of the ready group of a front, which must be empty.
    pub(super) fn let_go(&self, index: usize) {
        let front = &self.cpu.fronts[index];
        if M::CHECKED
            && let Some(group) = any_group_of(front.ready.load(Ordering::Relaxed))
        {
            self.alloc.table.unclaim(sort_of(index), group);
        }
        front.ready.store(NO_GROUP, Ordering::Release);
    }

    /// Gets memory from the free lists for one request, and more for those that follow it.
    fn refill(&mut self, index: usize, request: &Request) -> Result<FrameId, AllocError> {
        let mut buddy = lock(&self.alloc.buddy);
        buddy.counters.refills += 1;
        let result = if is_fronted(request.get_order()) {
            self.refill_front(&mut buddy, index, request)
        } else {
            self.take_chunk(&mut buddy, request)
        };
        buddy.lowest_free = buddy.lowest_free.min(buddy.free());
        let free = buddy.free();
        drop(buddy);
        self.alloc.notice_low(free);
        result
    }

    fn refill_front(
        &mut self,
        buddy: &mut Buddy,
        index: usize,
        request: &Request,
    ) -> Result<FrameId, AllocError> {
        let (order, tag) = (sort_of(index), request.tag());
        let front = &self.cpu.fronts[index];
        self.mark();
        if front.key.load(Ordering::Relaxed) != request.key {
            self.retire(buddy, index);
            front.key.store(request.key, Ordering::Relaxed);
        }
        self.let_go(index);
        let most = u64::from(self.lists.fronts[index].batch) << order.get();
        let allowed = match self.allowed(buddy, request, most) {
            Ok(allowed) => allowed,
            Err(_) if is_memalloc(request) => return self.take_beyond(buddy, request),
            Err(error) => return Err(error),
        };
        let movable = M::CHECKED && request.get_page_type().is_movable();
        let lists = &mut self.lists.fronts[index];
        let items = (allowed >> order.get()) as u32;
        let is_claimed = |group| self.alloc.table.is_claimed(order, group);
        let taken = if order == Order::FRAME {
            buddy.take_frames(request.get_migrate_type(), items, movable, is_claimed, &mut lists.stack)
        } else {
            buddy.take_blocks(items, movable, is_claimed, &mut lists.stack)
        };
        lists.grow_batch(order);
        if M::CHECKED {
            buddy.charges.charge(tag.owner(), tag.page_type(), u64::from(taken) << order.get());
        }
        front.stacked.store(taken, Ordering::Relaxed);
        if self.advance(index)
            && let Some(item) = get_ready(front)
        {
            return Ok(head_of(item, order));
        }
        Err(self.no_memory(buddy, order))
    }

    /// How many frames, up to `most`, the request may have, in whole chunks of its order.
    fn allowed(&self, buddy: &Buddy, request: &Request, most: u64) -> Result<u64, AllocError> {
        let (order, owner) = (request.get_order(), request.get_owner());
        let size = u64::from(order.frames());
        if !M::CHECKED {
            return Ok(most);
        }
        let above_min = buddy.free().saturating_sub(self.alloc.watermarks.min);
        let room = buddy.charges.room(owner);
        if room < size {
            let (charged, limit) = (buddy.charges.owner(owner).total(), buddy.charges.owner(owner).limit);
            return Err(AllocError::LimitReached { owner, charged, limit: limit.unwrap_or(u64::MAX) });
        }
        if above_min < size {
            return Err(self.no_memory(buddy, order));
        }
        Ok(most.max(size).min(above_min).min(room) / size * size)
    }

    fn no_memory(&self, buddy: &Buddy, order: Order) -> AllocError {
        AllocError::NoMemory { order, free: buddy.free(), min: self.alloc.watermarks.min }
    }

    /// One frame, block or chunk beyond watermark or limit, for who frees memory: neither stops it
    /// (`ALLOC_NO_WATERMARKS`, mm/page_alloc.c; `try_charge`, mm/memcontrol.c). What is below the min
    /// watermark is marked; and it goes past the per-CPU lists, both ways, so that no other request gets it
    /// from there.
    fn take_beyond(&self, buddy: &mut Buddy, request: &Request) -> Result<FrameId, AllocError> {
        let order = request.get_order();
        let reserve = buddy.free() < self.alloc.watermarks.min + u64::from(order.frames());
        let tag = request.tag().with_reserve(reserve).with_shared(true);
        let movable = tag.page_type().is_movable();
        let head = if is_fronted(order) {
            let mut one = GroupStack::new();
            let _ = if order == Order::FRAME {
                buddy.take_frames(request.get_migrate_type(), 1, movable, |_| false, &mut one)
            } else {
                buddy.take_blocks(1, movable, |_| false, &mut one)
            };
            one.pop().map(|(group, bits)| head_of(group * GROUP + bits.trailing_zeros(), order))
        } else {
            buddy.take_chunk(order, request.get_migrate_type(), movable)
        };
        let Some(head) = head else { return Err(self.no_memory(buddy, order)) };
        if reserve {
            buddy.counters.from_reserve += 1;
            buddy.reserve_in_use += u64::from(order.frames());
        }
        self.hand_out(buddy, head, tag);
        Ok(head)
    }

    /// A chunk of order 1 to 8: there are no per-CPU lists of them.
    fn take_chunk(&self, buddy: &mut Buddy, request: &Request) -> Result<FrameId, AllocError> {
        let order = request.get_order();
        if let Err(error) = self.allowed(buddy, request, order.frames().into()) {
            return if is_memalloc(request) { self.take_beyond(buddy, request) } else { Err(error) };
        }
        let movable = request.get_page_type().is_movable();
        let Some(head) = buddy.take_chunk(order, request.get_migrate_type(), movable) else {
            return Err(self.no_memory(buddy, order));
        };
        self.hand_out(buddy, head, request.tag());
        Ok(head)
    }

    fn hand_out(&self, buddy: &mut Buddy, head: FrameId, tag: Tag) {
        let order = tag.order().unwrap_or(Order::FRAME);
        buddy.charges.charge(tag.owner(), tag.page_type(), order.frames().into());
        if order == Order::BLOCK {
            self.alloc.table.set_block_tag(head.block(), tag);
        } else {
            self.alloc.table.set_chunk(head, order, tag);
        }
    }

    /// Frees what the ready group does not take: by adding it to the freed list, where it is tagged as
    /// what was got last, as most is; else by the long way.
    #[cold]
    #[inline(never)]
    fn free_elsewhere<const SORT: usize>(&mut self, head: FrameId) -> Result<(), FreeError> {
        let order = if SORT == 0 { Order::FRAME } else { Order::BLOCK };
        if self.put_alike(head, order).is_some() { Ok(()) } else { self.free_slow(head, order) }
    }

    /// Adds to the freed list of the front of which something was got last. `None`, and nothing is done,
    /// when it does not go there, or when that is more work: with the first and the last of a list.
    #[inline(always)]
    fn put_alike(&mut self, head: FrameId, order: Order) -> Option<()> {
        let (sort, item) = (sort_index(order), item_of(head, order)?);
        let Recent { front, key, .. } = self.recent[sort];
        let cell = self.alloc.table.cell(head, order)?;
        let is_alike = cell.load(Ordering::Relaxed) == key as u16
            && front.freed_tag.load(Ordering::Relaxed) == key as u16
            && !self.alloc.table.is_claimed(order, item / GROUP);
        let lists = &mut *self.lists;
        let lists = &mut lists.fronts[lists.recent[sort] % FRONTS];
        let len = front.freed_items();
        if M::CHECKED && !is_alike || len == 0 || len + 1 >= lists.freed_limit {
            return None;
        }
        *lists.freed.get_mut(len as usize)? = item;
        front.freed_len.store(len + 1, Ordering::Relaxed);
        if M::CHECKED {
            cell.store(Tag::from_bits(key as u16).freed().bits(), Ordering::Relaxed);
        }
        Some(())
    }

    #[cold]
    #[inline(never)]
    fn free_slow(&mut self, head: FrameId, order: Order) -> Result<(), FreeError> {
        if u64::from(head.0) >= self.alloc.table.frames() {
            return Err(FreeError::OutOfRange { frame: head });
        }
        if !M::CHECKED {
            let front = self.lists.recent[sort_index(order)];
            self.put_freed(front, if order == Order::FRAME { head.0 } else { head.block().0 });
            return Ok(());
        }
        let tag = match self.alloc.check_free(head, order) {
            Ok(tag) => tag,
            Err(error) => {
                lock(&self.alloc.buddy).counters.free_errors += 1;
                return Err(error);
            }
        };
        if !is_fronted(order) || tag.is_mixed() || tag.is_reserve() {
            return self.free_now(head, order, tag);
        }
        let index = front_of(tag);
        let front = &self.cpu.fronts[index];
        if front.freed_tag() != tag {
            if front.freed_items() > 0 {
                self.drain_freed(index);
            }
            front.freed_tag.store(tag.bits(), Ordering::Relaxed);
        }
        if order == Order::FRAME {
            self.alloc.table.set_tag(head, tag.freed());
            self.put_freed(index, head.0);
        } else {
            self.alloc.table.set_block_tag(head.block(), tag.freed());
            self.put_freed(index, head.block().0);
        }
        Ok(())
    }

    /// Adds to a freed list, which has room, and drains it when it is full.
    fn put_freed(&mut self, index: usize, item: u32) {
        self.mark();
        let front = &self.cpu.fronts[index];
        let lists = &mut self.lists.fronts[index];
        let len = front.freed_items();
        if let Some(slot) = lists.freed.get_mut(len as usize) {
            *slot = item;
            front.freed_len.store(len + 1, Ordering::Relaxed);
        }
        if len + 1 >= lists.freed_limit {
            lists.grow_freed(sort_of(index));
            self.drain_freed(index);
        }
    }

    /// Frees past the per-CPU lists: chunks, blocks with holes, and the reserve, which is to be whole again
    /// at once.
    fn free_now(&mut self, head: FrameId, order: Order, tag: Tag) -> Result<(), FreeError> {
        let mut buddy = lock(&self.alloc.buddy);
        let (owner, page_type) = (tag.owner(), tag.page_type());
        let holes = u64::from(buddy.block(head.block()).holes);
        if !self.alloc.put_back(&mut buddy, head, order, page_type) {
            buddy.counters.free_errors += 1;
            return Err(FreeError::NotHandedOut { frame: head, last: page_type, owner });
        }
        if tag.is_mixed() {
            buddy.charges.uncharge_block(owner, page_type, holes);
        } else {
            buddy.charges.uncharge(owner, page_type, order.frames().into());
        }
        if tag.is_reserve() {
            buddy.reserve_in_use -= u64::from(order.frames());
        }
        if order == Order::BLOCK {
            self.alloc.table.set_block_tag(head.block(), tag.freed());
        }
        if order != Order::BLOCK || tag.is_mixed() {
            for frame in head.0..head.0 + order.frames() {
                let frame = FrameId(frame);
                self.alloc.table.set_tag(frame, self.alloc.table.tag(frame).freed());
            }
        }
        let free = buddy.free();
        drop(buddy);
        self.alloc.notice_free(free);
        Ok(())
    }

    /// These lists hold something from now on.
    fn mark(&mut self) {
        if !self.lists.marked {
            self.lists.marked = true;
            self.alloc.holding.fetch_or(1 << self.cpu.id.0, Ordering::AcqRel);
        }
    }
}

impl<M: Mode> FrameAllocator<M> {
    /// The tag of what is to be freed, if it can be.
    pub(super) fn check_free(&self, head: FrameId, order: Order) -> Result<Tag, FreeError> {
        let block = self.table.block_tag(head.block());
        let tag = if !block.is_free() && head.index() == 0 { block } else { self.table.effective(head) };
        let owner = tag.owner();
        if tag.is_free() {
            return Err(FreeError::NotHandedOut { frame: head, last: tag.last_type(), owner });
        }
        if self.is_ready(head) {
            return Err(FreeError::NotHandedOut { frame: head, last: tag.page_type(), owner });
        }
        match tag.order() {
            None => Err(FreeError::NotHead { frame: head, tag: tag.page_type(), owner }),
            Some(is) if is != order => {
                Err(FreeError::WrongOrder { frame: head, tag: tag.page_type(), owner, is, given: order })
            }
            Some(_) => Ok(tag.with_shared(false)),
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
fn get_ready(front: &Front) -> Option<u32> {
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
fn sort_index(order: Order) -> usize {
    usize::from(order != Order::FRAME)
}

/// The number of a frame or block in the lists of its sort; `None` for what there are no lists of.
#[inline]
fn item_of(head: FrameId, order: Order) -> Option<u32> {
    match order {
        Order::FRAME => Some(head.0),
        Order::BLOCK if head.index() == 0 => Some(head.block().0),
        _ => None,
    }
}

/// True for the orders that have per-CPU lists.
fn is_fronted(order: Order) -> bool {
    order == Order::FRAME || order == Order::BLOCK
}

fn is_memalloc(request: &Request) -> bool {
    request.get_flags().contains(Flags::MEMALLOC)
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
