//! Configuration space (`struct virtio_net_config`, section 5.1.4), up to `mtu`.
//!
//! ```text
//!   0  mac       8  max_virtqueue_pairs, 6  status: of features not offered, zero
//!  10  mtu
//! ```

/// Bytes up to and with `mtu`.
const LEN: usize = 12;

/// Lays out the configuration space.
pub(super) fn space(mac: [u8; 6], mtu: Option<u16>) -> [u8; LEN] {
    let mut space = [0; LEN];
    space[..6].copy_from_slice(&mac);
    space[10..].copy_from_slice(&mtu.unwrap_or_default().to_le_bytes());
    space
}
