//! Faults: memory for a page that somebody waits for.

use std::io;
use std::time::{Duration, Instant};

use super::free::Slots;
use super::stash::Made;
use super::{BlockState, GuestSpace, SplitBlock, State};
use crate::core::page_type::PageType;
use crate::core::plain::Request;
use crate::core::units::{BLOCK_SIZE, BlockId, FRAME_SIZE, FRAMES_PER_BLOCK, GuestFrame, Order};
use crate::space::uffd::Fault;

/// How long a fault that could not be resolved waits before it is tried again.
const RETRY: Duration = Duration::from_millis(10);

impl GuestSpace {
    /// Puts memory behind the page that somebody waits for, and wakes them.
    pub(crate) fn resolve(&self, fault: Fault) {
        self.faults.total.add(1);
        let offset = fault.address.wrapping_sub(self.mapping.base());
        if offset >= self.mapping.len() {
            self.faults.failed.add(1);
            return;
        }
        let frame = GuestFrame((offset / FRAME_SIZE) as u32);
        if let Err(error) = self.populate(frame) {
            self.faults.failed.add(1);
            if self.faults.failed.get().is_power_of_two() {
                tracing::error!(?frame, %error, "a guest fault could not be resolved; it will be tried again");
            }
            // Who waits touches the page again at once: not as fast as the CPU can, nor a line each.
            std::thread::sleep(RETRY);
            let _ = self.uffd.wake(self.address(frame), FRAME_SIZE);
        }
    }

    fn populate(&self, frame: GuestFrame) -> io::Result<()> {
        let mut waited = false;
        loop {
            let mut state = self.lock();
            state.last_fault = Instant::now();
            match &state.blocks[frame.block().0 as usize] {
                BlockState::Huge(_) => return self.already_there(frame),
                BlockState::Split(split) if split.0[frame.index()].is_some() => {
                    return self.already_there(frame);
                }
                BlockState::Split(_) => return self.move_frame_in(&mut state, frame),
                BlockState::Absent => {}
            }
            if let Some(block) = state.stash.pop() {
                if waited { &self.stash_misses } else { &self.stash_hits }.add(1);
                state.burst = state.burst.saturating_add(1);
                let result = self.move_block_in(&mut state, frame, block);
                drop(state);
                self.refill.notify_one();
                return result;
            }
            drop(state);
            waited = true;
            if let Made::NoHugePage(block) = self.make_zeroed_block() {
                let mut state = self.lock();
                if let Some(block) = block {
                    // Its first frame goes to this fault.
                    state.alloc.break_up(block).map_err(io::Error::other)?;
                }
                let entry = &mut state.blocks[frame.block().0 as usize];
                if let BlockState::Absent = entry {
                    *entry = BlockState::Split(Box::new(SplitBlock([None; FRAMES_PER_BLOCK])));
                    state.absent -= 1;
                }
            }
        }
    }

    fn already_there(&self, frame: GuestFrame) -> io::Result<()> {
        self.faults.spurious.add(1);
        self.uffd.wake(self.address(frame), FRAME_SIZE)
    }

    fn move_block_in(&self, state: &mut State, frame: GuestFrame, block: BlockId) -> io::Result<()> {
        let guest_block = frame.block();
        let to = self.mapping.base() + guest_block.offset();
        if let Err(error) = self.uffd.move_pages(to, self.arena.block_address(block), BLOCK_SIZE) {
            // A move may have gone half the way. The block is absent, so nothing may stay there.
            self.mapping.discard(guest_block.offset(), BLOCK_SIZE)?;
            self.free_block(state, block, Slots::PageTable);
            return Err(error);
        }
        if !self.pagemap.is_huge(to) {
            return self.arrived_in_pieces(state, frame, block);
        }
        let holes = *state.ledger.block(guest_block);
        for index in 0..FRAMES_PER_BLOCK {
            let tag = if holes.contains(index) { PageType::Balloon } else { PageType::Guest };
            state.alloc.retag(block.frame(index), tag);
        }
        state.blocks[guest_block.0 as usize] = BlockState::Huge(block);
        state.absent -= 1;
        self.moves.blocks_in.add(1);
        self.faults.huge.add(1);
        self.count_ballooned(state, frame);
        Ok(())
    }

    /// The kernel had no huge page for this very touch, so it made a page table for a small one, and
    /// the move split our block. It is single frames from now on; those of the balloon go home.
    fn arrived_in_pieces(&self, state: &mut State, frame: GuestFrame, block: BlockId) -> io::Result<()> {
        let guest_block = frame.block();
        state.alloc.split(block).map_err(io::Error::other)?;
        for index in 0..FRAMES_PER_BLOCK {
            state.alloc.retag(block.frame(index), PageType::Guest);
        }
        let frames = std::array::from_fn(|index| Some(block.frame(index)));
        state.blocks[guest_block.0 as usize] = BlockState::Split(Box::new(SplitBlock(frames)));
        state.absent -= 1;
        self.moves.frames_in.add(FRAMES_PER_BLOCK as u64);
        self.faults.single.add(1);
        self.count_ballooned(state, frame);
        let holes = *state.ledger.block(guest_block);
        holes
            .iter()
            .map(|index| guest_block.frame(index))
            .filter(|&hole| hole != frame)
            .try_for_each(|hole| self.take_frame_home(state, hole))
    }

    fn move_frame_in(&self, state: &mut State, frame: GuestFrame) -> io::Result<()> {
        let request = Request { order: Order::FRAME, page_type: PageType::Guest };
        let got = match state.alloc.alloc(request) {
            Ok(got) => got,
            Err(_) if self.release_stash(state) > 0 => {
                state.alloc.alloc(request).map_err(io::Error::other)?
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        if !self.arena.zero_frame(got.head) && got.poisoned {
            self.moves.poison_lost.add(1);
        }
        let from = self.arena.frame_address(got.head);
        if let Err(error) = self.uffd.move_pages(self.address(frame), from, FRAME_SIZE) {
            self.free(state, got.head, Order::FRAME, Slots::PageTable);
            return Err(error);
        }
        if let BlockState::Split(split) = &mut state.blocks[frame.block().0 as usize] {
            split.0[frame.index()] = Some(got.head);
        }
        self.moves.frames_in.add(1);
        self.faults.single.add(1);
        self.count_ballooned(state, frame);
        Ok(())
    }

    fn count_ballooned(&self, state: &State, frame: GuestFrame) {
        if state.ledger.contains(frame) {
            self.faults.on_ballooned.add(1);
        }
    }
}
