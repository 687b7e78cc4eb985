//! Getting, when nothing is ready: the next group of the front, or more from the free lists.
//!
//! All that a request costs beyond taking a bit is here, once a batch: watermarks, limit, charge, tags,
//! claims.

use super::alloc::{FrameAllocator, Mode};
use super::block::GROUP;
use super::buddy::{Buddy, GroupStack};
use super::cpu::{FRONTS, MOST_OF_FREE, NO_GROUP, any_group_of, head_of, sort_of, word_of};
use super::local::{Local, Recent, get_ready, is_fronted, sort_index};
use super::request::{AllocError, Flags, Request};
use super::sync::atomic::Ordering;
use super::sync::lock;
use super::tag::Tag;
use super::units::{FrameId, Order};

impl<M: Mode> Local<'_, M> {
    #[cold]
    #[inline(never)]
    pub(super) fn alloc_slow(&mut self, request: &Request) -> Result<FrameId, AllocError> {
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
        if let Ok(frame) = self.refill(index, request, false) {
            return Ok(frame);
        }
        // What others hold may be what is missing, and counts against a limit too.
        self.drain();
        self.alloc.drain_others(Some(self.cpu.id));
        self.refill(index, request, true).inspect_err(|error| self.count_failure(request, error))
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

    /// Makes a group ready: claims it, says what is ready, tags that as handed out, in this order: who sees
    /// the tag sees that it is not handed out yet. Lets go of the group before, which must be empty.
    fn make_ready(&mut self, index: usize, group: u32, bits: u32) {
        let (front, order) = (&self.cpu.fronts[index], sort_of(index));
        self.let_go(index);
        if M::CHECKED {
            self.alloc.table.claim(order, group);
            if order == Order::FRAME {
                self.alloc.table.in_pieces(FrameId(group * GROUP).block());
            }
        }
        front.mine.store(bits, Ordering::Relaxed);
        front.ready.store(word_of(group, bits), Ordering::Release);
        if M::CHECKED {
            let tag = front.tag();
            let tags = self.alloc.table.group_tags(order, group);
            if bits == u32::MAX {
                tags.iter().for_each(|cell| cell.store(tag.bits(), Ordering::Release));
            } else {
                let mut rest = bits;
                while rest != 0 {
                    tags[rest.trailing_zeros() as usize].store(tag.bits(), Ordering::Release);
                    rest &= rest - 1;
                }
            }
        }
        self.turn_to(index);
    }

    /// Gets from this front, and puts to it, until it is another's turn.
    pub(super) fn turn_to(&mut self, index: usize) {
        let order = sort_of(index);
        let sort = sort_index(order);
        self.lists.recent[sort] = index;
        self.recent[sort] = Recent::new(&self.cpu.fronts[index]);
    }

    /// Lets go of the ready group of a front, which must be empty.
    pub(super) fn let_go(&self, index: usize) {
        let front = &self.cpu.fronts[index];
        let last = any_group_of(front.ready.load(Ordering::Relaxed));
        front.mine.store(0, Ordering::Relaxed);
        front.ready.store(NO_GROUP, Ordering::Release);
        if M::CHECKED
            && let Some(group) = last
        {
            self.alloc.table.unclaim(sort_of(index), group);
        }
    }

    /// Gets memory from the free lists for one request, and more for those that follow it.
    fn refill(&mut self, index: usize, request: &Request, drained: bool) -> Result<FrameId, AllocError> {
        let mut buddy = lock(&self.alloc.buddy);
        buddy.counters.refills += 1;
        let result = if is_fronted(request.get_order()) {
            self.refill_front(&mut buddy, index, request, drained)
        } else {
            self.take_chunk(&mut buddy, request, drained)
        };
        let free = buddy.free();
        drop(buddy);
        self.alloc.notice_low(free);
        self.alloc.notice_free(free);
        result
    }

    fn refill_front(
        &mut self,
        buddy: &mut Buddy,
        index: usize,
        request: &Request,
        drained: bool,
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
        let most = most.min(buddy.free() / MOST_OF_FREE);
        let allowed = match self.alloc.allowed(buddy, request, most) {
            Ok(allowed) => allowed,
            Err(error) if goes_beyond(request, error, drained) => return self.take_beyond(buddy, request),
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
        Err(self.alloc.no_memory(buddy, order))
    }

    /// One frame, block or chunk beyond watermark or limit, for who frees memory: neither stops it
    /// (`ALLOC_NO_WATERMARKS`, mm/page_alloc.c; `try_charge`, mm/memcontrol.c). What is below the min
    /// watermark is marked; and it goes past the per-CPU lists, both ways, so that no other request gets it
    /// from there.
    fn take_beyond(&self, buddy: &mut Buddy, request: &Request) -> Result<FrameId, AllocError> {
        let order = request.get_order();
        if buddy.free() < u64::from(request.get_leaves()) + u64::from(order.frames()) {
            return Err(self.alloc.no_memory(buddy, order));
        }
        let reserve = self.alloc.watermarks.above_min(buddy.free()) < u64::from(order.frames());
        let tag = request.tag().with_reserve(reserve);
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
        let Some(head) = head else { return Err(self.alloc.no_memory(buddy, order)) };
        if reserve {
            buddy.counters.from_reserve += 1;
            buddy.reserve_in_use += u64::from(order.frames());
        }
        self.hand_out(buddy, head, tag);
        Ok(head)
    }

    /// A chunk of order 1 to 8: there are no per-CPU lists of them.
    fn take_chunk(&self, buddy: &mut Buddy, request: &Request, drained: bool) -> Result<FrameId, AllocError> {
        let order = request.get_order();
        if let Err(error) = self.alloc.allowed(buddy, request, order.frames().into()) {
            let beyond = goes_beyond(request, error, drained);
            return if beyond { self.take_beyond(buddy, request) } else { Err(error) };
        }
        let movable = request.get_page_type().is_movable();
        let Some(head) = buddy.take_chunk(order, request.get_migrate_type(), movable) else {
            return Err(self.alloc.no_memory(buddy, order));
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
}

impl<M: Mode> FrameAllocator<M> {
    /// How many frames, up to `most`, the request may have, in whole chunks of its order.
    pub(super) fn allowed(&self, buddy: &Buddy, request: &Request, most: u64) -> Result<u64, AllocError> {
        let (order, owner) = (request.get_order(), request.get_owner());
        let size = u64::from(order.frames());
        if !M::CHECKED {
            return Ok(most);
        }
        let above_min = self.watermarks.above_min(buddy.free());
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
        AllocError::NoMemory { order, free: buddy.free(), min: self.watermarks.min }
    }
}

/// Who frees memory is not stopped. Beyond a limit it goes only once the per-CPU lists are drained: what they
/// hold is charged ahead, and would be handed to others although their owner has too much by then.
fn goes_beyond(request: &Request, error: AllocError, drained: bool) -> bool {
    request.get_flags().contains(Flags::MEMALLOC) && (drained || matches!(error, AllocError::NoMemory { .. }))
}
