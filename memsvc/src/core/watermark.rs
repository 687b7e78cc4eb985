//! Watermarks: how much stays free, and for whom.
//!
//! ```text
//!   free frames
//!   ────────────────────────────────────────────
//!               nobody has anything to do
//!   ── high ────────────────────────────────────  the reclaimer may rest
//!               the reclaimer goes on, once woken
//!   ── low ─────────────────────────────────────  below: the reclaimer is woken
//!               the reclaimer works, all are served
//!   ── min ─────────────────────────────────────  below: the reserve, for `MEMALLOC` only
//!               all others are refused
//!   ── min / 2 ─────────────────────────────────  from here: who may wait, waits until there is
//!                                               more than min again (`throttle.rs`)
//!   ── 0 ───────────────────────────────────────
//! ```

use super::units::FRAME_SIZE;

const KIB_PER_FRAME: u64 = FRAME_SIZE as u64 / 1024;
/// Between which `min` lies, in KiB (`calculate_min_free_kbytes`, mm/page_alloc.c).
const MIN_FREE_KIB: (u64, u64) = (128, 256 << 10);
/// The gap between two marks is at least the arena divided by this (`watermark_scale_factor` is 10 in
/// 10,000; `__setup_per_zone_wmarks`, mm/page_alloc.c).
const SCALE: u64 = 1000;

/// Free frames at which something happens. The default is [`Watermarks::NONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// Below this only `MEMALLOC` requests are served.
    pub min: u64,
    /// Below this the background reclaimer is woken.
    pub low: u64,
    /// From here it may rest.
    pub high: u64,
}

/// How the watermarks of an arena are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// By Linux's formula.
    #[default]
    Formula,
    /// So many frames are the reserve (`vm.min_free_kbytes`), and the others follow. 0: there is none.
    Min(u64),
    /// These.
    Exactly(Watermarks),
}

impl Choice {
    /// For an arena of so many frames.
    pub const fn for_arena(self, frames: u64) -> Watermarks {
        match self {
            Choice::Formula => Watermarks::for_arena(frames),
            Choice::Min(min) => Watermarks::above(min, frames),
            Choice::Exactly(watermarks) => watermarks,
        }
    }
}

/// Watermarks that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "watermarks must be min <= low <= high < arena, and are min {}, low {}, high {} of an arena of {arena} frames",
    watermarks.min, watermarks.low, watermarks.high
)]
pub struct WatermarkError {
    watermarks: Watermarks,
    arena: u64,
}

impl Watermarks {
    /// No reserve, no reclaim, no throttling. For measurements.
    pub const NONE: Watermarks = Watermarks { min: 0, low: 0, high: 0 };

    /// By Linux's formula, for an arena of so many frames (a block or more): `min` is √(16 · its KiB)
    /// KiB; from there to `low`, and from `low` to `high`, a quarter of that or 0.1 % of the arena,
    /// whichever is more.
    pub const fn for_arena(frames: u64) -> Watermarks {
        let kib = (frames * KIB_PER_FRAME * 16).isqrt();
        let kib = if kib < MIN_FREE_KIB.0 { MIN_FREE_KIB.0 } else { kib };
        let kib = if kib > MIN_FREE_KIB.1 { MIN_FREE_KIB.1 } else { kib };
        Watermarks::above(kib / KIB_PER_FRAME, frames)
    }

    /// With this `min`, and the others above it as [`Self::for_arena`] has them.
    const fn above(min: u64, frames: u64) -> Watermarks {
        let gap = if min / 4 > frames / SCALE { min / 4 } else { frames / SCALE };
        Watermarks { min, low: min + gap, high: min + 2 * gap }
    }

    /// As configured, for an arena of so many frames.
    ///
    /// # Errors
    /// When they do not rise, or leave nothing of the arena.
    pub const fn new(arena: u64, min: u64, low: u64, high: u64) -> Result<Watermarks, WatermarkError> {
        let watermarks = Watermarks { min, low, high };
        if min <= low && low <= high && high < arena {
            Ok(watermarks)
        } else {
            Err(WatermarkError { watermarks, arena })
        }
    }

    /// Of so many free frames, those that everybody may have.
    pub const fn above_min(&self, free: u64) -> u64 {
        free.saturating_sub(self.min)
    }

    /// True when the reclaimer is to be woken.
    pub const fn is_low(&self, free: u64) -> bool {
        free < self.low
    }

    /// True when who may wait is to wait (`allow_direct_reclaim`, mm/vmscan.c). Never without a reserve.
    pub const fn reserve_is_half_gone(&self, free: u64) -> bool {
        self.min > 0 && free <= self.min / 2
    }

    /// True when who waits need not any longer: sooner there is nothing for it.
    pub const fn reserve_is_back(&self, free: u64) -> bool {
        self.above_min(free) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::units::FRAMES_PER_BLOCK;
    use proptest::prelude::*;

    const MIB: u64 = 256;
    const GIB: u64 = 1024 * MIB;

    #[test]
    fn the_formula_gives_what_linux_computes() {
        let of = |min, low, high| Watermarks { min, low, high };
        // √(16 · 1,024) = 128 KiB, the least there is; a quarter more each time.
        assert_eq!(Watermarks::for_arena(MIB), of(32, 40, 48));
        // √(16 · 512) = 90 KiB is too little.
        assert_eq!(Watermarks::for_arena(MIB / 2), of(32, 40, 48));
        // √(16 · 65,536) = 1,024 KiB; a quarter (64 frames) is more than 0.1 % (16).
        assert_eq!(Watermarks::for_arena(64 * MIB), of(256, 320, 384));
        // √(16 · 8,388,608) = 11,585 KiB; 0.1 % (2,097 frames) is more than a quarter (724).
        assert_eq!(Watermarks::for_arena(8 * GIB), of(2896, 4993, 7090));
        // √(16 · 17,179,869,184) = 524,288 KiB is too much: 262,144. 0.1 % is 4,294,967 frames.
        assert_eq!(
            Watermarks::for_arena(16 * 1024 * GIB),
            of(65_536, 65_536 + 4_294_967, 65_536 + 2 * 4_294_967)
        );
    }

    #[test]
    fn each_mark_says_who_is_served() {
        let marks = Watermarks::new(1000, 100, 150, 200).unwrap();
        assert_eq!((marks.above_min(102), marks.above_min(100), marks.above_min(99)), (2, 0, 0));
        assert!(marks.reserve_is_back(101) && !marks.reserve_is_back(100));
        assert!(!marks.is_low(150) && marks.is_low(149));
        assert!(!marks.reserve_is_half_gone(51) && marks.reserve_is_half_gone(50));
    }

    #[test]
    fn without_marks_nothing_ever_happens() {
        let none = Watermarks::NONE;
        assert!(none.above_min(1) == 1 && !none.is_low(0) && !none.reserve_is_half_gone(0));
    }

    #[test]
    fn marks_that_cannot_work_are_refused_in_one_sentence() {
        for (min, low, high) in [(2, 1, 3), (1, 3, 2), (1, 2, 512)] {
            assert!(Watermarks::new(512, min, low, high).is_err());
        }
        assert_eq!(
            Watermarks::new(512, 1, 2, 512).unwrap_err().to_string(),
            "watermarks must be min <= low <= high < arena, and are min 1, low 2, high 512 of an arena of 512 frames"
        );
    }

    proptest! {
        #[test]
        fn the_formula_suits_every_arena_of_whole_blocks(blocks in 1..=u64::from(u32::MAX) / 512) {
            let frames = blocks * FRAMES_PER_BLOCK as u64;
            let Watermarks { min, low, high } = Watermarks::for_arena(frames);
            prop_assert_eq!(Watermarks::new(frames, min, low, high), Ok(Watermarks { min, low, high }));
            prop_assert!(0 < min && min < low && low < high, "each mark is one of its own");
        }
    }
}
