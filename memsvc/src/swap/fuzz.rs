//! What a fuzzer runs: an NBD client that says anything, and takes the answers in small pieces.
//!
//! ```text
//!   byte 0: where it begins   byte 1: bytes in a piece   the rest: what it says
//! ```

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::nbd::{ClientFlags, OptionCode, OptionHeader};
use super::{Codec, Swap, SwapConfig, Waker};
use crate::core::units::FRAME_SIZE;

/// Pages of the device.
const PAGES: u64 = 64;
/// Most bytes that an answer to so much can have: each request of 28 bytes may read all pages, each option of
/// 16 bytes is answered by less than 1 KiB and its own data.
fn most_sent(said: usize) -> usize {
    (said / 16 + 2) * (PAGES as usize * FRAME_SIZE + 1024) + said
}

/// Feeds a connection with these bytes.
///
/// # Panics
/// When the connection does something that it must not: that is what is looked for.
pub fn run(bytes: &[u8]) {
    let [begins, piece, said @ ..] = bytes else { return };
    let size = PAGES * FRAME_SIZE as u64;
    let codec = Codec::ALL[usize::from(*begins >> 4) % Codec::ALL.len()];
    let config = SwapConfig { name: "swap".to_owned(), bytes: size, memory: size / 2, codec, tiers: vec![] };
    let Ok(swap) = Swap::standalone(&config) else { return };
    let Ok(waker) = Waker::new() else { return };
    let mut connection = swap.connect(&Arc::new(waker));
    let mut input = greeting(begins & 3);
    let before = input.len();
    input.extend_from_slice(said);
    let piece = usize::from(*piece) * 16 + 1;
    let mut out = vec![0; piece];
    let (mut at, mut sent) = (0, 0);
    loop {
        let end = input.len().min(at + piece);
        let taken = connection.receive(&input[at..end]);
        assert!(taken <= end - at, "more was taken than was there");
        at += taken;
        let filled = connection.send(&mut out);
        assert!(filled <= out.len(), "more was sent than there was room");
        sent += filled;
        assert!(sent <= most_sent(input.len()), "{sent} bytes for {} after {before}", input.len());
        if taken == 0 && filled == 0 && !connection.goes_on() {
            break;
        }
    }
    assert!(at == input.len() || connection.is_over(), "it neither listens nor ends");
    let stats = swap.stats();
    assert!(stats.store.stored_pages <= PAGES && stats.store.lost == 0, "{stats:?}");
    drop(connection);
}

/// What an honest client says first: nothing, its flags, or all up to transmission, with chunks or without.
fn greeting(how: u8) -> Vec<u8> {
    let mut said = Vec::new();
    if how == 0 {
        return said;
    }
    let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
    said.extend_from_slice(&flags.bits().to_be_bytes());
    if how == 3 {
        said.extend_from_slice(OptionHeader::new(OptionCode::StructuredReply as u32, 0).as_bytes());
    }
    if how >= 2 {
        said.extend_from_slice(OptionHeader::new(OptionCode::ExportName as u32, 4).as_bytes());
        said.extend_from_slice(b"swap");
    }
    said
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        /// What a fuzzer does for hours, for a moment.
        #[test]
        fn anything_may_be_said(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::run(&bytes);
        }
    }
}
