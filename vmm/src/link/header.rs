//! The header in front of every frame in a virtio-net queue (virtio 1.3, section 5.1.6), and the work that
//! it leaves to the other side.
//!
//! ```text
//!   0      1         2        4         6           8            10
//!   flags  gso_type  hdr_len  gso_size  csum_start  csum_offset  num_buffers
//! ```

use std::num::NonZeroU16;

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, checksum};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4,
};

use super::filter::{ETHERNET, IPV4};

/// Where the checksum is in a TCP header (RFC 9293, section 3.1).
const TCP_CHECKSUM: u16 = 16;

/// All of the header but `num_buffers`, which is for who knows the buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `VIRTIO_NET_HDR_F_…`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_…`.
    pub gso_type: u8,
    /// Bytes of headers before the payload that is to be cut.
    pub hdr_len: u16,
    /// Bytes of payload in each piece.
    pub gso_size: u16,
    /// Where checksumming starts in the frame.
    pub csum_start: u16,
    /// Where the checksum belongs, from there.
    pub csum_offset: u16,
}

impl Header {
    /// Bytes in the queue, `num_buffers` included: since virtio 1.0 it is always there.
    pub const LEN: usize = 12;

    /// As it is in the queue.
    #[must_use]
    pub fn to_bytes(&self, num_buffers: u16) -> [u8; Self::LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = num_buffers.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }

    /// From what is in the queue; `num_buffers` means nothing there.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
        }
    }

    /// Whether who sent the frame says that its checksum need not be looked at.
    pub(super) fn is_trusted(&self) -> bool {
        const TRUSTED: u32 = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID;
        u32::from(self.flags) & TRUSTED != 0
    }
}

/// Who computes the TCP checksums of frames to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksums {
    /// smoltcp has.
    Done,
    /// The guest, if it ever looks at them.
    LeftToGuest,
}

impl Checksums {
    /// The header of a frame that smoltcp made, with what the guest needs for the work left to it: to
    /// compute the TCP checksum, and to cut the frame into segments of a size.
    pub(super) fn header(self, frame: &mut [u8], segment: Option<NonZeroU16>) -> Header {
        match self {
            Self::Done => Header::default(),
            Self::LeftToGuest => leave_to_guest(frame, segment).unwrap_or_default(),
        }
    }
}

/// `None` for what is no TCP, which has all its checksums.
fn leave_to_guest(frame: &mut [u8], segment: Option<NonZeroU16>) -> Option<Header> {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    if ip.next_header() != IpProtocol::Tcp {
        return None;
    }
    let (from, to, len) = (ip.src_addr(), ip.dst_addr(), u32::from(ip.total_len()) - IPV4 as u32);
    let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
    tcp.set_checksum(checksum::pseudo_header_v4(&from, &to, IpProtocol::Tcp, len));
    let headers = (ETHERNET + IPV4) as u16;
    let mut header = Header {
        flags: VIRTIO_NET_HDR_F_NEEDS_CSUM as u8,
        csum_start: headers,
        csum_offset: TCP_CHECKSUM,
        ..Header::default()
    };
    if let Some(size) = segment {
        header.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 as u8;
        header.gso_size = size.get();
        header.hdr_len = headers + u16::from(tcp.header_len());
    }
    Some(header)
}
