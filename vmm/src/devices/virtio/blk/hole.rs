//! Holes in the file behind a disk: sectors that the guest has no use for, and sectors of zeroes.

#![allow(unsafe_code, reason = "no dependency wraps fallocate")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::PathBuf;

/// Zeroes to write where a file cannot be told to be zero.
static ZEROES: [u8; 64 << 10] = [0; _];

/// Whether holes can be made in `file`. Asks it for one behind its end, where nothing is lost, and of a block device
/// what its kernel says.
pub(super) fn can_be_made(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    if metadata.file_type().is_block_device() {
        let device = metadata.rdev();
        let of = PathBuf::from(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device)));
        // A partition has no queue of its own.
        let limit = |of: &str| std::fs::read_to_string(of).ok()?.trim().parse::<u64>().ok();
        let queues = ["queue", "../queue"].map(|queue| of.join(queue).join("write_zeroes_max_bytes"));
        return queues.iter().filter_map(|path| limit(path.to_str()?)).next().is_some_and(|most| most > 0);
    }
    metadata.len().checked_next_multiple_of(4096).is_some_and(|end| punch(file, end, 4096).is_ok())
}

/// Takes the memory behind so many bytes from `offset` away; they read as zeroes.
pub(super) fn punch(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_PUNCH_HOLE, offset, bytes)
}

/// Zeroes so many bytes from `offset`, and keeps room for them.
pub(super) fn zero(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    match allocate(file, libc::FALLOC_FL_ZERO_RANGE, offset, bytes) {
        Err(cause) if cause.raw_os_error() == Some(libc::EOPNOTSUPP) => write_zeroes(file, offset, bytes),
        done => done,
    }
}

fn write_zeroes(file: &File, mut offset: u64, mut bytes: u64) -> io::Result<()> {
    while bytes > 0 {
        let len = ZEROES.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        file.write_all_at(&ZEROES[..len], offset)?;
        offset += len as u64;
        bytes -= len as u64;
    }
    Ok(())
}

fn allocate(file: &File, how: libc::c_int, offset: u64, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    loop {
        // SAFETY: the call takes numbers only, and the descriptor is open.
        let done =
            unsafe { libc::fallocate(file.as_raw_fd(), how | libc::FALLOC_FL_KEEP_SIZE, offset, bytes) };
        if done == 0 {
            return Ok(());
        }
        let cause = io::Error::last_os_error();
        if cause.kind() != io::ErrorKind::Interrupted {
            return Err(cause);
        }
    }
}
