//! Back-off for attempts that keep failing, as Linux defers compaction (`mm/compaction.c`,
//! `defer_compaction`): each failure doubles the number of attempts that are skipped, up to 64.

const MAX_SHIFT: u32 = 6;

/// Counts attempts and says which to skip.
#[derive(Debug, Default)]
pub struct Deferral {
    shift: u32,
    skipped: u32,
}

impl Deferral {
    /// True when this attempt is to be skipped.
    pub fn skip(&mut self) -> bool {
        if self.skipped + 1 >= 1 << self.shift {
            return false;
        }
        self.skipped += 1;
        true
    }

    /// The attempt was made and failed.
    pub fn failed(&mut self) {
        self.skipped = 0;
        self.shift = (self.shift + 1).min(MAX_SHIFT);
    }

    /// The attempt was made and succeeded.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_attempts_skipped_up_to_64_and_success_resets() {
        let mut deferral = Deferral::default();
        let gap = |deferral: &mut Deferral| (0..).take_while(|_| deferral.skip()).count();
        for expected in [0, 1, 3, 7, 15, 31, 63, 63] {
            assert_eq!(gap(&mut deferral), expected);
            deferral.failed();
        }
        deferral.succeeded();
        assert_eq!(gap(&mut deferral), 0);
    }
}
