//! Configuration space of a disk (`struct virtio_blk_config`, section 5.2.4).

use super::SECTOR;
use super::ranges::{MAX_DISCARD, MAX_ZEROED, Range};

/// Bytes up to and with `write_zeroes_may_unmap`: the fields after it belong to features not offered.
const LEN: usize = 57;

/// Sectors that discarded ranges best begin and end at: the blocks of file systems of the host.
const ALIGNMENT: u32 = 4096 / SECTOR as u32;

/// Lays out the configuration space of a disk that is read and written in blocks of so many bytes. What limits ranges is zero
/// where a request has none.
pub(super) fn space(sectors: u64, max_segments: u32, block: u32, max_ranges: u32) -> [u8; LEN] {
    let mut space = [0; LEN];
    space[0..8].copy_from_slice(&sectors.to_le_bytes());
    let mut put = |at: usize, value: u32| space[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(12, max_segments);
    put(20, block);
    if max_ranges > 0 {
        let limits = [MAX_DISCARD, max_ranges, ALIGNMENT, MAX_ZEROED, max_ranges];
        for (at, limit) in (36..).step_by(4).zip(limits) {
            put(at, limit);
        }
        space[56] = Range::UNMAP as u8;
    }
    space
}
