//! The best that can be had: computed from what was filled and given back, not asked of those who are
//! measured.

use memsvc::core::units::FRAMES_PER_BLOCK;

/// Frames of a block.
const BLOCK: u64 = FRAMES_PER_BLOCK as u64;

/// Memory before anything is asked for, as the benchmark has filled it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// Live frames of each block in which nothing is unmovable; 0 for one that is free.
    pub(super) live: Vec<u16>,
    /// Frames that nobody uses: free ones, and those that were given back.
    pub(super) unused: u64,
    /// Frames of which nobody gets any: the min watermark.
    pub(super) reserve: u64,
}

impl Ledger {
    /// Blocks that all unused memory would make: 100 % of what can be asked for.
    pub(super) fn all(&self) -> u64 {
        self.unused / BLOCK
    }

    /// Blocks that can be handed out at most: those in which nothing is unmovable, if what lives in them fits
    /// into the rest, and the min watermark stays free. (What is live fits if, and only if, as much is unused
    /// as is handed out.)
    pub(super) fn attainable(&self) -> u64 {
        (self.unused.saturating_sub(self.reserve) / BLOCK).min(self.live.len() as u64)
    }

    /// The fewest live frames that have to be moved so that so many blocks are free.
    pub(super) fn fewest(&self, blocks: u64) -> u64 {
        let mut live = self.live.clone();
        live.sort_unstable();
        live.iter().take(usize::try_from(blocks).unwrap_or(usize::MAX)).map(|live| u64::from(*live)).sum()
    }
}

/// The requests of step `step` (from 0), if `all` are asked for in `steps` steps and those beyond are as large.
pub(super) fn of_step(step: u64, steps: u64, all: u64) -> u64 {
    let until = |step: u64| (all * step).div_ceil(steps);
    until(step + 1) - until(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_attainable_is_limited_by_room_by_the_reserve_and_by_what_cannot_move() {
        // 8 blocks, half live, and one free: 4.5 blocks' worth is unused beside it.
        let mut ledger = Ledger { live: vec![256; 9], unused: 9 * 256, reserve: 0 };
        ledger.live[0] = 0;
        ledger.unused += 256;
        assert_eq!((ledger.all(), ledger.attainable()), (5, 5));
        ledger.reserve = 1;
        assert_eq!((ledger.all(), ledger.attainable()), (5, 4), "a frame short");
        // Room in blocks with something unmovable takes what is live elsewhere, but not more blocks come of it
        // than have nothing unmovable.
        let spoiled = Ledger { live: vec![10, 10], unused: 6 * 512, reserve: 0 };
        assert_eq!((spoiled.all(), spoiled.attainable()), (6, 2));
        let full = Ledger { live: vec![512; 4], unused: 100, reserve: 200 };
        assert_eq!((full.all(), full.attainable()), (0, 0));
    }

    #[test]
    fn the_cheapest_blocks_are_the_bound() {
        let ledger = Ledger { live: vec![300, 0, 100, 512, 200], unused: 0, reserve: 0 };
        assert_eq!([0, 1, 2, 3, 9].map(|blocks| ledger.fewest(blocks)), [0, 0, 100, 300, 1112]);
    }

    #[test]
    fn steps_add_up_to_all_and_go_on_beyond() {
        for all in [0, 1, 7, 20, 263] {
            assert_eq!((0..20).map(|step| of_step(step, 20, all)).sum::<u64>(), all);
        }
        assert_eq!((20..30).map(|step| of_step(step, 20, 100)).sum::<u64>(), 50);
    }
}
