//! The work that the header in front of a frame leaves to the guest (virtio 1.3, section 5.1.6).

use std::num::NonZeroU16;

use super::Header;
use super::filter::{ETHERNET, IPV4};
use crate::devices::virtio::net::Gso;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, checksum};

/// Where the checksum is in a TCP header (RFC 9293, section 3.1).
const TCP_CHECKSUM: u16 = 16;

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
    let mut header =
        Header { needs_csum: true, csum_start: headers, csum_offset: TCP_CHECKSUM, ..Header::default() };
    if let Some(size) = segment {
        header.gso = Gso::Tcp4;
        header.gso_size = size.get();
        header.hdr_len = headers + u16::from(tcp.header_len());
    }
    Some(header)
}
