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

use zeroize::Zeroize;

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

/// What lies at a place, aligned as `O_DIRECT` wants it. Wiped when it goes: it may hold what was just opened.
#[repr(C, align(4096))]
pub(crate) struct Block(pub(crate) [u8; FRAME_SIZE]);

impl Drop for Block {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

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
    /// The server has not answered. What was asked of it and changes a place may still be done, at any time.
    #[error("the tier is away")]
    Away,
    /// The same, but this operation was not sent: it is not done late.
    #[error("the tier is away, and was not asked")]
    Unasked,
}

impl TierError {
    /// True when the server has not answered, asked or not.
    pub(crate) fn is_away(self) -> bool {
        matches!(self, TierError::Away | TierError::Unasked)
    }
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

impl TierConfig {
    /// Checks that a directory can have a file of so many bytes, and leaves none. Nothing is known of a server until it
    /// is asked.
    ///
    /// # Errors
    /// It cannot; says why.
    pub fn check_directory(&self, bytes: u64) -> Result<(), TierOpenError> {
        match self {
            Self::File(directory) => file::check(directory, bytes / FRAME_SIZE as u64),
            Self::Nbd { .. } => Ok(()),
        }
    }
}

/// The address of an NBD server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdServer {
    /// A unix socket.
    Unix(std::path::PathBuf),
    /// A host, by name or address, and a port.
    Tcp(String, u16),
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code, reason = "looks at what is left of a block")]

    use std::mem::ManuallyDrop;

    use super::*;

    #[test]
    fn a_block_is_wiped_when_it_goes() {
        let mut block = ManuallyDrop::new(Block([7; FRAME_SIZE]));
        // SAFETY: it is not used as a block any more; its bytes are looked at, which need no drop.
        let left = unsafe {
            ManuallyDrop::drop(&mut block);
            std::ptr::read((&raw const block).cast::<[u8; FRAME_SIZE]>())
        };
        assert!(left == [0; FRAME_SIZE]);
    }
}
