//! The data of discards and write zeroes: ranges of sectors (`struct virtio_blk_discard_write_zeroes`).
//!
//! ```text
//!   0 sector   8 number of sectors   12 flags: bit 0, "may be unmapped"
//! ```
//!
//! All ranges of a request are checked before the first is served, so one that makes no sense changes nothing.

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::request::{Request, gather, total};
use super::{SECTOR, TURN};
use crate::devices::virtio::GuestRam;

/// Ranges in a request.
pub(super) const MAX_RANGES: usize = 16;
/// Sectors in a range that is discarded.
pub(super) const MAX_DISCARD: u32 = (TURN * PUNCHED / SECTOR) as u32;
/// Sectors in a range that is zeroed: there are files for which zeroes have to be written.
pub(super) const MAX_ZEROED: u32 = (TURN / SECTOR) as u32;

/// So many bytes that are discarded are the work of one that is moved: extents and pages go, nothing is copied.
const PUNCHED: u64 = 32;
/// The least work of a range, in bytes: a system call that changes the file's extents.
const LEAST: u64 = 64 << 10;

/// Bytes of a range in a request.
const LEN: usize = 16;
/// Bytes of the data of a request, at most.
pub(super) const MOST_BYTES: u64 = (LEN * MAX_RANGES) as u64;

/// One range, within the disk and the limits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// Where it is zeroed: the host may take the memory behind it back.
    pub(super) unmap: bool,
    /// What serving it costs of a turn, at most a whole one.
    pub(super) work: u64,
}

impl Range {
    /// The only flag.
    pub(super) const UNMAP: u32 = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

    fn parse(kind: u32, bytes: &[u8; LEN], disk: u64) -> Result<Self, u32> {
        let [sector @ .., n0, n1, n2, n3, f0, f1, f2, f3] = *bytes;
        let (sector, flags) = (u64::from_le_bytes(sector), u32::from_le_bytes([f0, f1, f2, f3]));
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let (known, max, share) = match kind {
            VIRTIO_BLK_T_DISCARD => (0, MAX_DISCARD, PUNCHED),
            VIRTIO_BLK_T_WRITE_ZEROES => (Self::UNMAP, MAX_ZEROED, 1),
            _ => return Err(VIRTIO_BLK_S_UNSUPP),
        };
        if flags & !known != 0 {
            return Err(VIRTIO_BLK_S_UNSUPP);
        }
        let end = sector.checked_add(sectors.into());
        if sectors > max || end.is_none_or(|end| end > disk) {
            return Err(VIRTIO_BLK_S_IOERR);
        }
        let bytes = u64::from(sectors) * SECTOR;
        let work = (bytes / share).max(LEAST).next_multiple_of(SECTOR);
        Ok(Self { offset: sector * SECTOR, bytes, unmap: flags != 0, work })
    }
}

/// The ranges of a request.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    ranges: [Range; MAX_RANGES],
    count: usize,
}

impl Ranges {
    /// Reads and checks those of `request` to a disk of so many sectors.
    ///
    /// # Errors
    /// The status of the request, if it makes no sense.
    pub(super) fn read(memory: &GuestRam, request: &Request<'_>, disk: u64) -> Result<Self, u32> {
        let mut bytes = [0; LEN * MAX_RANGES];
        let len = usize::try_from(total(request.out)).map_err(|_| VIRTIO_BLK_S_IOERR)?;
        let room = bytes.get_mut(..len).filter(|room| !room.is_empty() && room.len().is_multiple_of(LEN));
        let room = room.ok_or(VIRTIO_BLK_S_IOERR)?;
        gather(memory, request.out, room).ok_or(VIRTIO_BLK_S_IOERR)?;
        let mut found = Self { count: len / LEN, ..Self::default() };
        for (range, bytes) in found.ranges.iter_mut().zip(room.as_chunks().0) {
            *range = Range::parse(request.kind, bytes, disk)?;
        }
        Ok(found)
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().take(self.count)
    }
}

/// The feature without which a driver makes no such request.
pub(super) fn feature(kind: u32) -> u64 {
    match kind {
        VIRTIO_BLK_T_DISCARD => 1 << VIRTIO_BLK_F_DISCARD,
        _ => 1 << VIRTIO_BLK_F_WRITE_ZEROES,
    }
}

const _: () = assert!(MAX_DISCARD as u64 * SECTOR / PUNCHED <= TURN && LEAST <= TURN);
