//! The header before every frame (`struct virtio_net_hdr_v1`, section 5.1.6).
//!
//! ```text
//!   0 flags   1 gso_type   2 hdr_len   4 gso_size   6 csum_start   8 csum_offset   10 num_buffers
//! ```
//!
//! Little-endian. With a checksum to complete, the sum of the pseudo header stands at `csum_start +
//! csum_offset`, and what goes into the sum begins at `csum_start`; both count from the start of the frame.

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
    virtio_net_hdr_v1,
};

use super::feature;

/// Bytes of the header.
pub const HEADER: usize = 12;

/// Where `num_buffers` is.
const NUM_BUFFERS: usize = 10;

const _: () = assert!(size_of::<virtio_net_hdr_v1>() == HEADER);
const _: () = assert!(NUM_BUFFERS == std::mem::offset_of!(virtio_net_hdr_v1, num_buffers));

/// What kind of segments a frame is to be cut into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// It is one.
    #[default]
    None,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
}

/// The header, but for `num_buffers`, which the device fills in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Whether the checksum is still to be completed.
    pub needs_csum: bool,
    /// What to cut the frame into.
    pub gso: Gso,
    /// Bytes of Ethernet, IP and TCP header before the data; a hint.
    pub hdr_len: u16,
    /// Bytes of data in a segment.
    pub gso_size: u16,
    /// Where the checksum begins.
    pub csum_start: u16,
    /// Where the checksum goes, from there.
    pub csum_offset: u16,
}

impl Header {
    /// Takes the bytes of a driver apart. `None` for segments of a kind that is never offered.
    pub fn parse(bytes: [u8; HEADER]) -> Option<Self> {
        let [flags, gso, h0, h1, s0, s1, c0, c1, o0, o1, _, _] = bytes;
        let gso = match u32::from(gso) {
            VIRTIO_NET_HDR_GSO_NONE => Gso::None,
            VIRTIO_NET_HDR_GSO_TCPV4 => Gso::Tcp4,
            VIRTIO_NET_HDR_GSO_TCPV6 => Gso::Tcp6,
            _ => return None,
        };
        Some(Self {
            // Other flags are for the other direction (section 5.1.6.2.2).
            needs_csum: u32::from(flags) & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0,
            gso,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([s0, s1]),
            csum_start: u16::from_le_bytes([c0, c1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        })
    }

    /// The bytes, with `num_buffers`.
    pub fn bytes(&self, num_buffers: u16) -> [u8; HEADER] {
        let flags = if self.needs_csum { VIRTIO_NET_HDR_F_NEEDS_CSUM } else { 0 };
        let gso = match self.gso {
            Gso::None => VIRTIO_NET_HDR_GSO_NONE,
            Gso::Tcp4 => VIRTIO_NET_HDR_GSO_TCPV4,
            Gso::Tcp6 => VIRTIO_NET_HDR_GSO_TCPV6,
        };
        let mut bytes = [0; HEADER];
        bytes[0] = flags as u8;
        bytes[1] = gso as u8;
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, num_buffers];
        for (to, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Whether a driver that acknowledged `features` takes this before a frame.
    pub(super) fn is_taken(&self, features: u64) -> bool {
        let has = |bit: u32| features & 1 << bit != 0;
        (!self.needs_csum || has(feature::GUEST_CSUM))
            && match self.gso {
                Gso::None => true,
                Gso::Tcp4 => has(feature::GUEST_TSO4),
                Gso::Tcp6 => has(feature::GUEST_TSO6),
            }
    }

    /// Whether a driver that acknowledged `features` may send this before a frame of `len` bytes.
    pub(super) fn is_sound(&self, features: u64, len: usize) -> bool {
        let has = |bit: u32| features & 1 << bit != 0;
        let csum_end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
        let csum = !self.needs_csum || has(feature::CSUM) && csum_end <= len;
        let cut = self.needs_csum && self.gso_size > 0;
        csum && match self.gso {
            Gso::None => true,
            Gso::Tcp4 => cut && has(feature::HOST_TSO4),
            Gso::Tcp6 => cut && has(feature::HOST_TSO6),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_survives_its_bytes(
            needs_csum: bool, gso in 0usize..3, words: [u16; 4], num_buffers: u16, others: u8,
        ) {
            let gso = [Gso::None, Gso::Tcp4, Gso::Tcp6][gso];
            let [hdr_len, gso_size, csum_start, csum_offset] = words;
            let header = Header { needs_csum, gso, hdr_len, gso_size, csum_start, csum_offset };
            let bytes = header.bytes(num_buffers);
            prop_assert_eq!(Header::parse(bytes), Some(header));
            prop_assert_eq!(u32::from(bytes[0]), u32::from(needs_csum) * VIRTIO_NET_HDR_F_NEEDS_CSUM);
            let mut flagged = bytes;
            flagged[0] |= others & !1;
            prop_assert_eq!(Header::parse(flagged), Some(header), "other flags are not handed on");
            prop_assert_eq!(&bytes[NUM_BUFFERS..], &num_buffers.to_le_bytes()[..]);
        }
    }
}
