//! The fuzzer's program: an NBD client that says anything, and takes the answers in small pieces.
//!
//! ```text
//!   byte 0: where it begins   byte 1: bytes in a piece   the rest: what it says
//! ```

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::nbd::{ClientFlags, OptionCode, OptionHeader};
use super::{Codec, Swap, SwapConfig, Waker};
use crate::core::units::FRAME_SIZE;
use crate::guard::Guard;

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
    let Ok(swap) = Swap::standalone(&config, &Guard::new(|why| panic!("{why}"))) else { return };
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

    use super::*;
    use crate::swap::nbd::{Command, CommandFlags, Request, RequestHeader};

    const EDGES: [u64; 8] =
        [0, 1 << 12, 4 << 12, (PAGES - 1) << 12, PAGES << 12, 32 << 20, 1 << 32, u64::MAX];

    /// Numbers at which things change: pages and the end of the device, 32 MiB, 4 GiB, and one more or less.
    fn number() -> impl Strategy<Value = u64> {
        let edge = || prop::sample::select(&EDGES[..]);
        prop_oneof![
            3 => edge(),
            1 => (edge(), -2..3i64).prop_map(|(edge, by)| edge.wrapping_add_signed(by)),
            1 => any::<u64>(),
        ]
    }

    /// Where a request begins, and its length.
    fn place() -> impl Strategy<Value = (u64, u64)> {
        let good = (0..PAGES, 1..9u64).prop_map(|(page, pages)| (page << 12, pages.min(PAGES - page) << 12));
        prop_oneof![8 => good, 1 => (number(), number())]
    }

    /// A request with data behind it, which is as long as it says or not.
    fn request() -> impl Strategy<Value = Vec<u8>> {
        let command = prop::sample::select(vec![
            Command::Read,
            Command::Write,
            Command::Write,
            Command::Trim,
            Command::WriteZeroes,
            Command::Flush,
        ]);
        let flags = prop_oneof![12 => Just(0u16), 1 => any::<u16>()];
        let data = prop_oneof![12 => Just(None), 1 => (0..9000usize).prop_map(Some)];
        (command, flags, any::<u64>(), place(), data, any::<u8>()).prop_map(
            |(command, flags, cookie, (offset, len), data, byte)| {
                let len = len as u32;
                let flags = CommandFlags::from_bits_retain(flags);
                let request = Request { command: Some(command), flags, cookie, offset, len };
                let data = match (data, command) {
                    (None, Command::Write) => len.min(64 << 12) as usize,
                    (data, _) => data.unwrap_or(0),
                };
                let mut said = RequestHeader::new(&request).as_bytes().to_vec();
                said.resize(said.len() + data, byte);
                said
            },
        )
    }

    /// An option with data behind it, which is as long as it says or not.
    fn option() -> impl Strategy<Value = Vec<u8>> {
        let data = prop::collection::vec(any::<u8>(), 0..40);
        let lie = prop_oneof![6 => Just(0u32), 1 => any::<u32>()];
        (0..12u32, data, lie).prop_map(|(option, data, lie)| {
            let mut said =
                OptionHeader::new(option, (data.len() as u32).wrapping_add(lie)).as_bytes().to_vec();
            said.extend(data);
            said
        })
    }

    /// How it begins, in which pieces, and what it says: options, or requests, and sometimes nonsense.
    fn said() -> impl Strategy<Value = Vec<u8>> {
        let nonsense = || prop::collection::vec(any::<u8>(), 0..40);
        let options =
            prop::collection::vec(prop_oneof![8 => option(), 1 => request(), 1 => nonsense()], 0..8);
        let requests = prop::collection::vec(prop_oneof![24 => request(), 1 => nonsense()], 0..24);
        let begins = |how: std::ops::Range<u8>| (how, 0..16u8).prop_map(|(how, codec)| codec << 4 | how);
        let said = prop_oneof![1 => (begins(0..2), options), 3 => (begins(2..4), requests)];
        (any::<u8>(), said).prop_map(|(piece, (begins, parts))| {
            [vec![begins, piece]].into_iter().chain(parts).flatten().collect()
        })
    }

    proptest! {
        /// What a fuzzer does for hours, for a moment.
        #[test]
        fn anything_may_be_said(bytes in said()) {
            run(&bytes);
        }
    }
}
