//! Putting, when the ready group does not take it: into a freed list, or straight to the free lists. Before
//! that it must be known that the frame may be freed at all.

use super::alloc::{FrameAllocator, Mode};
use super::block::GROUP;
use super::cpu::{FRONTS, front_of, sort_of};
use super::local::{Local, Recent, is_fronted, item_of, sort_index};
use super::request::FreeError;
use super::sync::atomic::Ordering;
use super::sync::lock;
use super::tag::Tag;
use super::units::{FrameId, Order};

impl<M: Mode> Local<'_, M> {
    /// Frees what the ready group does not take: by adding it to the freed list, where it is tagged as
    /// what was got last, as most is; else by the long way.
    #[cold]
    #[inline(never)]
    pub(super) fn free_elsewhere<const SORT: usize>(&mut self, head: FrameId) -> Result<(), FreeError> {
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
        let is_tagged = || cell.load(Ordering::Acquire) == key as u16;
        // Twice, as in `check_free`.
        let is_alike = is_tagged()
            && front.freed_tag.load(Ordering::Relaxed) == key as u16
            && !self.alloc.table.is_claimed(order, item / GROUP)
            && is_tagged();
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
    pub(super) fn free_slow(&mut self, head: FrameId, order: Order) -> Result<(), FreeError> {
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
        if let Some(item) = item_of(head, order) {
            self.alloc.disown(order, item);
        }
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

    /// Adds to a freed list, which has room, and drains it when it is full, or when somebody waits for memory.
    fn put_freed(&mut self, index: usize, item: u32) {
        self.mark();
        let front = &self.cpu.fronts[index];
        let lists = &mut self.lists.fronts[index];
        let len = front.freed_items();
        if let Some(slot) = lists.freed.get_mut(len as usize) {
            *slot = item;
            front.freed_len.store(len + 1, Ordering::Relaxed);
        }
        let is_full = len + 1 >= lists.freed_limit;
        if is_full {
            lists.grow_freed(sort_of(index));
        }
        if is_full || self.alloc.throttle.is_waiting() {
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
}

impl<M: Mode> FrameAllocator<M> {
    /// The tag of what is to be freed, if it can be.
    pub(super) fn check_free(&self, head: FrameId, order: Order) -> Result<Tag, FreeError> {
        let look = || {
            let block = self.table.block_tag(head.block());
            if !block.is_free() && head.index() == 0 { block } else { self.table.effective(head) }
        };
        let tag = look();
        let owner = tag.owner();
        if tag.is_free() {
            return Err(FreeError::NotHandedOut { frame: head, last: tag.last_type(), owner });
        }
        // What has just been taken back from a front is not ready any more, and tagged otherwise.
        if self.is_ready(head) || look() != tag {
            return Err(FreeError::NotHandedOut { frame: head, last: tag.page_type(), owner });
        }
        match tag.order() {
            None => Err(FreeError::NotHead { frame: head, tag: tag.page_type(), owner }),
            Some(is) if is != order => {
                Err(FreeError::WrongOrder { frame: head, tag: tag.page_type(), owner, is, given: order })
            }
            Some(_) => Ok(tag),
        }
    }
}
