//! The frame allocator: free blocks, and blocks that are handed out frame by frame.
//!
//! ```text
//!   free ──alloc(order 9)──▶ whole ──free──▶ free
//!   free ──alloc(order 0)──▶ broken (some frames out, some free) ──last frame freed──▶ free
//! ```
//!
//! It knows nothing of memory: where frames lie and what is in them is `space`'s. There is one
//! way in, [`FrameAllocator::alloc`], and one way out, [`FrameAllocator::free`].

use super::bitmap::BlockBitmap;
use super::frames::FrameTable;
use super::page_type::PageType;
use super::units::{BlockId, FRAMES_PER_BLOCK, FrameId, Order};

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// How many contiguous frames: [`Order::FRAME`] or [`Order::BLOCK`].
    pub order: Order,
    /// What for.
    pub page_type: PageType,
}

/// What an allocation gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// First frame.
    pub head: FrameId,
    /// The frame has been freed before in this block and lies in its home slot with the poison
    /// word; otherwise nothing is behind it.
    pub poisoned: bool,
}

/// There is no free memory of this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free memory of order {order} in the arena")]
pub struct NoMemory {
    /// What was asked for.
    pub order: Order,
}

/// A refused free. The allocator is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreeError {
    /// The tag does not allow freeing: freed twice, or never handed out.
    #[error("frame {frame:?} is tagged {tag:?} and cannot be freed")]
    NotFreeable {
        /// The frame.
        frame: FrameId,
        /// Its tag.
        tag: PageType,
    },
    /// The frame was handed out with another order.
    #[error("frame {frame:?} (tagged {tag:?}) was not handed out with order {order}")]
    WrongOrder {
        /// The frame.
        frame: FrameId,
        /// Its tag.
        tag: PageType,
        /// The order given.
        order: Order,
    },
}

/// What a free came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freed {
    /// The frame is free in a block of which others are in use; it must carry the poison word.
    Frame,
    /// The whole block is free now; nothing may stay behind it.
    Block {
        /// Which.
        block: BlockId,
    },
}

#[derive(Debug)]
enum BlockState {
    Free,
    Whole,
    Broken(Box<Broken>),
}

#[derive(Debug)]
struct Broken {
    free: BlockBitmap,
    poisoned: BlockBitmap,
}

/// Hands out the frames of one arena.
#[derive(Debug)]
pub struct FrameAllocator {
    table: FrameTable,
    blocks: Vec<BlockState>,
    free_blocks: Vec<BlockId>,
    /// Broken blocks with at least one free frame.
    partial: Vec<BlockId>,
}

impl FrameAllocator {
    /// An allocator over `blocks` free blocks.
    pub fn new(blocks: u32) -> Self {
        Self {
            table: FrameTable::new(blocks),
            blocks: (0..blocks).map(|_| BlockState::Free).collect(),
            free_blocks: (0..blocks).rev().map(BlockId).collect(),
            partial: Vec::new(),
        }
    }

    /// The tags.
    pub fn table(&self) -> &FrameTable {
        &self.table
    }

    /// Blocks that are wholly free.
    pub fn free_blocks(&self) -> usize {
        self.free_blocks.len()
    }

    /// Blocks that are handed out frame by frame.
    pub fn broken_blocks(&self) -> usize {
        self.blocks.iter().filter(|state| matches!(state, BlockState::Broken(_))).count()
    }

    /// Hands out `2^order` frames and tags them.
    ///
    /// # Errors
    /// [`NoMemory`] when no free memory of this order is left.
    ///
    /// # Panics
    /// When asked for [`PageType::Buddy`].
    pub fn alloc(&mut self, request: Request) -> Result<Allocation, NoMemory> {
        assert!(request.page_type.is_freeable(), "frames cannot be handed out as free");
        let allocation = if request.order == Order::BLOCK {
            let block = self.free_blocks.pop().ok_or(NoMemory { order: request.order })?;
            self.blocks[block.0 as usize] = BlockState::Whole;
            Allocation { head: block.frame(0), poisoned: false }
        } else {
            self.alloc_frame().ok_or(NoMemory { order: request.order })?
        };
        self.table.set_all(allocation.head, request.order, request.page_type);
        Ok(allocation)
    }

    fn alloc_frame(&mut self) -> Option<Allocation> {
        let block = match self.partial.last() {
            Some(&block) => block,
            None => {
                let block = self.free_blocks.pop()?;
                let broken = Broken { free: BlockBitmap::FULL, poisoned: BlockBitmap::EMPTY };
                self.blocks[block.0 as usize] = BlockState::Broken(Box::new(broken));
                self.partial.push(block);
                block
            }
        };
        let BlockState::Broken(broken) = &mut self.blocks[block.0 as usize] else {
            unreachable!("a partial block is broken");
        };
        // Poisoned frames first: they have memory behind them already.
        let index = broken.poisoned.first().or_else(|| broken.free.first())?;
        broken.free.remove(index);
        let poisoned = broken.poisoned.remove(index);
        if broken.free.is_empty() {
            self.partial.pop();
        }
        Some(Allocation { head: block.frame(index), poisoned })
    }

    /// Makes a whole block one that is handed out frame by frame, with all frames free and nothing
    /// behind them: what became of a block for which the host had no huge page.
    ///
    /// # Errors
    /// [`FreeError`] when the block is not handed out whole.
    pub fn break_up(&mut self, block: BlockId) -> Result<(), FreeError> {
        self.check(block.frame(0), Order::BLOCK)?;
        self.table.set_all(block.frame(0), Order::BLOCK, PageType::Buddy);
        let broken = Broken { free: BlockBitmap::FULL, poisoned: BlockBitmap::EMPTY };
        self.blocks[block.0 as usize] = BlockState::Broken(Box::new(broken));
        self.partial.push(block);
        Ok(())
    }

    /// Makes a whole block one that is handed out frame by frame, with all frames still in use: what
    /// became of a block that fell to pieces on its way.
    ///
    /// # Errors
    /// [`FreeError`] when the block is not handed out whole.
    pub fn split(&mut self, block: BlockId) -> Result<(), FreeError> {
        self.check(block.frame(0), Order::BLOCK)?;
        let broken = Broken { free: BlockBitmap::EMPTY, poisoned: BlockBitmap::EMPTY };
        self.blocks[block.0 as usize] = BlockState::Broken(Box::new(broken));
        Ok(())
    }

    /// Takes back what [`Self::alloc`] handed out, of any tag, and uncharges it if its tag says so.
    ///
    /// # Errors
    /// [`FreeError`] when the tag or the order does not allow it; nothing has changed then.
    pub fn free(&mut self, head: FrameId, order: Order) -> Result<Freed, FreeError> {
        self.check(head, order)?;
        self.table.set_all(head, order, PageType::Buddy);
        let block = head.block();
        let state = &mut self.blocks[block.0 as usize];
        if let BlockState::Broken(broken) = state {
            let was_full = broken.free.is_empty();
            broken.free.insert(head.index());
            broken.poisoned.insert(head.index());
            if broken.free.len() < FRAMES_PER_BLOCK {
                if was_full {
                    self.partial.push(block);
                }
                return Ok(Freed::Frame);
            }
            self.partial.retain(|&other| other != block);
        }
        *state = BlockState::Free;
        self.free_blocks.push(block);
        Ok(Freed::Block { block })
    }

    fn check(&self, frame: FrameId, order: Order) -> Result<(), FreeError> {
        let tag = self.table.tag(frame);
        if !tag.is_freeable() {
            return Err(FreeError::NotFreeable { frame, tag });
        }
        let fits = match self.blocks[frame.block().0 as usize] {
            BlockState::Free => false,
            BlockState::Whole => order == Order::BLOCK && frame.index() == 0,
            BlockState::Broken(_) => order == Order::FRAME,
        };
        if fits { Ok(()) } else { Err(FreeError::WrongOrder { frame, tag, order }) }
    }

    /// Changes the tag of one live frame, as [`PageType::may_become`] allows.
    ///
    /// # Panics
    /// When it does not: an error of ours, never of a guest.
    pub fn retag(&mut self, frame: FrameId, page_type: PageType) {
        let old = self.table.tag(frame);
        assert!(old.may_become(page_type), "{frame:?}: {old:?} cannot become {page_type:?}");
        self.table.set(frame, page_type);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const BLOCKS: u32 = 3;

    #[derive(Clone, Debug)]
    enum Op {
        Alloc(Order, PageType),
        Free(usize),
        FreeAnything(u32, Order),
        BreakUp(usize),
        Split(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        let order = prop_oneof![8 => Just(Order::FRAME), 1 => Just(Order::BLOCK)];
        let tag = prop_oneof![Just(PageType::Guest), Just(PageType::Stash)];
        prop_oneof![
            6 => (order.clone(), tag).prop_map(|(order, tag)| Op::Alloc(order, tag)),
            4 => any::<usize>().prop_map(Op::Free),
            1 => (0..BLOCKS * FRAMES_PER_BLOCK as u32, order)
                .prop_map(|(frame, order)| Op::FreeAnything(frame, order)),
            1 => any::<usize>().prop_map(Op::BreakUp),
            1 => any::<usize>().prop_map(Op::Split),
        ]
    }

    fn size(order: Order) -> u64 {
        if order == Order::BLOCK { FRAMES_PER_BLOCK as u64 } else { 1 }
    }

    proptest! {
        /// Whatever is asked for, tags add up to the arena, nothing is handed out twice, and what
        /// must not be freed is refused and stays.
        #[test]
        fn agrees_with_a_model(ops in prop::collection::vec(op(), 1..400)) {
            let mut alloc = FrameAllocator::new(BLOCKS);
            let mut live: BTreeMap<FrameId, (Order, PageType)> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Alloc(order, page_type) => {
                        if let Ok(got) = alloc.alloc(Request { order, page_type }) {
                            let span = got.head.0..got.head.0 + size(order) as u32;
                            for (head, (order, _)) in &live {
                                let other = head.0..head.0 + size(*order) as u32;
                                prop_assert!(span.end <= other.start || other.end <= span.start);
                            }
                            live.insert(got.head, (order, page_type));
                        } else if order == Order::FRAME {
                            let used: u64 = live.values().map(|(order, _)| size(*order)).sum();
                            prop_assert_eq!(used, alloc.table().frames());
                        }
                    }
                    Op::Free(nth) if !live.is_empty() => {
                        let (&head, &(order, _)) = live.iter().nth(nth % live.len()).unwrap();
                        alloc.free(head, order).unwrap();
                        live.remove(&head);
                    }
                    Op::FreeAnything(frame, order) => {
                        let frame = FrameId(frame);
                        let expected = live.get(&frame).is_some_and(|(o, _)| *o == order);
                        prop_assert_eq!(alloc.free(frame, order).is_ok(), expected);
                        if expected {
                            live.remove(&frame);
                        }
                    }
                    Op::BreakUp(nth) if !live.is_empty() => {
                        let (&head, &(order, _)) = live.iter().nth(nth % live.len()).unwrap();
                        let whole = order == Order::BLOCK;
                        prop_assert_eq!(alloc.break_up(head.block()).is_ok(), whole);
                        if whole {
                            live.remove(&head);
                        }
                    }
                    Op::Split(nth) if !live.is_empty() => {
                        let (&head, &(order, tag)) = live.iter().nth(nth % live.len()).unwrap();
                        let whole = order == Order::BLOCK;
                        prop_assert_eq!(alloc.split(head.block()).is_ok(), whole);
                        if whole {
                            let frames = (0..FRAMES_PER_BLOCK).map(|index| head.block().frame(index));
                            live.extend(frames.map(|frame| (frame, (Order::FRAME, tag))));
                        }
                    }
                    Op::Free(_) | Op::BreakUp(_) | Op::Split(_) => {}
                }
                let total: u64 = PageType::ALL.iter().map(|&t| alloc.table().count(t)).sum();
                prop_assert_eq!(total, alloc.table().frames());
                for page_type in [PageType::Guest, PageType::Stash] {
                    let expected: u64 =
                        live.values().filter(|(_, t)| *t == page_type).map(|(o, _)| size(*o)).sum();
                    prop_assert_eq!(alloc.table().count(page_type), expected);
                }
                prop_assert_eq!(alloc.table().charged(), alloc.table().count(PageType::Guest));
            }
        }
    }

    #[test]
    fn a_broken_block_is_whole_again_when_its_last_frame_comes_home() {
        let mut alloc = FrameAllocator::new(1);
        let request = Request { order: Order::FRAME, page_type: PageType::Guest };
        let frames: Vec<_> = (0..FRAMES_PER_BLOCK).map(|_| alloc.alloc(request).unwrap().head).collect();
        assert_eq!(alloc.alloc(request), Err(NoMemory { order: Order::FRAME }));
        for frame in &frames[1..] {
            assert_eq!(alloc.free(*frame, Order::FRAME), Ok(Freed::Frame));
        }
        let block = Freed::Block { block: BlockId(0) };
        assert_eq!(alloc.free(frames[0], Order::FRAME), Ok(block));
        assert!(alloc.alloc(Request { order: Order::BLOCK, page_type: PageType::Guest }).is_ok());
    }

    #[test]
    fn a_freed_frame_is_handed_out_again_first_and_said_to_be_poisoned() {
        let mut alloc = FrameAllocator::new(1);
        let request = Request { order: Order::FRAME, page_type: PageType::Guest };
        let first = alloc.alloc(request).unwrap();
        let second = alloc.alloc(request).unwrap();
        assert!(!first.poisoned && !second.poisoned);
        alloc.free(second.head, Order::FRAME).unwrap();
        assert_eq!(alloc.alloc(request), Ok(Allocation { head: second.head, poisoned: true }));
    }
}
