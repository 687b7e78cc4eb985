//! Configuration space of a disk (`struct virtio_blk_config`, section 5.2.4).

/// Bytes up to and with `blk_size`: the fields after it belong to features not offered.
const LEN: usize = 24;

/// Lays out the configuration space.
pub(super) fn space(sectors: u64, max_segments: u32, block_size: u32) -> [u8; LEN] {
    let mut space = [0; LEN];
    space[0..8].copy_from_slice(&sectors.to_le_bytes());
    space[12..16].copy_from_slice(&max_segments.to_le_bytes());
    space[20..24].copy_from_slice(&block_size.to_le_bytes());
    space
}
