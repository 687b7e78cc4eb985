//! The work that is worth the copy.

use crate::core::units::FRAMES_PER_BLOCK;

/// How much somebody wants the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Nobody asks for it yet.
    Ahead,
    /// The operator has asked the guest for it, by balloon.
    Asked,
    /// It is wanted: by the operator, or because free memory is low.
    Wanted,
}

impl Urgency {
    /// True when a block with so many live frames is worth emptying. Who wants the memory gets all that
    /// there is. What the balloon has taken is had at up to three frames copied for one that is won: where
    /// little has been given up in each block, many huge pages of the guest would have to be split to win
    /// one. Ahead of all that no more is copied than is won.
    pub const fn is_worth_emptying(self, live: u16) -> bool {
        match self {
            Urgency::Ahead => live as usize <= FRAMES_PER_BLOCK / 2,
            Urgency::Asked => live as usize <= FRAMES_PER_BLOCK * 3 / 4,
            Urgency::Wanted => true,
        }
    }
}

/// True when a split guest block with so many frames behind it, of which the guest has given up `ballooned`,
/// is worth a whole block. The guest gets no memory by it that it has given up; and it gets a quarter of a
/// block that it has not touched at most (khugepaged would fill all but one page, `max_ptes_none` 511, which
/// is how ballooned memory comes back there).
pub const fn is_worth_promoting(present: usize, ballooned: usize) -> bool {
    ballooned == 0 && present >= FRAMES_PER_BLOCK - FRAMES_PER_BLOCK / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ahead_of_need_no_more_is_copied_than_is_won() {
        assert!(Urgency::Ahead.is_worth_emptying(0) && Urgency::Ahead.is_worth_emptying(256));
        assert!(!Urgency::Ahead.is_worth_emptying(257));
        assert!(Urgency::Asked.is_worth_emptying(384) && !Urgency::Asked.is_worth_emptying(385));
        assert!(Urgency::Wanted.is_worth_emptying(511));
    }

    #[test]
    fn a_block_that_the_guest_has_filled_becomes_whole_and_no_other() {
        assert!(is_worth_promoting(512, 0) && is_worth_promoting(384, 0));
        assert!(!is_worth_promoting(383, 0) && !is_worth_promoting(511, 1));
    }
}
