//! The allocator against a model: every operation, and every invariant after each.
//!
//! `PROPTEST_CASES` says how long; `ci/soak` asks for millions of steps. `bytes.rs` makes operations of
//! bytes, for a fuzzer.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::alloc::{Config, FrameAllocator};
use super::migrate_type::MigrateType;
use super::page_type::PageType;
use super::request::{AllocError, Flags, FreeError, Request};
use super::units::{BlockId, CpuId, FRAMES_PER_BLOCK, FrameId, Order, OwnerId};
use super::watermark::Watermarks;

pub(super) const BLOCKS: u32 = 4;
pub(super) const FRAMES: u64 = BLOCKS as u64 * FRAMES_PER_BLOCK as u64;
pub(super) const CPUS: u8 = 3;
const MARKS: Watermarks = Watermarks { min: 300, low: 400, high: 500 };

#[derive(Clone, Debug)]
pub(super) enum Op {
    /// `times`, on this CPU.
    Alloc {
        cpu: CpuId,
        request: Request,
        times: u32,
    },
    /// What was got `nth`, and the `times - 1` that follow it.
    Free {
        cpu: CpuId,
        nth: usize,
        times: u32,
    },
    /// Any frame, with any order: mostly wrong.
    FreeAnything {
        cpu: CpuId,
        frame: FrameId,
        order: Order,
    },
    /// What was freed last, again.
    FreeAgain {
        cpu: CpuId,
    },
    Drain {
        cpu: CpuId,
    },
    DrainAll,
    Split {
        nth: usize,
    },
    Retag {
        nth: usize,
        index: u32,
        page_type: PageType,
    },
    TakeEmptied,
    /// A block is isolated and emptied, frame by frame, `moves` at most; then handed out if all of it is free.
    Empty {
        cpu: CpuId,
        block: BlockId,
        moves: u32,
    },
    Limit {
        owner: OwnerId,
        limit: Option<u64>,
    },
}

#[cfg(test)]
fn request() -> impl Strategy<Value = Request> {
    let order = prop_oneof![6 => Just(0u8), 2 => 1u8..9, 1 => Just(9u8)];
    let page_type = prop_oneof![3 => Just(PageType::Guest), 1 => Just(PageType::Stash), 1 => Just(PageType::Kmem), 1 => Just(PageType::Slab)];
    let migrate_type = proptest::option::weighted(0.2, proptest::sample::select(&MigrateType::ALL[..]));
    let flags = prop_oneof![3 => Just(Flags::NONE), 1 => Just(Flags::MEMALLOC), 1 => Just(Flags::NOWAIT)];
    (order, page_type, migrate_type, flags, 0u8..3).prop_map(
        |(order, page_type, migrate_type, flags, owner)| {
            let request =
                Request::new(Order::new(order).unwrap(), page_type).flags(flags).charge_to(OwnerId(owner));
            migrate_type.map_or(request, |migrate_type| request.migrate_type(migrate_type))
        },
    )
}

#[cfg(test)]
fn op() -> impl Strategy<Value = Op> {
    let cpu = || (0..CPUS).prop_map(CpuId);
    let times = || prop_oneof![4 => 1u32..4, 1 => 1u32..700];
    let order = (0u8..10).prop_map(|order| Order::new(order).unwrap());
    let becomes = prop_oneof![Just(PageType::Guest), Just(PageType::Balloon)];
    prop_oneof![
        8 => (cpu(), request(), times()).prop_map(|(cpu, request, times)| Op::Alloc { cpu, request, times }),
        6 => (cpu(), any::<usize>(), times()).prop_map(|(cpu, nth, times)| Op::Free { cpu, nth, times }),
        2 => (cpu(), 0..FRAMES as u32 + 9, order)
            .prop_map(|(cpu, frame, order)| Op::FreeAnything { cpu, frame: FrameId(frame), order }),
        2 => cpu().prop_map(|cpu| Op::FreeAgain { cpu }),
        1 => cpu().prop_map(|cpu| Op::Drain { cpu }),
        1 => Just(Op::DrainAll),
        1 => any::<usize>().prop_map(|nth| Op::Split { nth }),
        2 => (any::<usize>(), any::<u32>(), becomes)
            .prop_map(|(nth, index, page_type)| Op::Retag { nth, index, page_type }),
        1 => Just(Op::TakeEmptied),
        2 => (cpu(), 0..BLOCKS, prop_oneof![0u32..9, Just(512)])
            .prop_map(|(cpu, block, moves)| Op::Empty { cpu, block: BlockId(block), moves }),
        1 => (0u8..3, proptest::option::of(0..FRAMES))
            .prop_map(|(owner, limit)| Op::Limit { owner: OwnerId(owner), limit }),
    ]
}

/// What is handed out: order, owner and the page type of each frame.
#[derive(Clone, Debug)]
struct Chunk {
    order: Order,
    owner: OwnerId,
    types: Vec<PageType>,
}

pub(super) struct Model {
    alloc: Arc<FrameAllocator>,
    live: BTreeMap<FrameId, Chunk>,
    last_freed: Option<(FrameId, Order)>,
    limits: [Option<u64>; 3],
}

pub(super) type Checked = Result<(), TestCaseError>;

impl Model {
    pub(super) fn new() -> Self {
        let alloc = FrameAllocator::new(Config { blocks: BLOCKS, cpus: CPUS, watermarks: MARKS });
        Self { alloc: Arc::new(alloc), live: BTreeMap::new(), last_freed: None, limits: [None; 3] }
    }

    fn used(&self, owner: Option<OwnerId>) -> u64 {
        let of = |chunk: &&Chunk| owner.is_none_or(|owner| owner == chunk.owner);
        self.live.values().filter(of).map(|chunk| u64::from(chunk.order.frames())).sum()
    }

    pub(super) fn step(&mut self, op: Op) -> Checked {
        match op {
            Op::Alloc { cpu, request, times } => (0..times).try_for_each(|_| self.alloc(cpu, &request))?,
            Op::Free { cpu, nth, times } => {
                let heads: Vec<_> = self.live.iter().map(|(head, chunk)| (*head, chunk.order)).collect();
                let mut local = self.alloc.enter(cpu);
                for (head, order) in heads
                    .iter()
                    .cycle()
                    .skip(nth % heads.len().max(1))
                    .take((times as usize).min(heads.len()))
                {
                    prop_assert_eq!(local.free(*head, *order), Ok(()));
                    self.live.remove(head);
                    self.last_freed = Some((*head, *order));
                }
            }
            Op::FreeAnything { cpu, frame, order } => self.free_anything(cpu, frame, order)?,
            Op::FreeAgain { cpu } => {
                if let Some((frame, order)) = self.last_freed {
                    self.free_anything(cpu, frame, order)?;
                }
            }
            Op::Drain { cpu } => {
                self.alloc.enter(cpu).drain();
            }
            Op::DrainAll => {
                self.alloc.drain_all();
                prop_assert_eq!(self.alloc.buddy_info().free_frames, FRAMES - self.used(None));
                prop_assert_eq!(self.alloc.drain_all().visited, 0);
            }
            Op::Split { nth } => {
                if let Some((head, chunk)) = self.nth(nth) {
                    prop_assert_eq!(self.alloc.split(head, chunk.order), Ok(()));
                    self.live.remove(&head);
                    for (frame, page_type) in (head.0..).map(FrameId).zip(chunk.types) {
                        self.live.insert(
                            frame,
                            Chunk { order: Order::FRAME, owner: chunk.owner, types: vec![page_type] },
                        );
                    }
                }
            }
            Op::Retag { nth, index, page_type } => {
                let Some((head, chunk)) = self.nth(nth) else { return Ok(()) };
                let index = index % chunk.order.frames();
                let fits = chunk.order == Order::FRAME || chunk.order == Order::BLOCK;
                let old = chunk.types[index as usize];
                if fits && (old == PageType::Guest || old == PageType::Balloon) {
                    self.alloc.retagger().retag(FrameId(head.0 + index), page_type);
                    self.live.get_mut(&head).unwrap().types[index as usize] = page_type;
                } else if chunk.order == Order::BLOCK && old == PageType::Stash {
                    self.alloc.retag_block(head.block(), PageType::Guest, OwnerId(1));
                    let types = vec![PageType::Guest; FRAMES_PER_BLOCK];
                    self.live.insert(head, Chunk { order: chunk.order, owner: OwnerId(1), types });
                }
            }
            Op::TakeEmptied => {
                if let Some(block) = self.alloc.take_emptied() {
                    self.insert(block.frame(0), &Request::new(Order::BLOCK, PageType::Return))?;
                }
            }
            Op::Empty { cpu, block, moves } => self.empty(cpu, block, moves)?,
            Op::Limit { owner, limit } => {
                self.alloc.set_limit(owner, limit);
                self.limits[owner.0 as usize] = limit;
            }
        }
        self.agree()
    }

    fn nth(&self, nth: usize) -> Option<(FrameId, Chunk)> {
        self.live.iter().nth(nth % self.live.len().max(1)).map(|(head, chunk)| (*head, chunk.clone()))
    }

    fn alloc(&mut self, cpu: CpuId, request: &Request) -> Checked {
        let (order, owner) = (request.get_order(), request.get_owner());
        let size = u64::from(order.frames());
        let free = FRAMES - self.used(None);
        let charged = self.used(Some(owner));
        let within = self.limits[owner.0 as usize].is_none_or(|limit| charged + size <= limit);
        let memalloc = request.get_flags().contains(Flags::MEMALLOC);
        let above_min = free >= MARKS.min + size;
        let before = self.alloc.buddy_info().free_frames;
        let result = self.alloc.enter(cpu).alloc(request);
        match result {
            Ok(head) => {
                prop_assert!(within || memalloc, "over its limit: {:?}", request);
                // What per-CPU lists hold was taken above min, and is served whatever has become of the rest.
                let after = self.alloc.buddy_info().free_frames;
                let from_below = after < before && after < MARKS.min;
                prop_assert!(!from_below || memalloc, "below min: {:?}", request);
                let is_reserve = self.alloc.is_reserve(head);
                prop_assert!(!from_below || is_reserve, "{:?} is of the reserve and does not say so", head);
                prop_assert!(
                    !is_reserve || memalloc && after < MARKS.min,
                    "{:?} is not of the reserve",
                    head
                );
                self.insert(head, request)
            }
            Err(AllocError::LimitReached { .. }) => {
                prop_assert!(!within && !memalloc);
                Ok(())
            }
            Err(AllocError::NoMemory { .. }) => {
                prop_assert!(
                    order != Order::FRAME || free == 0 || !above_min && !memalloc,
                    "{} are free",
                    free
                );
                Ok(())
            }
        }
    }

    fn empty(&mut self, cpu: CpuId, block: BlockId, moves: u32) -> Checked {
        let alloc = Arc::clone(&self.alloc);
        let Some(isolated) = alloc.isolate(block) else { return Ok(()) };
        prop_assert_eq!(alloc.block_use(block), None);
        alloc.drain_all();
        let in_block = |chunk: (&FrameId, &Chunk)| chunk.1.order == Order::FRAME && chunk.0.block() == block;
        let singles: Vec<_> = self.live.iter().filter(|&(head, chunk)| in_block((head, chunk))).collect();
        let singles: Vec<_> = singles.into_iter().map(|(head, chunk)| (*head, chunk.clone())).collect();
        let mut to = Vec::new();
        for (from, chunk) in singles.into_iter().take(moves as usize) {
            let request = Request::new(Order::FRAME, PageType::Guest).migrate_type(MigrateType::Movable);
            for other in (0..BLOCKS).map(BlockId) {
                if !to.is_empty() {
                    break;
                }
                let room = alloc.block_use(other).map_or(0, |other| if other.whole { 0 } else { other.room });
                let before = to.len();
                if alloc.take_from(other, &request, 1, &mut to).is_ok() {
                    prop_assert_eq!(to.len() - before, usize::from(room.min(1)));
                }
            }
            let Some(to) = to.pop() else { break };
            prop_assert_ne!(to.block(), block);
            alloc.set_rmap(from, from.0);
            self.insert(to, &request)?;
            alloc.exchange([(from, to)]);
            prop_assert_eq!(alloc.rmap(to), from.0);
            prop_assert_eq!((alloc.page_type(to), alloc.owner(to)), (chunk.types[0], chunk.owner));
            prop_assert_eq!(alloc.free(cpu, from, Order::FRAME), Ok(()));
            self.live.remove(&from);
            self.live.insert(to, chunk);
        }
        alloc.drain_all();
        prop_assert_eq!(alloc.check(), Ok(()));
        let is_empty = !self.live.keys().any(|head| head.block() == block);
        let request = Request::new(Order::BLOCK, PageType::Stash);
        match isolated.capture(&request) {
            Ok(captured) => {
                prop_assert!(is_empty && captured == block);
                self.insert(block.frame(0), &request)
            }
            Err(_) => {
                prop_assert!(!is_empty, "all of it is free, and it is not handed out");
                Ok(())
            }
        }
    }

    fn insert(&mut self, head: FrameId, request: &Request) -> Checked {
        let (order, owner, page_type) = (request.get_order(), request.get_owner(), request.get_page_type());
        let end = head.0 + order.frames();
        prop_assert!(head.0.is_multiple_of(order.frames()) && u64::from(end) <= FRAMES);
        for frame in (head.0..end).map(FrameId) {
            prop_assert_eq!((self.alloc.page_type(frame), self.alloc.owner(frame)), (page_type, owner));
        }
        let before = self.live.range(..FrameId(end)).next_back();
        prop_assert!(
            before.is_none_or(|(other, chunk)| other.0 + chunk.order.frames() <= head.0),
            "given twice"
        );
        let types = vec![page_type; order.frames() as usize];
        self.live.insert(head, Chunk { order, owner, types });
        Ok(())
    }

    fn free_anything(&mut self, cpu: CpuId, frame: FrameId, order: Order) -> Checked {
        let result = self.alloc.enter(cpu).free(frame, order);
        let containing = self
            .live
            .range(..=frame)
            .next_back()
            .filter(|(head, chunk)| head.0 + chunk.order.frames() > frame.0);
        match containing {
            Some((&head, chunk)) if head == frame && chunk.order == order => {
                prop_assert_eq!(result, Ok(()));
                self.live.remove(&frame);
            }
            Some((&head, chunk)) if head == frame => {
                let is_wrong = matches!(result, Err(FreeError::WrongOrder { is, owner, .. }) if is == chunk.order && owner == chunk.owner);
                prop_assert!(is_wrong, "{:?}", result);
            }
            Some(_) => prop_assert!(matches!(result, Err(FreeError::NotHead { .. })), "{:?}", result),
            None if u64::from(frame.0) >= FRAMES => {
                prop_assert_eq!(result, Err(FreeError::OutOfRange { frame }))
            }
            None => prop_assert!(matches!(result, Err(FreeError::NotHandedOut { .. })), "{:?}", result),
        }
        Ok(())
    }

    /// Everything that can be asked of the allocator, against the model.
    fn agree(&self) -> Checked {
        prop_assert_eq!(self.alloc.check(), Ok(()));
        for page_type in PageType::ALL.into_iter().filter(|page_type| page_type.is_charged()) {
            let is = |other: &&PageType| **other == page_type;
            let expected =
                self.live.values().map(|chunk| chunk.types.iter().filter(is).count() as u64).sum::<u64>();
            prop_assert_eq!(self.alloc.count(page_type), expected, "{:?}", page_type);
        }
        for owner in (0..3).map(OwnerId) {
            prop_assert_eq!(self.alloc.charged(owner), self.used(Some(owner)), "{:?}", owner);
        }
        Ok(())
    }

    /// All is given back: nothing is left over, and every block is whole again.
    pub(super) fn end(mut self) -> Checked {
        for (head, chunk) in std::mem::take(&mut self.live) {
            prop_assert_eq!(self.alloc.free(CpuId(0), head, chunk.order), Ok(()));
        }
        self.alloc.drain_all();
        prop_assert_eq!(self.alloc.check(), Ok(()));
        prop_assert_eq!(self.alloc.free_blocks(), u64::from(BLOCKS));
        Ok(())
    }
}

#[cfg(test)]
proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_model(ops in prop::collection::vec(op(), 1..60)) {
        let mut model = Model::new();
        for op in ops {
            model.step(op)?;
        }
        model.end()?;
    }
}
