//! Transmission: requests and replies ("Transmission", "Simple reply message", "Structured reply chunk
//! message").

use std::fmt;

use bitflags::bitflags;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668E_33EF;

bitflags! {
    /// What an export can do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1;
        /// It cannot be written.
        const READ_ONLY = 1 << 1;
        /// [`Command::Flush`] is served.
        const SEND_FLUSH = 1 << 2;
        /// [`CommandFlags::FUA`] is served.
        const SEND_FUA = 1 << 3;
        /// [`Command::Trim`] is served.
        const SEND_TRIM = 1 << 5;
        /// [`Command::WriteZeroes`] is served.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// [`CommandFlags::DF`] is served.
        const SEND_DF = 1 << 7;
        /// A flush on one connection is one for all.
        const CAN_MULTI_CONN = 1 << 8;
        /// [`CommandFlags::FAST_ZERO`] is served.
        const SEND_FAST_ZERO = 1 << 11;
    }

    /// How a command is to be done.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        /// Not answered before it is on stable storage.
        const FUA = 1;
        /// Zeroes are to keep their place.
        const NO_HOLE = 1 << 1;
        /// The answer to a read is one chunk.
        const DF = 1 << 2;
        /// Zeroes only if that is faster than writing them.
        const FAST_ZERO = 1 << 4;
    }

    /// What a chunk is in its reply.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ChunkFlags: u16 {
        /// The last one.
        const DONE = 1;
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Sends data.
    Read = 0,
    /// Stores the data that follows.
    Write = 1,
    /// Good-bye; not answered.
    Disconnect = 2,
    /// What was answered is to be on stable storage.
    Flush = 3,
    /// This is not needed any more.
    Trim = 4,
    /// Stores zeroes.
    WriteZeroes = 6,
}

impl Command {
    fn new(code: u16) -> Option<Self> {
        use Command::{Disconnect, Flush, Read, Trim, Write, WriteZeroes};
        [Read, Write, Disconnect, Flush, Trim, WriteZeroes].into_iter().find(|known| *known as u16 == code)
    }
}

/// The bytes of a request, without data.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RequestHeader {
    magic: U32,
    flags: U16,
    command: U16,
    cookie: U64,
    offset: U64,
    len: U32,
}

const _: () = assert!(size_of::<RequestHeader>() == 28);

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What; `None` when it is nothing that is served.
    pub command: Option<Command>,
    /// How; bits that are not known are kept.
    pub flags: CommandFlags,
    /// Chosen by the client, repeated in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl RequestHeader {
    /// The bytes of a request.
    pub fn new(request: &Request) -> Self {
        Self {
            magic: REQUEST_MAGIC.into(),
            flags: request.flags.bits().into(),
            command: request.command.map_or(u16::MAX, |command| command as u16).into(),
            cookie: request.cookie.into(),
            offset: request.offset.into(),
            len: request.len.into(),
        }
    }

    /// What it says; `None` when this is no request: client and server are out of step.
    pub fn parse(&self) -> Option<Request> {
        (self.magic == REQUEST_MAGIC).then(|| Request {
            command: Command::new(self.command.get()),
            flags: CommandFlags::from_bits_retain(self.flags.get()),
            cookie: self.cookie.get(),
            offset: self.offset.get(),
            len: self.len.get(),
        })
    }
}

/// Why a request was not done: an errno, as the protocol numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum NbdError {
    /// What was stored cannot be read, or not be stored.
    Io = 5,
    /// The request makes no sense.
    Invalid = 22,
    /// There is no room.
    NoSpace = 28,
    /// The answer would not fit into one chunk.
    Overflow = 75,
    /// It is not served in this way.
    NotSupported = 95,
    /// The server is about to end: what was asked is to be asked again on another connection.
    Shutdown = 108,
}

impl NbdError {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            NbdError::Io => "input or output error",
            NbdError::Invalid => "invalid request",
            NbdError::NoSpace => "no space left",
            NbdError::Overflow => "too large for one chunk",
            NbdError::NotSupported => "not supported",
            NbdError::Shutdown => "the server is shutting down",
        }
    }

    /// The error of this number, [`NbdError::Io`] for those that are not known; `None` for 0.
    pub fn new(code: u32) -> Option<Self> {
        use NbdError::{Invalid, Io, NoSpace, NotSupported, Overflow, Shutdown};
        let known = [Invalid, NoSpace, Overflow, NotSupported, Shutdown];
        (code != 0).then(|| known.into_iter().find(|known| *known as u32 == code).unwrap_or(Io))
    }
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for NbdError {}

/// A reply; the data of a read that went well follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SimpleReply {
    magic: U32,
    error: U32,
    cookie: U64,
}

const _: () = assert!(size_of::<SimpleReply>() == 16);

impl SimpleReply {
    /// The reply to the request with this cookie.
    pub fn new(cookie: u64, error: Option<NbdError>) -> Self {
        let error = error.map_or(0, |error| error as u32);
        Self { magic: SIMPLE_REPLY_MAGIC.into(), error: error.into(), cookie: cookie.into() }
    }

    /// Cookie, and what went wrong; `None` when this is no reply.
    pub fn parse(&self) -> Option<(u64, Option<NbdError>)> {
        (self.magic == SIMPLE_REPLY_MAGIC).then(|| (self.cookie.get(), NbdError::new(self.error.get())))
    }
}

/// What a chunk carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ChunkType {
    /// Nothing.
    None = 0,
    /// An offset, and data from there.
    OffsetData = 1,
    /// An offset, and how many zeroes there are from there.
    OffsetHole = 2,
    /// An error, and a text.
    Error = 1 << 15 | 1,
}

/// One chunk of a reply, before what it carries.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ChunkHeader {
    magic: U32,
    flags: U16,
    kind: U16,
    cookie: U64,
    len: U32,
}

const _: () = assert!(size_of::<ChunkHeader>() == 20);

impl ChunkHeader {
    /// A chunk of so many bytes for the request with this cookie.
    pub fn new(flags: ChunkFlags, kind: ChunkType, cookie: u64, len: u32) -> Self {
        Self {
            magic: CHUNK_MAGIC.into(),
            flags: flags.bits().into(),
            kind: (kind as u16).into(),
            cookie: cookie.into(),
            len: len.into(),
        }
    }

    /// Flags, kind, cookie and length; `None` when this is no chunk.
    pub fn parse(&self) -> Option<(ChunkFlags, u16, u64, u32)> {
        let flags = ChunkFlags::from_bits_truncate(self.flags.get());
        (self.magic == CHUNK_MAGIC).then(|| (flags, self.kind.get(), self.cookie.get(), self.len.get()))
    }
}
