//! Why a connection to a server cannot be made, or goes on no more.

use std::io;

/// What a server, or the way to it, has done. Each is the end of one connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// No connection can be made.
    #[error("it cannot be reached ({0}): start it, or correct the address")]
    Unreachable(io::Error),
    /// The connection has failed.
    #[error("the connection has failed: {0}")]
    Failed(io::Error),
    /// The server has closed the connection.
    #[error("it has closed the connection")]
    Closed,
    /// It has not answered for the stated time.
    #[error("it does not answer; if it serves one client at a time, see that there is no other")]
    Silent,
    /// It says that it ends.
    #[error("it is shutting down")]
    ShuttingDown,
    /// What it said first is nothing that can be understood.
    #[error("what answers there is no NBD server, or one that does not know fixed newstyle: take another")]
    NotNbd,
    /// It only knows the oldest way of choosing an export, in which nothing can be asked or refused.
    #[error("it knows no NBD_OPT_GO: take a newer server, such as nbdkit or qemu-nbd")]
    NoGo,
    /// It wants TLS.
    #[error("it wants TLS, which is not spoken here: let it serve without, on a unix socket or in a tunnel")]
    Tls,
    /// It has no such export.
    #[error("it has no export of this name: correct the name, or let it serve one")]
    UnknownExport,
    /// It has refused the export, for another reason.
    #[error("it has refused the export (NBD reply {0:#x}): see what it says itself")]
    RefusedExport(u32),
    /// Nothing can be written.
    #[error("the export is read-only: let it be served for writing")]
    ReadOnly,
    /// There is less than is needed.
    #[error("the export has {found} pages of 4 KiB, and {needed} are needed: let it serve a larger one")]
    TooSmall {
        /// What is needed.
        needed: u64,
        /// What there is.
        found: u64,
    },
    /// Pages cannot be moved one by one.
    #[error("the export's smallest transfer is {0} bytes: let it serve one of 4096 bytes or less")]
    Blocks(u32),
    /// What it sent makes no sense.
    #[error("what it sends makes no sense: {0}")]
    Nonsense(&'static str),
}

impl Broken {
    /// The export is there, but it cannot be used; waiting does not help.
    pub(super) fn is_unfit(&self) -> bool {
        matches!(self, Self::ReadOnly | Self::TooSmall { .. } | Self::Blocks(_))
    }
}

/// Why a tier could not be used from the start.
#[derive(Debug, thiserror::Error)]
#[error("NBD server {server}: {why}")]
pub struct ConnectError {
    /// Its URI.
    pub(super) server: String,
    /// What is wrong.
    pub(super) why: Broken,
}
