//! The pattern that tells any 4 KiB page from any other.
//!
//! One 64-bit word in each 64-byte line, derived from seed, page index and line, so that a page that is
//! swapped with another, shifted, torn or zeroed shows. The other words stay as they are: writing eight
//! times as much would find nothing more, as pages move whole, and costs time where the guest is emulated.

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Words of a page.
pub const WORDS: usize = PAGE / 8;
/// Words between two that carry the pattern (a 64-byte line).
pub const STRIDE: usize = 8;

/// Odd constants of the SplitMix64 generator (Steele, Lea, Flood 2014).
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX_1: u64 = 0xbf58_476d_1ce4_e5b9;
const MIX_2: u64 = 0x94d0_49bb_1331_11eb;

/// The number from which a page's words are derived; never 0, so a zeroed page is always wrong.
#[must_use]
pub fn base(seed: u64, page: u64) -> u64 {
    let mut z = seed.wrapping_mul(MIX_1).wrapping_add(page.wrapping_add(1).wrapping_mul(GAMMA));
    z = (z ^ (z >> 30)).wrapping_mul(MIX_1);
    z = (z ^ (z >> 27)).wrapping_mul(MIX_2);
    (z ^ (z >> 31)) | 1
}

/// Writes the pattern into one page.
pub fn write(words: &mut [u64], seed: u64, page: u64) {
    let mut value = base(seed, page);
    for word in words.iter_mut().step_by(STRIDE) {
        *word = value;
        value = value.wrapping_add(GAMMA);
    }
}

/// Whether one page holds the pattern.
#[must_use]
pub fn matches(words: &[u64], seed: u64, page: u64) -> bool {
    let mut value = base(seed, page);
    for word in words.iter().step_by(STRIDE) {
        if *word != value {
            return false;
        }
        value = value.wrapping_add(GAMMA);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_matches_only_its_own_seed_and_index() {
        let mut page = vec![0_u64; WORDS];
        assert!(!matches(&page, 1, 0), "a zeroed page must never match");
        write(&mut page, 1, 5);
        assert!(matches(&page, 1, 5));
        assert!(!matches(&page, 1, 6));
        assert!(!matches(&page, 2, 5));
        if let Some(last) = page.get_mut(WORDS - STRIDE) {
            *last ^= 1;
        }
        assert!(!matches(&page, 1, 5), "a change in the last line must show");
    }
}
