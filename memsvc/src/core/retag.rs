//! Changes of tag without a free: what a frame is for changes, who has it does not.

use super::alloc::{FrameAllocator, Mode};
use super::buddy::Buddy;
use super::migrate_type::MigrateType;
use super::page_type::PageType;
use super::request::FreeError;
use super::sync::{MutexGuard, lock};
use super::tag::Tag;
use super::units::{BlockId, FRAMES_PER_BLOCK, FrameId, Order, OwnerId};

/// The right to change tags, for as many as wanted: it holds the allocator's lock.
#[derive(Debug)]
pub struct Retagger<'a, M: Mode> {
    alloc: &'a FrameAllocator<M>,
    buddy: MutexGuard<'a, Buddy>,
}

impl<M: Mode> FrameAllocator<M> {
    /// Begins to change tags. Until it is dropped nobody gets memory from the free lists.
    pub fn retagger(&self) -> Retagger<'_, M> {
        Retagger { alloc: self, buddy: lock(&self.buddy) }
    }

    /// Changes the page type, and the owner with it, of all frames of a block that is handed out whole. No limit
    /// stops this.
    ///
    /// # Panics
    /// When [`PageType::may_become`] does not allow it, or the block is not handed out whole: an error
    /// of ours, never of a guest.
    pub fn retag_block(&self, block: BlockId, page_type: PageType, owner: OwnerId) {
        let mut buddy = lock(&self.buddy);
        let old = self.table.block_tag(block);
        let from = old.page_type();
        assert!(
            !old.is_mixed() && from.may_become(page_type),
            "{block:?}: {from:?} cannot become {page_type:?}"
        );
        self.disown(Order::BLOCK, block.0);
        let tag = Tag::live(page_type, Order::BLOCK, owner).with_reserve(old.is_reserve());
        self.table.set_block_tag(block, tag);
        buddy.charges.uncharge(old.owner(), from, FRAMES_PER_BLOCK as u64);
        buddy.block_mut(block).movable = if page_type.is_movable() { FRAMES_PER_BLOCK as u16 } else { 0 };
        self.charge_beyond(buddy, owner, page_type);
    }

    /// Charges a block whatever the limit. If that is over, the per-CPU lists are drained: what they hold was
    /// charged ahead within it, and is not to be handed out any more.
    pub(super) fn charge_beyond(
        &self,
        mut buddy: MutexGuard<'_, Buddy>,
        owner: OwnerId,
        page_type: PageType,
    ) {
        buddy.charges.charge(owner, page_type, FRAMES_PER_BLOCK as u64);
        let is_over = buddy.charges.is_over(owner);
        drop(buddy);
        if is_over {
            self.drain_all();
        }
    }

    /// Makes a chunk that is handed out whole one of single frames, all still in use (`split_page`,
    /// mm/page_alloc.c). Each keeps its page type.
    ///
    /// # Errors
    /// [`FreeError`] when it is not handed out with this order; nothing has changed then.
    pub fn split(&self, head: FrameId, order: Order) -> Result<(), FreeError> {
        let mut buddy = lock(&self.buddy);
        let tag = self.check_free(head, order)?;
        if order == Order::FRAME {
            return Ok(());
        }
        if order == Order::BLOCK {
            let block = head.block();
            self.disown(Order::BLOCK, block.0);
            if !tag.is_mixed() {
                self.table.mix(block);
            }
            let movable = tag.page_type().is_movable();
            let migrate_type = if movable { MigrateType::Movable } else { MigrateType::Unmovable };
            buddy.break_whole(block, migrate_type);
        }
        for frame in head.0..head.0 + order.frames() {
            let frame = FrameId(frame);
            self.table.set_tag(frame, self.table.tag(frame).with_order(Order::FRAME));
        }
        if order == Order::BLOCK {
            self.table.in_pieces(head.block());
        }
        Ok(())
    }
}

impl<M: Mode> Retagger<'_, M> {
    /// Changes the page type of a frame that is alone; or in a whole block, where it becomes a hole, or what
    /// the block is.
    ///
    /// # Panics
    /// When it is anything else, or [`PageType::may_become`] does not allow it: an error of ours, never of a
    /// guest.
    pub fn retag(&mut self, frame: FrameId, page_type: PageType) {
        let table = &self.alloc.table;
        let old = table.effective(frame);
        let from = old.page_type();
        if from == page_type {
            return;
        }
        let block = table.block_tag(frame.block());
        let fits = if block.is_free() {
            old.order() == Some(Order::FRAME)
        } else {
            page_type == PageType::Balloon || page_type == block.page_type()
        };
        assert!(fits && from.may_become(page_type), "{frame:?}: {from:?} cannot become {page_type:?}");
        if block.is_free() {
            self.alloc.disown(Order::FRAME, frame.0);
        } else if !block.is_mixed() {
            self.alloc.disown(Order::BLOCK, frame.block().0);
            table.mix(frame.block());
        }
        table.set_tag(frame, table.tag(frame).with_type(page_type));
        self.buddy.charges.recharge(old.owner(), from, page_type, 1);
        self.buddy.block_mut(frame.block()).retype(from, page_type);
    }
}

#[cfg(test)]
#[cfg(not(memsvc_loom))]
mod tests {
    use super::*;
    use crate::core::alloc::Config;
    use crate::core::request::Request;
    use crate::core::units::CpuId;
    use crate::core::watermark::Watermarks;

    /// It is uncharged as a block of its type with holes, so there may be nothing else in it.
    #[test]
    #[should_panic(expected = "Stash cannot become Guest")]
    fn one_frame_of_a_whole_block_becomes_nothing_but_a_hole() {
        let config = Config { blocks: 1, cpus: 1, watermarks: Watermarks::NONE };
        let alloc: FrameAllocator = FrameAllocator::new(config);
        let head = alloc.alloc(CpuId(0), &Request::new(Order::BLOCK, PageType::Stash)).unwrap();
        alloc.retagger().retag(head, PageType::Guest);
    }
}
