//! When compaction starts by itself, and how it decides: what an operator can set.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Occupancy, Policy, Scanner};
use crate::core::units::FRAMES_PER_BLOCK;

/// Which policy decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// The cheapest blocks first.
    #[default]
    Occupancy,
    /// Two scanners that come towards each other, as in Linux.
    Scanner,
    /// Nothing is compacted but on request, by `occupancy`.
    Off,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [PolicyKind; 3] = [PolicyKind::Occupancy, PolicyKind::Scanner, PolicyKind::Off];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            PolicyKind::Occupancy => "occupancy",
            PolicyKind::Scanner => "scanner",
            PolicyKind::Off => "off",
        }
    }

    /// One that has decided nothing yet.
    pub fn make(self) -> Box<dyn Policy> {
        match self {
            PolicyKind::Occupancy | PolicyKind::Off => Box::new(Occupancy::default()),
            PolicyKind::Scanner => Box::new(Scanner::default()),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PolicyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("{text:?} is no policy: write occupancy, scanner or off"))
    }
}

/// What can be set, at the start and while the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tuning {
    /// Which blocks are emptied and which filled.
    pub policy: PolicyKind,
    /// A request for a whole block that fails is helped by compaction only where `extfrag_index` is above
    /// this, 0 to 1000 (`vm.extfrag_threshold`).
    pub extfrag_threshold: u16,
    /// How eagerly memory is compacted that nobody has asked for, 0 to 100; 0: never
    /// (`vm.compaction_proactiveness`).
    pub proactiveness: u8,
}

/// Tuning that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TuningError {
    /// `extfrag_threshold` above 1000.
    #[error("extfrag_threshold is 0 to 1000, and not {0}.")]
    ExtfragThreshold(u16),
    /// `proactiveness` above 100.
    #[error("proactiveness is 0 to 100, and not {0}.")]
    Proactiveness(u8),
}

impl Default for Tuning {
    /// As Linux: `sysctl_extfrag_threshold`, `sysctl_compaction_proactiveness` (mm/compaction.c).
    fn default() -> Self {
        Self { policy: PolicyKind::default(), extfrag_threshold: 500, proactiveness: 20 }
    }
}

impl Tuning {
    /// Itself, if it can be.
    ///
    /// # Errors
    /// [`TuningError`] names what cannot.
    pub fn checked(self) -> Result<Self, TuningError> {
        if self.extfrag_threshold > 1000 {
            return Err(TuningError::ExtfragThreshold(self.extfrag_threshold));
        }
        if self.proactiveness > 100 {
            return Err(TuningError::Proactiveness(self.proactiveness));
        }
        Ok(self)
    }

    /// The score below which proactive compaction rests (`fragmentation_score_wmark`, mm/compaction.c).
    pub fn target_score(&self) -> u32 {
        100u32.saturating_sub(self.proactiveness.into()).max(5)
    }

    /// The score above which it starts.
    pub fn start_score(&self) -> u32 {
        (self.target_score() + 10).min(100)
    }

    /// True when it is to start.
    pub fn starts_at(&self, score: u32) -> bool {
        self.proactiveness > 0 && score > self.start_score()
    }

    /// True when a request for a whole block that failed is helped by compaction: there are as many frames,
    /// and they are scattered (`compaction_suitable`, mm/compaction.c).
    pub fn helps(&self, now: &Fragmentation) -> bool {
        now.available >= FRAMES_PER_BLOCK as u64 && now.extfrag_index > i32::from(self.extfrag_threshold)
    }
}

/// How much of the memory that nobody uses is no whole block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragmentation {
    /// Free frames.
    pub free: u64,
    /// Holes: frames that the guest has given up, in huge pages that are still whole.
    pub holes: u64,
    /// Whole free blocks.
    pub whole_blocks: u64,
    /// Free frames above the min watermark, and holes: what compaction can make blocks of.
    pub available: u64,
    /// Why a request for a block would fail, if holes were free: -1000, it would not; towards 0, for lack of
    /// memory; towards 1000, because of fragmentation.
    pub extfrag_index: i32,
}

impl Fragmentation {
    /// Of what is free, holes with it, the part in hundredths that is no whole block
    /// (`fragmentation_score_zone`, mm/compaction.c, for the order of a block).
    pub fn score(&self) -> u32 {
        let unused = self.free + self.holes;
        let scattered = unused.saturating_sub(self.whole_blocks * FRAMES_PER_BLOCK as u64);
        (100 * scattered).checked_div(unused).unwrap_or(0) as u32
    }
}

#[cfg(test)]
#[cfg(not(memsvc_loom))]
mod tests {
    use super::*;

    #[test]
    fn marks_are_those_of_linux() {
        let marks = |proactiveness| {
            let tuning = Tuning { proactiveness, ..Tuning::default() };
            (tuning.target_score(), tuning.start_score())
        };
        assert_eq!([0, 20, 90, 100].map(marks), [(100, 100), (80, 90), (10, 20), (5, 15)]);
        assert!(!Tuning { proactiveness: 0, ..Tuning::default() }.starts_at(100));
        assert!(Tuning::default().starts_at(91) && !Tuning::default().starts_at(90));
        let helps = |available, extfrag_index| {
            Tuning::default().helps(&Fragmentation { available, extfrag_index, ..Fragmentation::default() })
        };
        assert!(helps(512, 501) && !helps(512, 500) && !helps(511, 501));
    }

    #[test]
    fn the_score_is_what_is_free_and_no_whole_block() {
        let score = |free, holes, whole_blocks| {
            Fragmentation { free, holes, whole_blocks, ..Fragmentation::default() }.score()
        };
        assert_eq!(score(0, 0, 0), 0);
        assert_eq!(score(1024, 0, 2), 0);
        assert_eq!(score(512, 512, 1), 50);
        assert_eq!(score(0, 10, 0), 100);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let bad = Tuning { extfrag_threshold: 1001, ..Tuning::default() };
        assert_eq!(bad.checked().unwrap_err().to_string(), "extfrag_threshold is 0 to 1000, and not 1001.");
        let bad = Tuning { proactiveness: 101, ..Tuning::default() };
        assert_eq!(bad.checked().unwrap_err().to_string(), "proactiveness is 0 to 100, and not 101.");
        assert_eq!("scanner".parse(), Ok(PolicyKind::Scanner));
        assert!("x".parse::<PolicyKind>().is_err());
    }
}
