//! Faults: memory for a page that somebody waits for.
//!
//! ```text
//!   fault ─▶ a whole block, moved in under the lock
//!       └──▶ single frames: chosen and `Busy` under the lock; zeroed and moved in without it
//!       └──▶ no frame: `shortage`        the kernel refused: `retry`
//! ```
//! The thread that serves faults waits for nobody. It touches no memory under the lock, because such a touch may be
//! charged to a control group, and the kernel may then make the thread wait.

use std::io;
use std::sync::MutexGuard;
use std::time::Instant;

use rustix::io::Errno;

use super::free::Slots;
use super::mover::{Move, Patience};
use super::split::{Page, SplitBlock, Target};
use super::stash::{Made, reason};
use super::{BlockState, CPU, GUEST, GuestSpace, State, wanted};
use crate::core::page_type::PageType;
use crate::core::request::{AllocError, Flags, Request};
use crate::core::units::{
    BLOCK_SIZE, BlockId, FRAME_SIZE, FRAMES_PER_BLOCK, FrameId, GuestBlock, GuestFrame, Order,
};
use crate::space::uffd::Fault;

/// Pages that come in with one that is touched, aligned: 64 KiB, as for files (`fault_around_bytes`,
/// mm/memory.c).
const AROUND: u32 = 16;
const AROUND_BYTES: usize = AROUND as usize * FRAME_SIZE;

/// One frame behind guest RAM. It is asked for under the lock, so it does not wait here.
const GUEST_FRAME: Request =
    Request::new(Order::FRAME, PageType::Guest).charge_to(GUEST).flags(Flags::NOWAIT);
/// One that a thread waits for without which none may be freed.
const MEMALLOC_FRAME: Request = GUEST_FRAME.flags(Flags::MEMALLOC);

/// Why a fault could not be resolved.
#[derive(Debug)]
enum Unresolved {
    /// There is no memory for it.
    Short,
    /// The kernel refused.
    Refused(Errno),
}

impl From<io::Error> for Unresolved {
    fn from(error: io::Error) -> Self {
        Unresolved::Refused(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl GuestSpace {
    /// Puts memory behind the page that somebody waits for, and wakes them; or has them wait until there is
    /// memory.
    pub(crate) fn resolve(&self, fault: Fault) {
        let since = Instant::now();
        self.faults.total.add(1);
        let offset = fault.address.wrapping_sub(self.mapping.base());
        if offset >= self.mapping.len() {
            self.faults.failed.add(1);
            return;
        }
        let frame = GuestFrame((offset / FRAME_SIZE) as u32);
        match self.populate(frame, since) {
            Ok(()) => {}
            Err(Unresolved::Short) => {
                self.faults.short.add(1);
                self.shortage.add(frame);
            }
            Err(Unresolved::Refused(error)) => {
                self.faults.failed.add(1);
                if crate::seldom::is_due(self.faults.failed.get()) {
                    tracing::warn!(?frame, %error, "a guest fault could not be resolved; it will be tried again");
                }
                self.retry.add(frame);
            }
        }
    }

    fn populate(&self, frame: GuestFrame, since: Instant) -> Result<(), Unresolved> {
        let guest_block = frame.block();
        let (mut waited, mut no_huge_page) = (false, false);
        // Where our control group leaves no room, the guest gets what it touches. To ask charges memory: not under the lock.
        let has_room_around = self.arena.has_room(AROUND_BYTES);
        loop {
            let here = self.stalls.arrive();
            let mut state = self.lock();
            drop(here);
            if state.is_abandoned {
                // Whoever was here has been let go.
                return Ok(());
            }
            state.last_fault = Instant::now();
            let has_room = self.has_room_for_mapping(&state, guest_block);
            let was_split = match &state.blocks[guest_block.0 as usize] {
                BlockState::Huge(_) => return Ok(self.already_there(frame)?),
                // Nothing is left of it, so it can be whole again.
                BlockState::Split(split) if split.is_empty() && has_room && !no_huge_page => true,
                BlockState::Split(split) => match split.page(frame.index()) {
                    Page::Here(_) => return Ok(self.already_there(frame)?),
                    Page::AtHome(home) => return self.bring_one(state, frame, home, since),
                    // Its mover will wake who waits for it.
                    Page::Busy => {
                        self.stalls.begin(&mut state, frame, since);
                        return Ok(());
                    }
                    Page::Absent => return self.move_frames_in(state, frame, has_room_around),
                },
                BlockState::Absent => false,
            };
            if let Some(block) = state.stash.pop() {
                if waited { &self.stash_misses } else { &self.stash_hits }.add(1);
                state.burst = state.burst.saturating_add(1);
                if was_split && let Err(error) = self.map_block_in(&mut state, frame, block) {
                    crate::seldom!(warn, ?guest_block, %error, "a block could not be mapped whole: it gets single pages");
                    no_huge_page = true;
                    continue;
                }
                let result = if was_split { Ok(()) } else { self.move_block_in(&mut state, frame, block) };
                drop(state);
                self.refill.ring(reason::USED);
                return Ok(result?);
            }
            drop(state);
            waited = true;
            if let Made::NoHugePage(block) = self.make_zeroed_block() {
                no_huge_page = true;
                let mut state = self.lock();
                if let Some(block) = block {
                    self.free_block(&mut state, block, Slots::PageTable);
                }
                if let BlockState::Absent = state.blocks[guest_block.0 as usize] {
                    state.put(guest_block, BlockState::Split(Box::new(SplitBlock::absent())));
                }
            }
        }
    }

    /// The page is at home, and waits for its turn with a mover: it is this one's now, and goes where it was
    /// to go.
    fn bring_one(
        &self,
        mut state: MutexGuard<'_, State>,
        page: GuestFrame,
        from: FrameId,
        since: Instant,
    ) -> Result<(), Unresolved> {
        let target = state.split_mut(page.block()).map(|split| split.target(page.index()));
        let to = match target {
            // A copy would have to wait for the host's swap; a move takes the page as it is.
            Some(Target::Frame(to)) if !self.arena.is_swapped(from, &self.pagemap) => to,
            _ => from,
        };
        if to == from {
            self.before_one_goes_in(&mut state, page.block(), from.block());
        } else {
            state.poisoned.remove(to);
        }
        self.count_ballooned(&state, page);
        let it = Move { page, from, to };
        let wake = || self.uffd.wake(self.address(page), FRAME_SIZE);
        let mut state = self.carry_in(state, it, Patience::None);
        let arrived = state.page(page) == Page::Here(to);
        if arrived
            && to != from
            && let Some(split) = state.split_mut(page.block())
        {
            split.set_target(page.index(), Target::Reached(to));
        }
        drop(state);
        self.stalls.record(since);
        if arrived { Ok(wake()?) } else { Err(Unresolved::Refused(Errno::BUSY)) }
    }

    /// A whole block for a split block of which nothing is left.
    fn map_block_in(&self, state: &mut State, frame: GuestFrame, block: BlockId) -> io::Result<()> {
        if let Err(error) = self.take_over(state, frame.block(), block) {
            self.free_block(state, block, Slots::PageTable);
            return Err(error);
        }
        self.moves.blocks_in.add(1);
        self.faults.huge.add(1);
        self.count_ballooned(state, frame);
        self.uffd.wake(self.mapping.base() + frame.block().offset(), BLOCK_SIZE)
    }

    fn already_there(&self, frame: GuestFrame) -> io::Result<()> {
        self.faults.spurious.add(1);
        self.uffd.wake(self.address(frame), FRAME_SIZE)
    }

    fn move_block_in(&self, state: &mut State, frame: GuestFrame, block: BlockId) -> io::Result<()> {
        let guest_block = frame.block();
        let to = self.mapping.base() + guest_block.offset();
        if let Err(error) = self.uffd.move_pages(to, self.arena.block_address(block), BLOCK_SIZE) {
            self.count_refused(error.error);
            // A move may have gone half the way. The block is absent, so nothing may stay there.
            self.mapping.discard(guest_block.offset(), BLOCK_SIZE)?;
            self.free_block(state, block, Slots::PageTable);
            return Err(error.into());
        }
        if !self.pagemap.is_huge(to) {
            return self.arrived_in_pieces(state, frame, block);
        }
        self.tag_guest(state, guest_block, block);
        state.put(guest_block, BlockState::Huge(block));
        self.moves.blocks_in.add(1);
        self.faults.huge.add(1);
        self.count_ballooned(state, frame);
        Ok(())
    }

    /// The kernel had no huge page for this very touch, so it made a page table for a small one, and
    /// the move split our block. It is single frames from now on; those of the balloon go home.
    fn arrived_in_pieces(&self, state: &mut State, frame: GuestFrame, block: BlockId) -> io::Result<()> {
        let guest_block = frame.block();
        self.tag_guest(state, guest_block, block);
        self.alloc.split(block.frame(0), Order::BLOCK).map_err(io::Error::other)?;
        for index in 0..FRAMES_PER_BLOCK {
            self.alloc.set_rmap(block.frame(index), guest_block.frame(index).0);
        }
        let mut split = SplitBlock::absent();
        (0..FRAMES_PER_BLOCK).for_each(|index| split.set(index, Page::Here(block.frame(index))));
        state.put(guest_block, BlockState::Split(Box::new(split)));
        self.moves.frames_in.add(FRAMES_PER_BLOCK as u64);
        self.faults.single.add(1);
        self.count_ballooned(state, frame);
        let holes = *state.ledger.block(guest_block);
        holes
            .iter()
            .map(|index| guest_block.frame(index))
            .filter(|&hole| hole != frame)
            .try_for_each(|hole| self.take_frame_home(state, hole))?;
        self.return_emptied(state);
        Ok(())
    }

    /// A block of the stash is behind a guest block now, or its pieces are.
    pub(super) fn tag_guest(&self, state: &State, guest_block: GuestBlock, block: BlockId) {
        self.alloc.set_rmap(block.frame(0), guest_block.frame(0).0);
        self.alloc.retag_block(block, PageType::Guest, GUEST);
        let mut tags = self.alloc.retagger();
        for hole in state.ledger.block(guest_block).iter() {
            tags.retag(block.frame(hole), PageType::Balloon);
        }
    }

    /// Single frames for a page of a split block, and for those around it that the guest may use soon.
    fn move_frames_in(
        &self,
        mut state: MutexGuard<'_, State>,
        frame: GuestFrame,
        has_room_around: bool,
    ) -> Result<(), Unresolved> {
        let first = self
            .guest_frame(&mut state, || self.reclaimer.has_announced(frame))
            .map_err(|_| Unresolved::Short)?;
        let mut moves = vec![Move { page: frame, from: first, to: first }];
        for page in around(frame).filter(|&page| page != frame && has_room_around) {
            if state.page(page) != Page::Absent || state.is_given_up(page) {
                continue;
            }
            let Ok(home) = self.guest_frame(&mut state, || false) else { break };
            moves.push(Move { page, from: home, to: home });
        }
        moves.sort_unstable_by_key(|it| it.page);
        let take = |it: &Move| {
            self.alloc.set_rmap(it.to, it.page.0);
            state.split_mut(frame.block()).iter_mut().for_each(|split| split.take(it.page.index()));
            (state.poisoned.remove(it.to), state.in_pieces[it.to.block().0 as usize])
        };
        let before: Vec<(bool, bool)> = moves.iter().map(take).collect();
        drop(state);
        for (it, (was_poisoned, is_in_pieces)) in moves.iter().zip(before) {
            if !is_in_pieces {
                self.prepare(&[it.to]);
            }
            self.zero(it.to, was_poisoned);
        }
        let done = self.transfer_in(&moves, Patience::None);
        let mut state = self.lock();
        let mut arrived = false;
        for (at, it) in moves.iter().enumerate() {
            if done >> at & 1 == 0 {
                state.set_page(it.page, Page::Absent);
                self.free_frame(&mut state, it.to);
                continue;
            }
            arrived |= it.page == frame;
            state.set_page(it.page, Page::Here(it.to));
            self.moves.frames_in.add(1);
        }
        self.moved(&mut state, |page| moves.iter().any(|it| it.page == page));
        if state.is_filled(frame.block()) {
            self.compaction.ring(wanted::FILLED);
        }
        self.faults.single.add(1);
        self.count_ballooned(&state, frame);
        drop(state);
        if done.count_ones() as usize == moves.len() {
            // Who waits in these 64 KiB for a page that did not come with this one looks again.
            return Ok(self.uffd.wake(self.address(frame) / AROUND_BYTES * AROUND_BYTES, AROUND_BYTES)?);
        }
        for (at, it) in moves.iter().enumerate() {
            if done >> at & 1 == 1 {
                self.uffd.wake(self.address(it.page), FRAME_SIZE)?;
            } else {
                self.retry.add(it.page);
            }
        }
        if arrived { Ok(()) } else { Err(Unresolved::Refused(Errno::BUSY)) }
    }

    /// A frame for the guest; one of the reserve, if there is no other and it `is_memalloc`.
    fn guest_frame(&self, state: &mut State, is_memalloc: impl Fn() -> bool) -> Result<FrameId, AllocError> {
        // Not the scrutinee itself: the lists would be held while blocks are freed, and asked for again.
        let first = self.alloc.enter(CPU).alloc(&GUEST_FRAME);
        let home = match first {
            Err(_) if self.take_up_again(state) + self.release_stash(state) > 0 => {
                self.alloc.enter(CPU).alloc(&GUEST_FRAME)
            }
            result => result,
        };
        match home {
            Err(_) if is_memalloc() => {
                self.alloc.enter(CPU).alloc(&MEMALLOC_FRAME.leaves(self.reclaimer.leaves()))
            }
            result => result,
        }
    }

    /// Zeroes a frame that the caller holds, in its home slot.
    fn zero(&self, home: FrameId, was_poisoned: bool) {
        let is_forgotten = self.forget_swapped(home);
        // An object that lay there in a slab meanwhile has taken the word's place.
        if !self.arena.zero_frame(home) && was_poisoned && !is_forgotten && self.objects.is_none() {
            self.moves.poison_lost.add(1);
        }
    }

    fn count_ballooned(&self, state: &State, frame: GuestFrame) {
        if state.ledger.contains(frame) {
            self.faults.on_ballooned.add(1);
        }
    }
}

/// The pages that come in with this one.
fn around(frame: GuestFrame) -> impl Iterator<Item = GuestFrame> {
    let first = frame.0 / AROUND * AROUND;
    (first..first + AROUND).map(GuestFrame)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::core::request::{Flags, Request};
    use crate::space::guest::OUTSIDE;
    use crate::{Config, MemoryService, RegionSpec};

    /// As the fault thread does it: with the lock of guest space.
    #[test]
    fn a_frame_that_cannot_be_had_is_had_of_the_stash() {
        const HOG: Request = Request::new(Order::FRAME, PageType::Kmem).flags(Flags::NOWAIT);
        let regions = vec![RegionSpec { gpa: 0, len: 4 * BLOCK_SIZE as u64 }];
        let service = MemoryService::new(&Config::new(regions), |why| panic!("{why}")).unwrap();
        let space = service.space();
        assert!(matches!(space.make_zeroed_block(), Made::Block));
        let mut state = space.lock();
        while space.alloc.alloc(OUTSIDE, &HOG).is_ok() {}
        assert_eq!(state.stash.len(), 1);
        space.guest_frame(&mut state, || false).unwrap();
        assert!(state.stash.is_empty());
    }

    /// A block of slabs that are empty is one huge page still, and was wiped with something that is not zero.
    #[test]
    fn a_block_that_has_just_been_freed_is_zeroed_before_it_is_handed_out() {
        let regions = vec![RegionSpec { gpa: 0, len: 4 * BLOCK_SIZE as u64 }];
        let service = MemoryService::new(&Config::new(regions), |why| panic!("{why}")).unwrap();
        let space = service.space();
        let block = space.get_block().unwrap();
        for _ in 0..2 {
            assert!(space.arena.populate(block, &space.pagemap));
            let frames = (0..FRAMES_PER_BLOCK).map(|index| block.frame(index));
            frames.for_each(|frame| {
                assert!(!space.arena.is_poisoned(frame));
                space.arena.poison_frame(frame);
            });
        }
        space.put_block(block).unwrap();
    }

    /// It is the first that leaves its block, which is split then.
    #[test]
    fn a_zeroed_frame_costs_its_block_no_memory() {
        let regions = vec![RegionSpec { gpa: 0, len: BLOCK_SIZE as u64 }];
        let service = MemoryService::new(&Config::new(regions), |why| panic!("{why}")).unwrap();
        let space = service.space();
        let home = space.guest_frame(&mut space.lock(), || false).unwrap();
        space.prepare(&[home]);
        space.zero(home, false);
        let address = space.arena.block_address(home.block());
        assert_eq!(space.pagemap.resident(address, BLOCK_SIZE).unwrap().bytes, BLOCK_SIZE as u64);
        assert!(!space.pagemap.is_huge(address));
        let pages = space.pagemap.physical(address, FRAMES_PER_BLOCK);
        assert!(pages.windows(2).all(|pair| pair[1] == pair[0] + 1), "{pages:?}");
        space.alloc.free(CPU, home, Order::FRAME).unwrap();
    }
}
