//! The file behind a disk: opening and locking it, and moving bytes between it and guest RAM.
//!
//! A disk is locked for as long as it is open (an open-file-description lock on the whole file,
//! for writing or shared for reading), so that two monitors never write one image. File systems
//! that know no locks are let through with a warning. A size that is not a whole number of sectors
//! is rounded down, as other monitors do, with a warning: the guest does not see the last bytes. A file that has
//! grown or shrunk is looked at again without being opened: the lock is that of one opening.

#![allow(unsafe_code)] // fcntl locks and vectored I/O into guest RAM, which no slice may borrow.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;
use vm_memory::VolatileSlice;

use super::SECTOR;
use super::hole::{self, Clearing, How};
use super::parts::Parts;

/// Why a disk cannot be used: one sentence, with the host's reason as source where it has one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The sentences say it.
pub enum OpenError {
    #[error("disk {} does not exist", .path.display())]
    Missing { path: PathBuf },
    #[error("disk {} is neither a regular file nor a block device", .path.display())]
    NotADisk { path: PathBuf },
    #[error("disk {} may not be written; open it read-only or change its permissions", .path.display())]
    NotWritable {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("disk {} is in use by another process; stop that one, or open it read-only in both", .path.display())]
    InUse { path: PathBuf },
    #[error("disk {} is in use by drive \"{drive_id}\" of this guest; name another file, or open it read-only in both", .path.display())]
    InUseByDrive { path: PathBuf, drive_id: String },
    #[error("disk {} cannot be opened", .path.display())]
    Host {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// Tells one file of the host from another, whatever their paths are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// That of the file at `path`.
    ///
    /// # Errors
    /// Nothing is there, or it cannot be reached.
    pub fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(Self::of)
    }

    fn of(metadata: Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the file into guest RAM.
    Read,
    /// From guest RAM into the file.
    Write,
}

/// An open, locked disk image; a clone shares opening and lock.
#[derive(Clone, Debug)]
pub struct BlockBackend {
    file: Arc<File>,
    sectors: u64,
    read_only: bool,
    has_holes: bool,
}

impl BlockBackend {
    /// Opens and locks the image at `path`.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, OpenError> {
        let host = |cause| OpenError::Host { path: path.into(), cause };
        // First by name, so that opening never blocks on a pipe or disturbs a device.
        check_type(path, &std::fs::metadata(path).map_err(|cause| missing(path, cause))?)?;
        let file = OpenOptions::new()
            .read(true)
            .write(!read_only)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|cause| match cause.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if !read_only => {
                    OpenError::NotWritable { path: path.into(), cause }
                }
                _ => missing(path, cause),
            })?;
        check_type(path, &file.metadata().map_err(host)?)?;
        lock_file(&file, path, read_only)?;
        let sectors = sectors(&file, path)?;
        let has_holes = !read_only && hole::can_be_made(&file);
        Ok(Self { file: Arc::new(file), sectors, read_only, has_holes })
    }

    /// The image at `path`, to take the place of the last of those that are `open`. If it is one of them, it is of
    /// another size by now, perhaps, and keeps its lock.
    pub(super) fn open_beside<'a>(
        path: &Path,
        open: impl Iterator<Item = &'a Self> + Clone,
    ) -> Result<Self, OpenError> {
        let new = FileId::at(path).map_err(|cause| missing(path, cause))?;
        if let Some(same) = open.clone().find(|image| image.is(new)) {
            return Ok(Self { sectors: sectors(&same.file, path)?, ..same.clone() });
        }
        Self::open(path, open.last().is_some_and(|image| image.read_only))
    }

    /// Whether the image is this file.
    pub(super) fn is(&self, file: FileId) -> bool {
        self.file.metadata().is_ok_and(|own| FileId::of(own) == file)
    }

    /// The open file.
    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Size in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The same on a file system that knows no holes.
    #[cfg(test)]
    pub(super) fn without_holes(self) -> Self {
        Self { has_holes: false, ..self }
    }

    /// Whether the host can take back what lies behind sectors.
    pub(super) fn has_holes(&self) -> bool {
        self.has_holes
    }

    /// How so many bytes from `offset` come to read as zeroes; with `unmap` nothing need be kept for them.
    pub(super) fn clearing(&self, offset: u64, bytes: u64, unmap: bool) -> Clearing {
        let how = if unmap && self.has_holes { How::Punch } else { How::Zero };
        Clearing { how, offset, bytes }
    }

    /// Has bytes read as zeroes, here and now.
    pub(super) fn clear(&self, clearing: Clearing) -> io::Result<()> {
        clearing.run(&self.file)
    }

    /// Makes sure that what was written survives a crash of the host.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Moves all bytes of `parts` from or to `offset`. A file that ends early is an error.
    pub(super) fn transfer(
        &self,
        direction: Direction,
        mut offset: u64,
        slices: &[VolatileSlice<'_>],
    ) -> io::Result<()> {
        let mut parts = Parts::new(slices);
        while !parts.rest().is_empty() {
            let moved = self.transfer_some(direction, offset, parts.rest())?;
            offset += moved as u64;
            parts.advance(moved);
        }
        Ok(())
    }

    /// One system call; at least one byte, or an error.
    fn transfer_some(&self, direction: Direction, offset: u64, parts: &[libc::iovec]) -> io::Result<usize> {
        let fd = self.fd();
        let count = parts.len() as libc::c_int;
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        loop {
            // SAFETY: `parts` has `count` entries. Each lies within guest RAM, taken by
            // `transfer` from slices that outlive this call; guest RAM is shared, volatile memory
            // to which no Rust reference exists, so the kernel may read and write it.
            let moved = unsafe {
                match direction {
                    Direction::Read => libc::preadv(fd, parts.as_ptr(), count, offset),
                    Direction::Write => libc::pwritev(fd, parts.as_ptr(), count, offset),
                }
            };
            match usize::try_from(moved) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(moved) => return Ok(moved),
                Err(_) => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// Whole sectors in a file.
fn sectors(mut file: &File, path: &Path) -> Result<u64, OpenError> {
    let bytes = file.seek(SeekFrom::End(0)).map_err(|cause| OpenError::Host { path: path.into(), cause })?;
    if bytes % SECTOR != 0 {
        warn!(disk = %path.display(), "the guest does not see the last {} bytes: they fill no sector", bytes % SECTOR);
    }
    Ok(bytes / SECTOR)
}

fn missing(path: &Path, cause: io::Error) -> OpenError {
    let path = path.to_path_buf();
    match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => OpenError::Missing { path },
        _ => OpenError::Host { path, cause },
    }
}

fn check_type(path: &Path, metadata: &Metadata) -> Result<(), OpenError> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    Err(OpenError::NotADisk { path: path.into() })
}

fn lock_file(file: &File, path: &Path, read_only: bool) -> Result<(), OpenError> {
    let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
    let whole = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open and `whole` is a lock description that lives through the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const whole) } == 0 {
        return Ok(());
    }
    let cause = io::Error::last_os_error();
    match cause.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Err(OpenError::InUse { path: path.into() }),
        Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => {
            warn!(disk = %path.display(), %cause, "this file system has no locks: nothing keeps others from writing this disk");
            Ok(())
        }
        _ => Err(OpenError::Host { path: path.into(), cause }),
    }
}
