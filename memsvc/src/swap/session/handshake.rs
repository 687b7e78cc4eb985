//! Until the export is chosen.

use zerocopy::{FromBytes, IntoBytes};

use super::super::nbd::{
    ClientFlags, Greeting, HandshakeFlags, InfoType, MAX_NAME, OptionCode, OptionHeader, OptionReplyHeader,
    OptionRequest, ReplyType, TransmissionFlags, block_size_info, export_info, export_name_reply, text_info,
};
use super::buffer::{Gather, Outbox};
use super::{Disk, Exports};
use crate::core::units::FRAME_SIZE;

/// Longest data of an option: the longest name, and more information than there is.
const MAX_DATA: usize = MAX_NAME as usize + 512;
/// Zeroes after the answer to `EXPORT_NAME`, unless the client wants none.
const ZEROES: usize = 124;

/// What an export can do.
const ABILITIES: TransmissionFlags = TransmissionFlags::HAS_FLAGS
    .union(TransmissionFlags::SEND_FLUSH)
    .union(TransmissionFlags::SEND_FUA)
    .union(TransmissionFlags::SEND_TRIM)
    .union(TransmissionFlags::SEND_WRITE_ZEROES)
    .union(TransmissionFlags::SEND_FAST_ZERO)
    .union(TransmissionFlags::CAN_MULTI_CONN);

/// What comes next.
#[derive(Debug)]
enum Expected {
    Flags,
    Option,
    /// The data of an option that is known.
    Data {
        option: OptionCode,
        len: usize,
    },
    /// The data of one that is refused; so many bytes are still to come.
    Refused {
        code: u32,
        left: usize,
        why: ReplyType,
    },
}

/// What becomes of the connection.
#[derive(Debug)]
pub(super) enum Next<D> {
    Stay,
    /// The export is chosen; `answer` is still to be sent.
    Transmit {
        disk: D,
        structured: bool,
        answer: Outbox,
    },
    HangUp,
}

/// The state of a handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    expected: Expected,
    gather: Gather<MAX_DATA>,
    outbox: Outbox,
    no_zeroes: bool,
    structured: bool,
    /// What is in the outbox is the last word.
    is_over: bool,
}

impl Handshake {
    pub(super) fn new() -> Self {
        let mut outbox = Outbox::new(1024);
        outbox.push(Greeting::new(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES).as_bytes());
        Self {
            expected: Expected::Flags,
            gather: Gather::new(),
            outbox,
            no_zeroes: false,
            structured: false,
            is_over: false,
        }
    }

    /// True when all has been sent, and that was the last word.
    pub(super) fn send(&mut self, out: &mut &mut [u8]) -> bool {
        self.outbox.send(out);
        self.is_over && self.outbox.is_empty()
    }

    /// Takes one piece, once the answer to the one before has been sent.
    pub(super) fn receive<E: Exports>(&mut self, input: &mut &[u8], exports: &E) -> Next<E::Disk> {
        if !self.outbox.is_empty() || self.is_over {
            return Next::Stay;
        }
        match self.expected {
            Expected::Flags => {
                let Some(bytes) = self.gather.take(input, size_of::<ClientFlags>()) else {
                    return Next::Stay;
                };
                let bits = bytes.try_into().map_or(0, u32::from_be_bytes);
                // Bits that are not known are a reason to hang up, the protocol says; so is an old client.
                let flags =
                    ClientFlags::from_bits(bits).filter(|it| it.contains(ClientFlags::FIXED_NEWSTYLE));
                let Some(flags) = flags else { return hang_up(exports) };
                self.no_zeroes = flags.contains(ClientFlags::NO_ZEROES);
                self.expected = Expected::Option;
            }
            Expected::Option => {
                let Some(bytes) = self.gather.take(input, size_of::<OptionHeader>()) else {
                    return Next::Stay;
                };
                let header = OptionHeader::read_from_bytes(bytes).ok();
                let Some((code, len)) = header.and_then(|header| header.parse()) else {
                    return hang_up(exports);
                };
                let len = len as usize;
                self.expected = match OptionCode::new(code) {
                    Some(option) if len <= MAX_DATA => Expected::Data { option, len },
                    // It has no answer that could say so.
                    Some(OptionCode::ExportName) => return hang_up(exports),
                    Some(_) => Expected::Refused { code, left: len, why: ReplyType::ErrTooBig },
                    None => Expected::Refused { code, left: len, why: ReplyType::ErrUnsupported },
                };
            }
            Expected::Refused { code, ref mut left, why } => {
                let (_, rest) = input.split_at(input.len().min(*left));
                *left -= input.len() - rest.len();
                *input = rest;
                if *left == 0 {
                    exports.counters().refused.add(1);
                    self.reply(code, why, &[]);
                    self.expected = Expected::Option;
                }
            }
            Expected::Data { option, len } => {
                let Some(data) = self.gather.take(input, len) else { return Next::Stay };
                // Answers are made while it is borrowed.
                let data = data.to_vec();
                self.expected = Expected::Option;
                return self.serve(option, &data, exports);
            }
        }
        Next::Stay
    }

    fn serve<E: Exports>(&mut self, option: OptionCode, data: &[u8], exports: &E) -> Next<E::Disk> {
        let code = option as u32;
        match option {
            OptionCode::Abort => {
                self.reply(code, ReplyType::Ack, &[]);
                self.is_over = true;
            }
            OptionCode::StructuredReply if data.is_empty() => {
                self.structured = true;
                self.reply(code, ReplyType::Ack, &[]);
            }
            OptionCode::List if data.is_empty() => {
                for (name, description) in exports.list() {
                    let len = (name.len() as u32).to_be_bytes();
                    self.reply(code, ReplyType::Server, &[&len, name.as_bytes(), description.as_bytes()]);
                }
                self.reply(code, ReplyType::Ack, &[]);
            }
            OptionCode::StructuredReply | OptionCode::List => {
                exports.counters().refused.add(1);
                self.reply(code, ReplyType::ErrInvalid, &[]);
            }
            OptionCode::ExportName => {
                let Some(disk) = exports.open(data) else { return hang_up(exports) };
                self.outbox.push(&export_name_reply(bytes_of(disk.pages()), self.abilities()));
                if !self.no_zeroes {
                    self.outbox.push(&[0; ZEROES]);
                }
                return self.transmit(disk);
            }
            OptionCode::Info | OptionCode::Go => {
                let Some(request) = OptionRequest::parse(data) else {
                    exports.counters().refused.add(1);
                    self.reply(code, ReplyType::ErrInvalid, &[]);
                    return Next::Stay;
                };
                let disk = if option == OptionCode::Go { exports.open(request.name) } else { None };
                let pages =
                    exports.pages(request.name).filter(|_| disk.is_some() || option == OptionCode::Info);
                let Some(pages) = pages else {
                    exports.counters().refused.add(1);
                    self.reply(code, ReplyType::ErrUnknown, &[b"there is no such export"]);
                    return Next::Stay;
                };
                self.reply(code, ReplyType::Info, &[&export_info(bytes_of(pages), self.abilities())]);
                // Always: a client that does not know would be refused what is smaller than a page.
                self.reply(code, ReplyType::Info, &[&block_size_info()]);
                // The empty name is that of the first.
                let list = exports.list();
                let is_asked = |name: &str| request.name.is_empty() || name.as_bytes() == request.name;
                let known = list.iter().find(|(name, _)| is_asked(name));
                let (name, line) = known.map_or(("", ""), |(name, line)| (name, line));
                for (info, text) in [(InfoType::Name, name), (InfoType::Description, line)] {
                    if request.wants(info) {
                        self.reply(code, ReplyType::Info, &[&text_info(info), text.as_bytes()]);
                    }
                }
                self.reply(code, ReplyType::Ack, &[]);
                if let Some(disk) = disk {
                    return self.transmit(disk);
                }
            }
        }
        Next::Stay
    }

    fn abilities(&self) -> TransmissionFlags {
        let df = if self.structured { TransmissionFlags::SEND_DF } else { TransmissionFlags::empty() };
        ABILITIES | df
    }

    fn transmit<D>(&mut self, disk: D) -> Next<D> {
        let answer = std::mem::replace(&mut self.outbox, Outbox::new(0));
        Next::Transmit { disk, structured: self.structured, answer }
    }

    fn reply(&mut self, code: u32, kind: ReplyType, data: &[&[u8]]) {
        let len: usize = data.iter().map(|piece| piece.len()).sum();
        self.outbox.push(OptionReplyHeader::new(code, kind, len as u32).as_bytes());
        data.iter().for_each(|piece| self.outbox.push(piece));
    }
}

fn bytes_of(pages: u64) -> u64 {
    pages * FRAME_SIZE as u64
}

/// What has come makes no sense, and no answer would.
fn hang_up<E: Exports>(exports: &E) -> Next<E::Disk> {
    exports.counters().malformed.add(1);
    Next::HangUp
}
