//! Until the export is chosen, from the client's side. No I/O, no clock.
//!
//! ```text
//!   Greeting ──▶ Header ──▶ Data ──┐  of INFO, as often as the server likes
//!   (flags and GO are said)  ▲     │
//!                 │          └─────┘
//!                 └── ACK ──▶ the export
//! ```
//! All is said at once, and all that is said is ready from the start: trying again takes no memory.

use zerocopy::{FromBytes, IntoBytes};

use super::broken::Broken;
use crate::core::units::FRAME_SIZE;
use crate::swap::nbd::{
    BLOCK_BYTES, ClientFlags, ExportFact, Greeting, HandshakeFlags, InfoType, OptionCode, OptionHeader,
    OptionReplyHeader, OptionRequest, ReplyType, TransmissionFlags,
};
use crate::swap::session::buffer::{Gather, Outbox};

/// An export that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Whole pages in it.
    pub(super) places: u64,
    /// It takes [`Command::Trim`](crate::swap::nbd::Command::Trim).
    pub(super) trims: bool,
}

/// Longest information that is looked at; names and texts are longer, and not needed.
const MAX_FACT: usize = 32;
/// Most bytes that a server may say before the export is chosen: texts of 4 KiB, and then some.
const MAX_SAID: usize = 64 << 10;

#[derive(Debug)]
enum Expected {
    Greeting,
    Header,
    /// The data of a piece of information.
    Fact(usize),
    /// So many bytes that are not needed.
    Skipped(usize),
}

/// A handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    /// [`OptionCode::Go`] with its data.
    go: Box<[u8]>,
    outbox: Outbox,
    gather: Gather<MAX_FACT>,
    expected: Expected,
    said: usize,
    size: Option<(u64, TransmissionFlags)>,
    smallest: u32,
}

impl Handshake {
    /// For the export of this name.
    pub(super) fn new(export: &str) -> Self {
        let data = OptionRequest::bytes(export, &[InfoType::BlockSize]);
        let mut go = OptionHeader::new(OptionCode::Go as u32, data.len() as u32).as_bytes().to_vec();
        go.extend_from_slice(&data);
        Self {
            outbox: Outbox::new(size_of::<ClientFlags>() + go.len()),
            go: go.into(),
            gather: Gather::new(),
            expected: Expected::Greeting,
            said: 0,
            size: None,
            smallest: 1,
        }
    }

    /// Begins again, on a new connection.
    pub(super) fn restart(&mut self) {
        self.outbox.clear();
        self.gather.clear();
        (self.expected, self.said, self.size, self.smallest) = (Expected::Greeting, 0, None, 1);
    }

    pub(super) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    pub(super) fn send(&mut self, out: &mut &mut [u8]) {
        self.outbox.send(out);
    }

    /// Takes bytes off the front of `input`. The export, once it is chosen; `needed` are the pages that it
    /// has to have.
    ///
    /// # Errors
    /// The connection is of no use.
    pub(super) fn receive(&mut self, input: &mut &[u8], needed: u64) -> Result<Option<Export>, Broken> {
        let before = input.len();
        loop {
            match self.expected {
                Expected::Greeting => {
                    let Some(bytes) = self.gather.take(input, size_of::<Greeting>()) else { break };
                    let greeting = Greeting::read_from_bytes(bytes).ok();
                    let flags = greeting.and_then(|greeting| greeting.flags()).ok_or(Broken::NotNbd)?;
                    self.introduce(flags);
                    self.expected = Expected::Header;
                }
                Expected::Header => {
                    let Some(bytes) = self.gather.take(input, size_of::<OptionReplyHeader>()) else { break };
                    let header = OptionReplyHeader::read_from_bytes(bytes).ok();
                    let (code, kind, len) = header
                        .and_then(|header| header.parse())
                        .ok_or(Broken::Nonsense("no answer to an option where one has to be"))?;
                    if code != OptionCode::Go as u32 {
                        return Err(Broken::Nonsense("an answer to an option that was not asked for"));
                    }
                    let len = len as usize;
                    match ReplyType::new(kind) {
                        Some(ReplyType::Ack) if len == 0 => return self.export(needed).map(Some),
                        Some(ReplyType::Info) if len <= MAX_FACT => self.expected = Expected::Fact(len),
                        Some(ReplyType::Info) => self.expected = Expected::Skipped(len),
                        known => return Err(refusal(kind, known)),
                    }
                }
                Expected::Fact(len) => {
                    let Some(bytes) = self.gather.take(input, len) else { break };
                    match ExportFact::parse(bytes) {
                        Some(ExportFact::Export(bytes, flags)) => self.size = Some((bytes, flags)),
                        Some(ExportFact::SmallestBlock(bytes)) => self.smallest = bytes,
                        Some(ExportFact::Other) => {}
                        None => return Err(Broken::Nonsense("information of a wrong length")),
                    }
                    self.expected = Expected::Header;
                }
                Expected::Skipped(0) => self.expected = Expected::Header,
                Expected::Skipped(len) => {
                    if input.is_empty() {
                        break;
                    }
                    let now = len.min(input.len());
                    *input = &input[now..];
                    self.expected = Expected::Skipped(len - now);
                }
            }
        }
        self.said += before - input.len();
        if self.said > MAX_SAID {
            return Err(Broken::Nonsense("too much before the export is chosen"));
        }
        Ok(None)
    }

    /// What the server can, the client does as well.
    fn introduce(&mut self, flags: HandshakeFlags) {
        let mut answer = ClientFlags::FIXED_NEWSTYLE;
        answer.set(ClientFlags::NO_ZEROES, flags.contains(HandshakeFlags::NO_ZEROES));
        self.outbox.push(&answer.bits().to_be_bytes());
        self.outbox.push(&self.go);
    }

    fn export(&self, needed: u64) -> Result<Export, Broken> {
        let (bytes, flags) = self.size.ok_or(Broken::Nonsense("an export without a size"))?;
        let places = bytes / FRAME_SIZE as u64;
        if flags.contains(TransmissionFlags::READ_ONLY) {
            return Err(Broken::ReadOnly);
        }
        if self.smallest > BLOCK_BYTES {
            return Err(Broken::Blocks(self.smallest));
        }
        if places < needed {
            return Err(Broken::TooSmall { needed, found: places });
        }
        Ok(Export { places, trims: flags.contains(TransmissionFlags::SEND_TRIM) })
    }
}

fn refusal(kind: u32, known: Option<ReplyType>) -> Broken {
    match known {
        Some(ReplyType::ErrUnsupported) => Broken::NoGo,
        Some(ReplyType::ErrTlsRequired) => Broken::Tls,
        Some(ReplyType::ErrUnknown) => Broken::UnknownExport,
        Some(ReplyType::ErrShutdown) => Broken::ShuttingDown,
        // The highest bit is that of errors.
        _ if kind >> 31 == 1 => Broken::RefusedExport(kind),
        _ => Broken::Nonsense("an answer that the option cannot have"),
    }
}
