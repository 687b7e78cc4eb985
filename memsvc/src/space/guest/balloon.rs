//! The guest gives pages up and takes them back: balloon, free page reporting and hinting.

use super::{BlockState, GuestSpace, State, wanted};
use crate::core::ledger::Refusal;
use crate::core::page_type::PageType;
use crate::core::units::{FRAMES_PER_BLOCK, Gfn, GuestBlock, GuestFrame};

/// Blocks that a reset of the balloon looks at while it holds the lock: 4096 frames.
const RESET_BLOCKS: usize = 8;

impl GuestSpace {
    /// The guest gives frames up. Returns how many were taken.
    pub(crate) fn inflate(&self, gfns: &[Gfn]) -> u32 {
        let mut state = self.lock();
        let mut taken = 0;
        for &gfn in gfns {
            let result = match self.regions.frame(gfn) {
                Some(frame) => {
                    state = self.still(state, frame);
                    self.inflate_one(&mut state, frame)
                }
                None => Err(Refusal::OutsideRam),
            };
            taken += self.count(result);
        }
        self.return_emptied(&mut state);
        if taken > 0 {
            self.compaction.ring(wanted::BALLOONED);
        }
        taken
    }

    fn inflate_one(&self, state: &mut State, frame: GuestFrame) -> Result<(), Refusal> {
        let last = state.ledger.inflate(frame)?;
        let guest_block = frame.block();
        let done = match &state.blocks[guest_block.0 as usize] {
            BlockState::Absent => Ok(()),
            &BlockState::Huge(block) => {
                // First the tag: if the kernel does not take the block, it agrees with the ledger.
                self.alloc.retagger().retag(block.frame(frame.index()), PageType::Balloon);
                if last { self.take_block(state, guest_block) } else { Ok(()) }
            }
            BlockState::Split(_) => self.take_frame_home(state, frame),
        };
        if let Err(error) = done {
            crate::seldom!(error, ?frame, %error, "a frame that the guest gave up could not be taken");
        }
        Ok(())
    }

    /// The guest takes frames back. Returns how many it may have.
    pub(crate) fn deflate(&self, gfns: &[Gfn]) -> u32 {
        let mut state = self.lock();
        let mut deflate = |frame: GuestFrame| {
            state.ledger.deflate(frame)?;
            if let BlockState::Huge(block) = state.blocks[frame.block().0 as usize] {
                self.alloc.retagger().retag(block.frame(frame.index()), PageType::Guest);
            }
            Ok(())
        };
        gfns.iter()
            .map(|&gfn| self.regions.frame(gfn).ok_or(Refusal::OutsideRam).and_then(&mut deflate))
            .map(|result| self.count(result))
            .sum()
    }

    fn count(&self, result: Result<(), Refusal>) -> u32 {
        match result {
            Ok(()) => return 1,
            Err(Refusal::OutsideRam) => self.refusals.outside_ram.add(1),
            Err(Refusal::InflatedTwice) => self.refusals.inflated_twice.add(1),
            Err(Refusal::NeverInflated) => self.refusals.never_inflated.add(1),
        }
        0
    }

    /// All that is in the balloon is the guest's again. The lock is held for [`RESET_BLOCKS`] at a time: faults of
    /// other CPUs are served meanwhile.
    pub(crate) fn reset_balloon(&self) {
        let mut next = 0;
        while self.reset_from(&mut next) {}
    }

    /// Gives back what is in the balloon of the blocks from `next` on; `false` after the last.
    fn reset_from(&self, next: &mut usize) -> bool {
        let mut state = self.lock_after_faults();
        let end = state.blocks.len().min(*next + RESET_BLOCKS);
        for index in *next..end {
            let guest_block = GuestBlock(index as u32);
            let holes = *state.ledger.block(guest_block);
            for hole in holes.iter() {
                let _ = state.ledger.deflate(guest_block.frame(hole));
                if let BlockState::Huge(block) = state.blocks[index] {
                    self.alloc.retagger().retag(block.frame(hole), PageType::Guest);
                }
            }
        }
        *next = end;
        end < state.blocks.len()
    }

    /// The guest says that it does not use `frames` frames from `first`, for the moment. Whole blocks go back
    /// to the kernel, frames of split blocks go home; a huge page of which a piece is reported is split, for
    /// the guest may use the piece again without a word, and we must see it. Returns how many were taken.
    pub(crate) fn report_free(&self, first: Gfn, frames: u64) -> u64 {
        let mut taken = 0;
        let mut at = first.0;
        let end = first.0.saturating_add(frames);
        while at < end {
            let Some(frame) = self.regions.frame(Gfn(at)) else {
                // Nothing of what follows up to the next region is RAM.
                let next = self.regions.next_start(Gfn(at)).map_or(end, |gfn| gfn.0.min(end));
                self.refusals.outside_ram.add(next - at);
                at = next;
                continue;
            };
            let count = (end - at).min((FRAMES_PER_BLOCK - frame.index()) as u64) as usize;
            taken += self.report_in_block(frame, count) as u64;
            at += count as u64;
        }
        taken
    }

    fn report_in_block(&self, first: GuestFrame, count: usize) -> usize {
        let guest_block = first.block();
        let frames = || (first.index()..first.index() + count).map(|index| guest_block.frame(index));
        let mut state = self.lock();
        let mut lifted = false;
        match state.blocks[guest_block.0 as usize] {
            BlockState::Absent => return count,
            BlockState::Huge(_) if count == FRAMES_PER_BLOCK => {
                return match self.take_block(&mut state, guest_block) {
                    Ok(()) => count,
                    Err(error) => {
                        crate::seldom!(error, ?guest_block, %error, "reported memory could not be taken");
                        0
                    }
                };
            }
            BlockState::Huge(block) => {
                lifted = self.lift_all(&mut state, block).is_some();
                if !lifted {
                    self.refusals.reported_kept.add(count as u64);
                    return 0;
                }
            }
            BlockState::Split(_) => {}
        }
        let mut taken = 0;
        for frame in frames() {
            state = self.still(state, frame);
            if !matches!(state.blocks[guest_block.0 as usize], BlockState::Split(_)) {
                // It was promoted meanwhile: what is left of the report comes too late.
                self.refusals.reported_kept.add((count - taken) as u64);
                break;
            }
            match self.take_frame_home(&mut state, frame) {
                Ok(()) => {
                    taken += 1;
                    if let Some(split) = state.split_mut(guest_block) {
                        split.report(frame.index());
                    }
                }
                Err(error) => crate::seldom!(error, ?frame, %error, "reported memory could not be taken"),
            }
        }
        self.return_emptied(&mut state);
        drop(state);
        if lifted {
            self.settle(guest_block);
        }
        self.compaction.ring(wanted::REPORTED);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::units::BLOCK_SIZE;
    use crate::{Config, MemoryService, RegionSpec};

    #[test]
    fn a_reset_lets_others_have_the_lock_between_its_pieces() {
        const BLOCKS: usize = 2 * RESET_BLOCKS + 3;
        let regions = vec![RegionSpec { gpa: 0, len: (BLOCKS * BLOCK_SIZE) as u64 }];
        let service = MemoryService::new(&Config::new(regions), |why| panic!("{why}")).unwrap();
        let space = service.space();
        let frames = |blocks: usize| (blocks * FRAMES_PER_BLOCK) as u64;
        let all: Vec<_> = (0..frames(BLOCKS)).map(Gfn).collect();
        assert_eq!(u64::from(space.inflate(&all)), frames(BLOCKS));

        let mut next = 0;
        for (left, goes_on) in [(RESET_BLOCKS + 3, true), (3, true), (0, false)] {
            assert_eq!(space.reset_from(&mut next), goes_on);
            assert_eq!(space.ballooned_frames(), frames(left));
        }
        assert_eq!(u64::from(space.inflate(&all)), frames(BLOCKS), "all of it may be given up again");
        space.reset_balloon();
        assert_eq!(space.ballooned_frames(), 0);
    }
}
