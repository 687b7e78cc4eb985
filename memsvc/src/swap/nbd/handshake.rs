//! The handshake: greeting, options, and their replies ("Newstyle negotiation").

use bitflags::bitflags;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BLOCK_BYTES, MAX_PAYLOAD, TransmissionFlags};

/// "NBDMAGIC".
const INIT_PASSWD: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// "IHAVEOPT".
const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const OPTION_REPLY_MAGIC: u64 = 0x0003_E889_0455_65A9;

bitflags! {
    /// What the server says of itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Options that are not known are answered, not a reason to hang up.
        const FIXED_NEWSTYLE = 1;
        /// The 124 zeroes after `EXPORT_NAME` may be left out.
        const NO_ZEROES = 2;
    }

    /// What the client says of itself; the same bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ClientFlags: u32 {
        /// It knows fixed newstyle.
        const FIXED_NEWSTYLE = 1;
        /// It wants no zeroes after `EXPORT_NAME`.
        const NO_ZEROES = 2;
    }
}

/// The first word of the server.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Greeting {
    passwd: U64,
    magic: U64,
    flags: U16,
}

const _: () = assert!(size_of::<Greeting>() == 18);

impl Greeting {
    /// A server of these abilities.
    pub fn new(flags: HandshakeFlags) -> Self {
        Self { passwd: INIT_PASSWD.into(), magic: OPTION_MAGIC.into(), flags: flags.bits().into() }
    }

    /// The abilities; `None` when this is no fixed newstyle server.
    pub fn flags(&self) -> Option<HandshakeFlags> {
        let is_one = self.passwd == INIT_PASSWD && self.magic == OPTION_MAGIC;
        let flags = HandshakeFlags::from_bits_truncate(self.flags.get());
        (is_one && flags.contains(HandshakeFlags::FIXED_NEWSTYLE)).then_some(flags)
    }
}

/// What the client can ask for before the export is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionCode {
    /// The export of this name, now; the old way, which cannot be refused but by hanging up.
    ExportName = 1,
    /// Good-bye.
    Abort = 2,
    /// The names of the exports.
    List = 3,
    /// What is to be known of an export.
    Info = 6,
    /// The same, and go on to transmission.
    Go = 7,
    /// Replies in chunks.
    StructuredReply = 8,
}

impl OptionCode {
    /// The option of this number; `None` for those that are not served.
    pub fn new(code: u32) -> Option<Self> {
        use OptionCode::{Abort, ExportName, Go, Info, List, StructuredReply};
        [ExportName, Abort, List, Info, Go, StructuredReply].into_iter().find(|known| *known as u32 == code)
    }
}

/// An option, before its data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct OptionHeader {
    magic: U64,
    code: U32,
    len: U32,
}

const _: () = assert!(size_of::<OptionHeader>() == 16);

impl OptionHeader {
    /// An option with so many bytes of data.
    pub fn new(code: u32, len: u32) -> Self {
        Self { magic: OPTION_MAGIC.into(), code: code.into(), len: len.into() }
    }

    /// Its number and the length of its data; `None` when this is no option.
    pub fn parse(&self) -> Option<(u32, u32)> {
        (self.magic == OPTION_MAGIC).then(|| (self.code.get(), self.len.get()))
    }
}

/// Pieces of information on an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum InfoType {
    /// Size and transmission flags.
    Export = 0,
    /// Its canonical name.
    Name = 1,
    /// A line for people.
    Description = 2,
    /// Smallest, best and largest transfer.
    BlockSize = 3,
}

/// What `INFO` and `GO` carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionRequest<'a> {
    /// The export.
    pub name: &'a [u8],
    /// Numbers of the information wanted, two bytes each.
    wanted: &'a [u8],
}

impl<'a> OptionRequest<'a> {
    /// Reads the data of `INFO` or `GO`; `None` when lengths in it do not add up.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let (len, rest) = U32::read_from_prefix(data).ok()?;
        let (name, rest) = rest.split_at_checked(len.get() as usize)?;
        let (count, wanted) = U16::read_from_prefix(rest).ok()?;
        (wanted.len() == usize::from(count.get()) * size_of::<U16>()).then_some(Self { name, wanted })
    }

    /// The data of `INFO` or `GO` for an export of at most [`MAX_NAME`] bytes of name.
    pub fn bytes(name: &str, wanted: &[InfoType]) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        data.extend_from_slice(&(wanted.len() as u16).to_be_bytes());
        data.extend(wanted.iter().flat_map(|info| (*info as u16).to_be_bytes()));
        data
    }

    /// True when this information is wanted.
    pub fn wants(&self, info: InfoType) -> bool {
        self.wanted.chunks_exact(2).any(|number| number == (info as u16).to_be_bytes())
    }
}

/// Answers to an option; errors have the highest bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ReplyType {
    /// Done.
    Ack = 1,
    /// One export, of many.
    Server = 2,
    /// One piece of information.
    Info = 3,
    /// The option is not served.
    ErrUnsupported = 1 << 31 | 1,
    /// Its data makes no sense.
    ErrInvalid = 1 << 31 | 3,
    /// The server's operator does not allow it.
    ErrPolicy = 1 << 31 | 2,
    /// The connection has to be one of TLS first.
    ErrTlsRequired = 1 << 31 | 5,
    /// There is no such export.
    ErrUnknown = 1 << 31 | 6,
    /// The server is about to end.
    ErrShutdown = 1 << 31 | 7,
    /// Its data is longer than anything sensible.
    ErrTooBig = 1 << 31 | 9,
}

impl ReplyType {
    /// The answer of this number; `None` for those that are not known.
    pub fn new(code: u32) -> Option<Self> {
        use ReplyType::{
            Ack, ErrInvalid, ErrPolicy, ErrShutdown, ErrTlsRequired, ErrTooBig, ErrUnknown, ErrUnsupported,
            Info, Server,
        };
        let errors =
            [ErrUnsupported, ErrPolicy, ErrInvalid, ErrTlsRequired, ErrUnknown, ErrShutdown, ErrTooBig];
        let mut known = [Ack, Server, Info].into_iter().chain(errors);
        known.find(|known| *known as u32 == code)
    }
}

/// The answer to an option, before its data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct OptionReplyHeader {
    magic: U64,
    code: U32,
    kind: U32,
    len: U32,
}

const _: () = assert!(size_of::<OptionReplyHeader>() == 20);

impl OptionReplyHeader {
    /// An answer to the option of this number.
    pub fn new(code: u32, kind: ReplyType, len: u32) -> Self {
        Self {
            magic: OPTION_REPLY_MAGIC.into(),
            code: code.into(),
            kind: (kind as u32).into(),
            len: len.into(),
        }
    }

    /// To which option, what kind, how much data; `None` when this is no answer to an option.
    pub fn parse(&self) -> Option<(u32, u32, u32)> {
        (self.magic == OPTION_REPLY_MAGIC).then(|| (self.code.get(), self.kind.get(), self.len.get()))
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ExportInfo {
    kind: U16,
    bytes: U64,
    flags: U16,
}

const _: () = assert!(size_of::<ExportInfo>() == 12);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct BlockSizeInfo {
    kind: U16,
    smallest: U32,
    best: U32,
    largest: U32,
}

const _: () = assert!(size_of::<BlockSizeInfo>() == 14);

/// `NBD_INFO_EXPORT`: size in bytes, and flags.
pub fn export_info(bytes: u64, flags: TransmissionFlags) -> [u8; 12] {
    let kind = InfoType::Export as u16;
    zerocopy::transmute!(ExportInfo { kind: kind.into(), bytes: bytes.into(), flags: flags.bits().into() })
}

/// `NBD_INFO_BLOCK_SIZE`: smallest, best, largest.
pub fn block_size_info() -> [u8; 14] {
    let kind = InfoType::BlockSize as u16;
    zerocopy::transmute!(BlockSizeInfo {
        kind: kind.into(),
        smallest: BLOCK_BYTES.into(),
        best: BLOCK_BYTES.into(),
        largest: MAX_PAYLOAD.into(),
    })
}

/// A piece of information on an export, as a client needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFact {
    /// Its size in bytes, and what it can do.
    Export(u64, TransmissionFlags),
    /// The smallest unit of a transfer, in bytes.
    SmallestBlock(u32),
    /// Anything else.
    Other,
}

impl ExportFact {
    /// Reads the data of [`ReplyType::Info`]; `None` when its length is not that of its kind.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (kind, _) = U16::read_from_prefix(data).ok()?;
        if kind == InfoType::Export as u16 {
            let info = ExportInfo::read_from_bytes(data).ok()?;
            let flags = TransmissionFlags::from_bits_truncate(info.flags.get());
            return Some(Self::Export(info.bytes.get(), flags));
        }
        if kind == InfoType::BlockSize as u16 {
            return Some(Self::SmallestBlock(BlockSizeInfo::read_from_bytes(data).ok()?.smallest.get()));
        }
        Some(Self::Other)
    }
}

/// What stands before the text of `NBD_INFO_NAME` and `NBD_INFO_DESCRIPTION`.
pub fn text_info(kind: InfoType) -> [u8; 2] {
    (kind as u16).to_be_bytes()
}

/// The answer to `EXPORT_NAME`, without the zeroes.
pub fn export_name_reply(bytes: u64, flags: TransmissionFlags) -> [u8; 10] {
    #[derive(IntoBytes, Immutable, Unaligned)]
    #[repr(C)]
    struct ExportNameReply(U64, U16);
    zerocopy::transmute!(ExportNameReply(bytes.into(), flags.bits().into()))
}
