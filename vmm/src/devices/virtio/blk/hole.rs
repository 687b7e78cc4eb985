//! Holes in the file behind a disk: sectors that the guest has no use for, and sectors of zeroes.

#![allow(unsafe_code, reason = "no dependency wraps fallocate")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::PathBuf;

/// Zeroes to write where a file cannot be told to be zero.
pub(super) static ZEROES: [u8; 64 << 10] = [0; _];

/// Bytes of a file that are to read as zeroes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clearing {
    pub(super) how: How,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// How bytes come to read as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The memory behind them goes.
    Punch,
    /// There stays room for them.
    Zero,
    /// The same, where the file cannot be told.
    Write,
}

impl How {
    /// As `fallocate` takes it. `None`: zeroes are written.
    pub(super) fn mode(self) -> Option<libc::c_int> {
        match self {
            Self::Punch => Some(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
            Self::Zero => Some(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE),
            Self::Write => None,
        }
    }
}

impl Clearing {
    /// The file cannot be told to do it so: whether there is another way, which is to be taken then.
    pub(super) fn has_another_way(&mut self) -> bool {
        let is_there = self.how == How::Zero;
        if is_there {
            self.how = How::Write;
        }
        is_there
    }

    /// A call has done what it does, and written so many zeroes. Whether nothing is left.
    pub(super) fn is_over_after(&mut self, written: u64) -> bool {
        if self.how == How::Write {
            self.offset += written;
            self.bytes = self.bytes.saturating_sub(written);
            return self.bytes == 0;
        }
        true
    }

    /// Does it here and now.
    pub(super) fn run(mut self, file: &File) -> io::Result<()> {
        loop {
            let done = match self.how.mode() {
                Some(mode) => allocate(file, mode, self.offset, self.bytes),
                None => return write_zeroes(file, self.offset, self.bytes),
            };
            match done {
                Err(cause) if cause.raw_os_error() == Some(libc::EOPNOTSUPP) && self.has_another_way() => {}
                done => return done,
            }
        }
    }
}

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
    metadata.len().checked_next_multiple_of(4096).is_some_and(|offset| {
        let hole = Clearing { how: How::Punch, offset, bytes: 4096 };
        hole.run(file).is_ok()
    })
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
        let done = unsafe { libc::fallocate(file.as_raw_fd(), how, offset, bytes) };
        if done == 0 {
            return Ok(());
        }
        let cause = io::Error::last_os_error();
        if cause.kind() != io::ErrorKind::Interrupted {
            return Err(cause);
        }
    }
}
