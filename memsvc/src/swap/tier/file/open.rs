//! The file of a tier, and what can be wrong with the place where it is to be.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, ftruncate, open};
use rustix::io::{Errno, pwrite};
use rustix::process::{Resource, getrlimit};

use super::super::Block;
use crate::core::units::FRAME_SIZE;

/// Why there can be no tier in a directory, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum TierOpenError {
    /// No such directory, or not for us.
    #[error("no file can be made in {directory}: name a directory in which this process may write")]
    Directory {
        /// As configured.
        directory: PathBuf,
        /// What open said.
        #[source]
        source: io::Error,
    },
    /// No `O_TMPFILE`.
    #[error(
        "the file system of {directory} has no files without a name (O_TMPFILE): \
         name a directory on another one, such as ext4, xfs or btrfs"
    )]
    NoUnnamedFiles {
        /// As configured.
        directory: PathBuf,
    },
    /// No `O_DIRECT`, or not for 4 KiB.
    #[error(
        "the file system of {directory} cannot read and write 4 KiB past the page cache (O_DIRECT): \
         name a directory on another one, such as ext4 or xfs on a disk with sectors of at most 4 KiB"
    )]
    NoDirectAccess {
        /// As configured.
        directory: PathBuf,
    },
    /// Larger than a file may be.
    #[error(
        "a tier of {pages} pages of 4 KiB is larger than a file in {directory} may be: \
         ask for a smaller one, or raise the limit (ulimit -f)"
    )]
    TooLarge {
        /// As configured.
        directory: PathBuf,
        /// Places asked for.
        pages: u64,
    },
    /// The first page could not be written.
    #[error("nothing can be written to {directory}: make room there, or name another directory")]
    Write {
        /// As configured.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// io_uring is switched off, filtered, or not built in.
    #[error(
        "io_uring does not work here: set kernel.io_uring_disabled=0, let the container's seccomp filter pass \
         io_uring_setup, io_uring_enter and io_uring_register, and use a kernel with CONFIG_IO_URING=y"
    )]
    NoRing(#[source] io::Error),
}

/// Checks that there could be one.
pub(in super::super) fn check(directory: &Path, places: u64) -> Result<(), TierOpenError> {
    open_unnamed(directory, places).map(drop)
}

/// A file without a name and with nothing in it, of so many pages. One is written for a try.
pub(super) fn open_unnamed(directory: &Path, places: u64) -> Result<OwnedFd, TierOpenError> {
    let path = directory;
    let directory = || path.to_owned();
    let too_large = || TierOpenError::TooLarge { directory: directory(), pages: places };
    let bytes = places.checked_mul(FRAME_SIZE as u64).ok_or_else(too_large)?;
    // Beyond the limit the kernel would send a signal that ends the process.
    if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < bytes) {
        return Err(too_large());
    }
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::DIRECT | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| match error {
        // EISDIR is what kernels and file systems say that do not know the flag.
        Errno::OPNOTSUPP | Errno::ISDIR => TierOpenError::NoUnnamedFiles { directory: directory() },
        Errno::INVAL => TierOpenError::NoDirectAccess { directory: directory() },
        error => TierOpenError::Directory { directory: directory(), source: error.into() },
    })?;
    ftruncate(&file, bytes).map_err(|error| match error {
        Errno::FBIG | Errno::INVAL => too_large(),
        error => TierOpenError::Write { directory: directory(), source: error.into() },
    })?;
    if places > 0 {
        try_out(&file).map_err(|error| match error {
            Errno::INVAL => TierOpenError::NoDirectAccess { directory: directory() },
            error => TierOpenError::Write { directory: directory(), source: error.into() },
        })?;
    }
    Ok(file)
}

fn try_out(file: &OwnedFd) -> Result<(), Errno> {
    let block = Box::new(Block([0; FRAME_SIZE]));
    let written = rustix::io::retry_on_intr(|| pwrite(file, &block.0, 0))?;
    // That it cannot be taken back is said when something is discarded.
    let _ = fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, FRAME_SIZE as u64);
    if written == FRAME_SIZE { Ok(()) } else { Err(Errno::NOSPC) }
}
