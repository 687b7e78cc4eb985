//! NBD on the wire: what is sent, in its bytes.
//!
//! ```text
//!   server                              client
//!     Greeting ────────────────────────▶
//!     ◀──────────────────────── client flags
//!     ◀──────────────────────── option     ┐ until GO or
//!     option reply ────────────────────▶   ┘ EXPORT_NAME
//!     ◀──────────────────────── request [data]      ┐ until
//!     simple reply or chunks ──────────▶ [data]     ┘ DISC
//! ```
//! Numbers are big-endian. The protocol is the NBD project's `doc/proto.md`; section names in here are its.
//! A *header* is the bytes as they are; reading one that is too short gives `None`. What it means is a plain
//! type beside it: [`Request`], [`OptionRequest`].

mod handshake;
mod transmission;

pub use handshake::{
    ClientFlags, ExportFact, Greeting, HandshakeFlags, InfoType, OptionCode, OptionHeader, OptionReplyHeader,
    OptionRequest, ReplyType, block_size_info, export_info, export_name_reply, text_info,
};
pub use transmission::{
    ChunkFlags, ChunkHeader, ChunkType, Command, CommandFlags, NbdError, Request, RequestHeader, SimpleReply,
    TransmissionFlags,
};

/// Smallest unit of a transfer, and the best one: a page.
pub const BLOCK_BYTES: u32 = 4096;
/// Most bytes of a read or write.
pub const MAX_PAYLOAD: u32 = 32 << 20;
/// Longest name of an export ("Values of strings": "no longer than 4096 bytes").
pub const MAX_NAME: u32 = 4096;
/// The port that is NBD's (IANA).
pub const PORT: u16 = 10809;
