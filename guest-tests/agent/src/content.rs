//! Contents of hogs' pages: whole pages of a stated compressibility, each unlike any other.
//!
//! ```text
//! zero page     0 0 0 …                                    zero_percent of all, spread by page number
//! other pages   a sequence without repetition │ one word, again and again
//!               ◀────── 1/ratio of it ───────▶
//! ```
//! A page that was lost and reads as zero shows only where another was written: the rest is for
//! [`crate::pattern`].

use crate::pattern::{self, WORDS};
use crate::protocol::Content;

/// Which pages are zero is drawn by another seed than what the others hold.
const ZERO_SEED: u64 = 0x5a45_524f;
/// Odd, with bits all over (SplitMix64's): what a byte compressor sees of the sequence does not repeat.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Writes a page.
pub fn write(words: &mut [u64], seed: u64, page: u64, content: Content) {
    words.iter_mut().zip(sequence(seed, page, content)).for_each(|(word, value)| *word = value);
}

/// Whether a page holds what [`write`] wrote; looks at all of it.
#[must_use]
pub fn matches(words: &[u64], seed: u64, page: u64, content: Content) -> bool {
    words.iter().zip(sequence(seed, page, content)).all(|(word, value)| *word == value)
}

fn sequence(seed: u64, page: u64, content: Content) -> impl Iterator<Item = u64> {
    let zero = pattern::base(seed ^ ZERO_SEED, page) % 100 < u64::from(content.zero_percent);
    let (first, step) = if zero { (0, 0) } else { (pattern::base(seed, page), STEP) };
    let varied = WORDS / usize::from(content.ratio.max(1));
    (0..WORDS).scan(first, move |next, index| {
        let value = *next;
        if index < varied {
            *next = next.wrapping_add(step);
        }
        Some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(seed: u64, number: u64, content: Content) -> Vec<u64> {
        let mut words = vec![7; WORDS];
        write(&mut words, seed, number, content);
        words
    }

    #[test]
    fn a_page_matches_only_its_own_seed_and_number_and_every_word_counts() {
        let content = Content { zero_percent: 0, ratio: 3 };
        let mut words = page(1, 5, content);
        assert!(matches(&words, 1, 5, content));
        assert!(!matches(&words, 1, 6, content) && !matches(&words, 2, 5, content));
        for index in 0..WORDS {
            words[index] ^= 1 << 63;
            assert!(!matches(&words, 1, 5, content), "word {index}");
            words[index] ^= 1 << 63;
        }
    }

    #[test]
    fn as_many_pages_are_zero_and_as_much_of_the_others_repeats_as_was_asked() {
        let content = Content { zero_percent: 25, ratio: 4 };
        let pages: Vec<Vec<u64>> = (0..2000).map(|number| page(9, number, content)).collect();
        let zero = pages.iter().filter(|words| words.iter().all(|word| *word == 0)).count();
        assert!((400..=600).contains(&zero), "{zero} of 2000 are zero, 500 were asked for");
        for words in pages.iter().filter(|words| words.iter().any(|word| *word != 0)) {
            let mut different = words.clone();
            different.sort_unstable();
            different.dedup();
            assert_eq!(different.len(), WORDS / 4 + 1);
        }
        let all = Content { zero_percent: 0, ratio: 1 };
        let mut different = page(9, 0, all);
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), WORDS, "an incompressible page repeats nothing");
    }
}
