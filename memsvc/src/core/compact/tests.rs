//! Both policies, on arenas of any kind, with a mover that keeps books instead of memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::core::alloc::Config;
use crate::core::slab::{MovableSlabs, SlabRequest};
use crate::core::units::{BLOCK_SIZE, OwnerId};
use crate::core::watermark::Watermarks;

const CPU: CpuId = CpuId(0);
const GUEST: OwnerId = OwnerId(1);
/// The last block, too, whatever is to stay free.
const BLOCK: Request = Request::new(Order::BLOCK, PageType::Guest).charge_to(GUEST).flags(Flags::MEMALLOC);
const KMEM: Request = Request::new(Order::FRAME, PageType::Kmem).flags(Flags::MEMALLOC);
const CAPTURE: Request = Request::new(Order::BLOCK, PageType::Stash);

/// What a block is filled with.
#[derive(Clone, Debug)]
enum Fill {
    Free,
    /// A huge page; holes where this is true of the index.
    Huge(Pattern),
    /// Single frames; freed where this is true. The last is Kmem, maybe.
    Pieces(Pattern, bool),
}

#[derive(Clone, Copy, Debug)]
enum Pattern {
    None,
    /// Every second group of so many.
    Groups(usize),
    /// All but so many of 512, scattered.
    Few(usize),
    /// So many of 512, scattered.
    Most(usize),
}

impl Pattern {
    fn is_given_up(self, index: usize) -> bool {
        // A permutation of 0 to 511.
        let scattered = index * 197 % FRAMES_PER_BLOCK;
        match self {
            Pattern::None => false,
            Pattern::Groups(size) => index / size % 2 == 1,
            Pattern::Few(left) => scattered >= left,
            Pattern::Most(given) => scattered < given,
        }
    }
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![
        Just(Pattern::None),
        prop::sample::select(vec![1, 2, 128]).prop_map(Pattern::Groups),
        (1usize..40).prop_map(Pattern::Few),
        (1usize..300).prop_map(Pattern::Most),
    ]
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        1 => Just(Fill::Free),
        3 => pattern().prop_map(Fill::Huge),
        3 => (pattern(), prop::bool::weighted(0.2)).prop_map(|(pattern, kmem)| Fill::Pieces(pattern, kmem)),
    ]
}

/// An arena in which each frame of a guest carries its own number, for ever.
struct Books {
    alloc: FrameAllocator,
    /// What is in each frame that the guest uses.
    contents: BTreeMap<FrameId, u32>,
    /// Frames that will not move.
    pinned: Vec<u32>,
}

impl Books {
    fn new(fills: &[Fill]) -> Self {
        Self::with(fills, Watermarks::NONE)
    }

    fn with(fills: &[Fill], watermarks: Watermarks) -> Self {
        let config = Config { blocks: fills.len() as u32, cpus: 1, watermarks };
        let mut books =
            Self { alloc: FrameAllocator::new(config), contents: BTreeMap::new(), pinned: Vec::new() };
        let mut unused = Vec::new();
        for fill in fills {
            let head = books.alloc.alloc(CPU, &BLOCK).unwrap();
            let block = head.block();
            match *fill {
                Fill::Free => unused.push(head),
                Fill::Huge(pattern) => {
                    // A huge page of which nothing is left would be given back.
                    let gone = |index| index > 0 && pattern.is_given_up(index);
                    let mut tags = books.alloc.retagger();
                    (0..FRAMES_PER_BLOCK)
                        .filter(|&i| gone(i))
                        .for_each(|i| tags.retag(block.frame(i), PageType::Balloon));
                    drop(tags);
                    books.note(block, |index| !gone(index));
                }
                Fill::Pieces(pattern, kmem) => {
                    books.alloc.split(head, Order::BLOCK).unwrap();
                    let gone = |index| pattern.is_given_up(index) || kmem && index == 7;
                    for index in (0..FRAMES_PER_BLOCK).filter(|&i| gone(i)) {
                        books.alloc.free(CPU, block.frame(index), Order::FRAME).unwrap();
                    }
                    books.note(block, |index| !gone(index));
                    if kmem {
                        let mut got = Vec::new();
                        books.alloc.drain_all();
                        books.alloc.take_from(block, &KMEM, 1, &mut got).unwrap();
                    }
                }
            }
        }
        unused.into_iter().for_each(|head| books.alloc.free(CPU, head, Order::BLOCK).unwrap());
        books
    }

    fn note(&mut self, block: BlockId, is_live: impl Fn(usize) -> bool) {
        for frame in (0..FRAMES_PER_BLOCK).filter(|&index| is_live(index)).map(|index| block.frame(index)) {
            self.alloc.set_rmap(frame, frame.0);
            self.contents.insert(frame, frame.0);
        }
    }

    fn pieces(&self) -> u64 {
        self.alloc.broken_blocks()
    }
}

struct Keeper<'a> {
    contents: &'a mut BTreeMap<FrameId, u32>,
    pinned: &'a [u32],
    captured: Vec<BlockId>,
}

impl Keeper<'_> {
    fn break_up(&mut self, alloc: &FrameAllocator, block: BlockId) -> bool {
        alloc.block_use(block).is_some_and(|used| used.whole)
            && alloc.split(block.frame(0), Order::BLOCK).is_ok()
    }

    fn free_holes(&mut self, alloc: &FrameAllocator, block: BlockId) {
        for frame in (0..FRAMES_PER_BLOCK).map(|index| block.frame(index)) {
            if alloc.page_type(frame) == PageType::Balloon {
                alloc.free(CPU, frame, Order::FRAME).unwrap();
            }
        }
        alloc.drain_all();
    }
}

impl Mover<crate::core::alloc::Full> for Keeper<'_> {
    fn isolate<'a>(
        &mut self,
        alloc: &'a FrameAllocator,
        block: BlockId,
    ) -> Option<Isolated<'a, crate::core::alloc::Full>> {
        self.break_up(alloc, block);
        let isolated = alloc.isolate(block)?;
        self.free_holes(alloc, block);
        Some(isolated)
    }

    fn split(&mut self, alloc: &FrameAllocator, block: BlockId) -> bool {
        let broken = self.break_up(alloc, block);
        self.free_holes(alloc, block);
        broken
    }

    fn migrate(&mut self, alloc: &FrameAllocator, from: &[FrameId], to: &[FrameId]) -> Migrated {
        assert_eq!(from.len(), to.len());
        let one = |(&from, &to): (&FrameId, &FrameId)| {
            let content = self.contents[&from];
            if self.pinned.contains(&content) {
                return false;
            }
            assert_eq!(self.contents.insert(to, content), None, "{to:?} is in use");
            self.contents.remove(&from);
            alloc.exchange([(from, to)]);
            alloc.free(CPU, from, Order::FRAME).unwrap();
            true
        };
        Migrated(from.iter().zip(to).map(one).collect())
    }

    fn captured(&mut self, block: BlockId) {
        self.captured.push(block);
    }
}

fn compact(books: &mut Books, policy: impl Policy + 'static, wanted: u64) -> (Run, Vec<BlockId>) {
    let mut keeper = Keeper { contents: &mut books.contents, pinned: &books.pinned, captured: Vec::new() };
    let run = Compactor::new(Box::new(policy)).run(
        &books.alloc,
        CPU,
        &mut keeper,
        &CAPTURE,
        &Goal { blocks: wanted, urgency: Urgency::Wanted },
    );
    (run, keeper.captured)
}

/// The fewest live frames that have to move so that each number of blocks is free.
fn fewest(books: &Books) -> Vec<u64> {
    let mut live = Vec::new();
    books.alloc.for_block_uses(|_, used| {
        if used.unmovable == 0 && used.room > 0 {
            live.push(u64::from(used.live));
        }
    });
    live.sort_unstable();
    let sums = live.iter().scan(0, |sum, live| {
        *sum += live;
        Some(*sum)
    });
    std::iter::once(0).chain(sums).collect()
}

fn agrees(
    fills: &[Fill],
    pins: &[usize],
    policy: impl Policy + 'static,
    wanted: u64,
) -> Result<Run, TestCaseError> {
    let mut books = Books::new(fills);
    let all: Vec<u32> = books.contents.values().copied().collect();
    books.pinned = pins.iter().filter(|_| !all.is_empty()).map(|pin| all[pin % all.len()]).collect();
    books.alloc.drain_all();
    let (pieces, fewest) = (books.pieces(), fewest(&books));
    let before = books.alloc.count(PageType::Guest);
    let (run, captured) = compact(&mut books, policy, wanted);

    prop_assert_eq!(books.alloc.check(), Ok(()));
    prop_assert_eq!(books.alloc.count(PageType::Guest), before, "frames in use");
    prop_assert_eq!(
        books.alloc.charged(OwnerId::HOST) - books.alloc.count(PageType::Kmem),
        512 * run.emptied
    );
    prop_assert_eq!(captured.len() as u64, run.emptied);
    prop_assert!(run.emptied <= wanted && run.sources <= fills.len() as u64);
    let mut kept: Vec<u32> = books.contents.values().copied().collect();
    kept.sort_unstable();
    prop_assert_eq!(kept, all, "what was in the frames");
    for (frame, content) in &books.contents {
        prop_assert_eq!(
            books.alloc.rmap(*frame),
            if is_whole(&books, *frame) { books.alloc.rmap(*frame) } else { *content }
        );
        prop_assert!(!captured.contains(&frame.block()), "{:?} was captured", frame.block());
    }
    if pins.is_empty() {
        prop_assert!(run.emptied > 0 || books.pieces() <= pieces, "split, and nothing won: {:?}", run);
        prop_assert!(run.migrated >= fewest[run.emptied as usize]);
    }
    Ok(run)
}

/// What is free in pieces must stay so; the holes of huge pages are room all the same.
#[test]
fn room_below_the_min_watermark_does_not_keep_huge_pages_from_being_emptied() {
    let holed = || Fill::Huge(Pattern::Groups(128));
    let fills = [holed(), holed(), holed(), holed(), Fill::Pieces(Pattern::Groups(128), true)];
    let kept = Watermarks { min: 256, low: 256, high: 256 };
    for policy in [PolicyKind::Occupancy, PolicyKind::Scanner] {
        let mut books = Books::with(&fills, kept);
        books.alloc.drain_all();
        let mut keeper = Keeper { contents: &mut books.contents, pinned: &[], captured: Vec::new() };
        let run = Compactor::new(policy.make()).run(&books.alloc, CPU, &mut keeper, &CAPTURE, &Goal::ALL);
        assert_eq!((run.emptied, run.migrated, run.sources), (2, 512, 2), "{policy}");
    }
}

/// A huge page that needs more room than the watermark leaves stays one.
#[test]
fn a_huge_page_is_not_split_for_a_block_that_cannot_be_won() {
    let fills = [Fill::Huge(Pattern::Most(262)), Fill::Pieces(Pattern::Groups(128), true)];
    let kept = Watermarks { min: 156, low: 156, high: 156 };
    for policy in [PolicyKind::Occupancy, PolicyKind::Scanner] {
        let mut books = Books::with(&fills, kept);
        books.alloc.drain_all();
        let mut keeper = Keeper { contents: &mut books.contents, pinned: &[], captured: Vec::new() };
        let run = Compactor::new(policy.make()).run(&books.alloc, CPU, &mut keeper, &CAPTURE, &Goal::ALL);
        assert_eq!((run.emptied, run.migrated), (0, 0), "{policy}: {run:?}");
        assert!(is_whole(&books, BlockId(0).frame(0)), "{policy}");
    }
}

fn is_whole(books: &Books, frame: FrameId) -> bool {
    books.alloc.block_use(frame.block()).is_some_and(|used| used.whole)
}

proptest! {
    #[test]
    fn no_frame_is_lost_whoever_decides(
        fills in prop::collection::vec(fill(), 1..8),
        pins in prop::collection::vec(any::<usize>(), 0..3),
        wanted in prop_oneof![Just(1u64), Just(9)],
    ) {
        agrees(&fills, &pins, Scanner::default(), wanted)?;
        agrees(&fills, &pins, Occupancy::default(), wanted)?;
    }

    /// Nobody could move fewer frames, nor win more blocks.
    #[test]
    fn occupancy_moves_the_fewest_frames_and_wins_all_there_is(fills in prop::collection::vec(fill(), 1..8)) {
        let books = Books::new(&fills);
        books.alloc.drain_all();
        let fewest = fewest(&books);
        let run = agrees(&fills, &[], Occupancy::default(), u64::MAX)?;
        prop_assert_eq!(run.migrated, fewest[run.emptied as usize]);
        // One more would not fit: into all the room there is but its own and that of those before it.
        let next = run.emptied as usize + 1;
        if next < fewest.len() {
            let mut uses = Vec::new();
            books.alloc.for_block_uses(|_, used| uses.push(used));
            uses.retain(|used| used.room > 0);
            uses.sort_by_key(|used| if used.unmovable > 0 { u16::MAX } else { used.live });
            let room: u64 = uses[next..].iter().map(|used| u64::from(used.room)).sum();
            prop_assert!(room < fewest[next], "{} of {}", run.emptied, fewest.len());
        }
    }
}

/// Objects of movable slabs, and where each is.
struct Objects<'a> {
    movable: &'a MovableSlabs,
    memory: BTreeMap<u64, u64>,
    captured: Vec<BlockId>,
}

impl Mover<crate::core::alloc::Full> for Objects<'_> {
    fn isolate<'a>(
        &mut self,
        alloc: &'a FrameAllocator,
        block: BlockId,
    ) -> Option<Isolated<'a, crate::core::alloc::Full>> {
        alloc.isolate(block)
    }

    fn split(&mut self, _: &FrameAllocator, _: BlockId) -> bool {
        false
    }

    fn relocate(&mut self, block: &Isolated<'_, crate::core::alloc::Full>) {
        let memory = &mut self.memory;
        self.movable.relocate(CPU, block, |from, to| {
            let content = memory.remove(&from.offset()).unwrap();
            assert_eq!(memory.insert(to.offset(), content), None);
        });
    }

    fn migrate(&mut self, _: &FrameAllocator, from: &[FrameId], _: &[FrameId]) -> Migrated {
        Migrated(vec![false; from.len()])
    }

    fn captured(&mut self, block: BlockId) {
        self.captured.push(block);
    }
}

/// Between slabs lie frames that are freed again: blocks are won, and every object is what it was.
#[test]
fn movable_slabs_are_emptied_too() {
    let config = Config { blocks: 24, cpus: 1, watermarks: Watermarks::NONE };
    let alloc: Arc<FrameAllocator> = Arc::new(FrameAllocator::new(config));
    let movable = MovableSlabs::new(Arc::clone(&alloc), OwnerId::HOST, 1);
    let request = SlabRequest::new(1000).unwrap();
    let single = Request::new(Order::FRAME, PageType::Guest).charge_to(GUEST);
    let (mut handles, mut between) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        handles.extend((0..24).map(|_| movable.alloc(CPU, &request).unwrap()));
        between.extend((0..26).map(|_| alloc.alloc(CPU, &single).unwrap()));
    }
    let offset = |handle| movable.pin(handle).unwrap().object().offset();
    let memory = (0..).zip(&handles).map(|(number, &handle)| (offset(handle), number)).collect();
    let mut objects = Objects { movable: &movable, memory, captured: Vec::new() };
    between.into_iter().for_each(|frame| alloc.free(CPU, frame, Order::FRAME).unwrap());
    alloc.drain_all();
    let before = alloc.broken_blocks();
    for policy in [PolicyKind::Scanner, PolicyKind::Occupancy] {
        Compactor::new(policy.make()).run(&alloc, CPU, &mut objects, &CAPTURE, &Goal::ALL);
    }
    let least = (handles.len() * 1024).div_ceil(BLOCK_SIZE) as u64;
    assert!(before >= least + 5, "{before} blocks");
    assert!(alloc.broken_blocks() <= least + 1, "{} of {before} blocks", alloc.broken_blocks());
    assert!(objects.captured.len() as u64 >= before - alloc.broken_blocks());
    for (number, &handle) in (0..).zip(&handles) {
        assert_eq!(objects.memory.get(&offset(handle)), Some(&number));
    }
    assert_eq!(alloc.check(), Ok(()));
}
