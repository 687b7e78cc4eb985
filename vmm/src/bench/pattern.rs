//! Patterns of giving back: a group of 128 frames at a time, as in the series that brought compaction to
//! Linux (2010), or harder.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Frames of a group: a quarter of a block.
pub(super) const GROUP: usize = 128;

/// Which frames are given back, in the order in which they were filled. It is half of them, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Every second group of 128.
    Group,
    /// Every second frame.
    Every,
    /// A random half.
    Half,
}

impl Pattern {
    /// All of them, from the easiest to the hardest.
    pub const ALL: [Pattern; 3] = [Pattern::Group, Pattern::Every, Pattern::Half];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Pattern::Group => "group",
            Pattern::Every => "every",
            Pattern::Half => "half",
        }
    }

    /// Of `len` frames, by position: true for those that are given back. The same for the same seed.
    pub(super) fn given(self, len: usize, seed: u64) -> Vec<bool> {
        match self {
            Pattern::Group => (0..len).map(|at| at / GROUP % 2 == 1).collect(),
            Pattern::Every => (0..len).map(|at| at % 2 == 1).collect(),
            Pattern::Half => {
                let mut given: Vec<bool> = (0..len).map(|at| at < len / 2).collect();
                fastrand::Rng::with_seed(seed).shuffle(&mut given);
                given
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|pattern| pattern.name() == text);
        found.ok_or_else(|| format!("\"{text}\" is no pattern: write group, every or half"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_given_back_whatever_the_pattern() {
        for pattern in Pattern::ALL {
            let given = pattern.given(16 * GROUP, 7);
            assert_eq!(given.iter().filter(|given| **given).count(), 8 * GROUP, "{pattern}");
            assert_eq!(given, pattern.given(16 * GROUP, 7), "{pattern} is the same each time");
        }
    }

    #[test]
    fn patterns_differ_in_what_is_together() {
        let runs = |pattern: Pattern| {
            let given = pattern.given(64 * GROUP, 7);
            given.chunk_by(|one, other| one == other).count()
        };
        assert_eq!(runs(Pattern::Group), 64);
        assert_eq!(runs(Pattern::Every), 64 * GROUP);
        assert!((64..64 * GROUP).contains(&runs(Pattern::Half)), "random runs are two frames long");
        assert_ne!(Pattern::Half.given(512, 1), Pattern::Half.given(512, 2));
    }
}
