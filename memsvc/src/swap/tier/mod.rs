//! Tiers: where pages go that have not been used for long, below the store in memory.
//!
//! ```text
//!   store ─▶ evictor ─▶ Tier (queue, thread) ─▶ Transport: a file by io_uring, or an NBD server
//!     ▲                       │
//!     └────── completions ◀───┘
//! ```
//! A tier has *places* of a page each. It knows nothing of what lies there: pages are sealed before they come.

mod address;
mod file;
#[cfg(test)]
mod mem;
mod remote;
mod seal;
mod thread;

use std::fmt;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::core::units::FRAME_SIZE;
pub use address::AddressError;
pub(crate) use file::FileTier;
pub use file::TierOpenError;
#[cfg(test)]
pub(crate) use mem::{Faults, MemTier};
pub use remote::{ConnectError, RemoteStats};
pub(crate) use remote::{RemoteCounters, RemoteTier};
pub(crate) use seal::{Seal, Sealer};
pub(crate) use thread::Tier;

/// What lies at a place, aligned as `O_DIRECT` wants it.
#[repr(C, align(4096))]
pub(crate) struct Block(pub(crate) [u8; FRAME_SIZE]);

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Block")
    }
}

/// Something for a tier to do. Who gives a block lends it: it comes back with the completion.
#[derive(Debug)]
pub(crate) enum Op {
    /// Reads a place into the block.
    Read {
        /// Which place.
        place: u64,
        /// Filled, if all goes well.
        block: Box<Block>,
    },
    /// Writes the block to a place.
    Write {
        /// Which place.
        place: u64,
        /// What is to lie there.
        block: Box<Block>,
    },
    /// What lies there is not needed any more. It may read as anything afterwards.
    Discard {
        /// Which places.
        places: Range<u64>,
    },
}

/// Why an operation came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TierError {
    /// It was refused, by the disk or the server.
    #[error("the tier has refused")]
    Refused,
    /// There is no room on the disk or the server, though the place exists.
    #[error("there is no room on the tier")]
    Full,
    /// The server has not answered for the stated time.
    #[error("the tier is away")]
    Away,
}

/// An operation that has come to its end.
#[derive(Debug)]
pub(crate) struct Done {
    /// As [`Transport::submit`] was told.
    pub(crate) token: u64,
    /// The operation, with its block.
    pub(crate) op: Op,
    /// How it went.
    pub(crate) result: Result<(), TierError>,
}

/// How the bytes of a tier are moved. It belongs to one thread, and keeps nobody waiting but in
/// [`Transport::wait`].
pub(crate) trait Transport: Send {
    /// Most operations that may be under way.
    fn depth(&self) -> usize;

    /// Begins an operation. At most [`Transport::depth`] are under way; they may end in any order. Nobody has two
    /// under way that change one place; what is read meanwhile there may be anything.
    fn submit(&mut self, token: u64, op: Op);

    /// Hands over what has ended. If nothing has, waits until something does or `bell` can be read, which it
    /// leaves unread.
    fn wait(&mut self, bell: BorrowedFd<'_>, done: &mut dyn FnMut(Done));

    /// Nobody needs what is under way any more: what would wait for somebody else ends as
    /// [`TierError::Away`]. Nothing is submitted from now on.
    fn give_up(&mut self) {}
}

/// Where a tier is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TierConfig {
    /// A directory on a disk, in which there will be a file without a name: nothing is left when the process
    /// ends, however it does.
    File(std::path::PathBuf),
    /// An NBD server.
    Nbd {
        /// Where it is.
        server: NbdServer,
        /// The export's name; empty for the default one.
        export: String,
        /// How long it may be away before reads and writes fail.
        timeout: Duration,
    },
}

/// The address of an NBD server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdServer {
    /// A unix socket.
    Unix(std::path::PathBuf),
    /// A host, by name or address, and a port.
    Tcp(String, u16),
}
