//! Frames made by hand, and frames looked at: what a network card would do with the header in front.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber,
};

use super::{GUEST, GUEST_MAC, MTU, PEER, PEER_MAC, PORT};
use crate::devices::virtio::net::Gso;
use crate::link::Header;

const ETHERNET: usize = 14;

/// An Ethernet frame from the guest to the peer.
pub(super) fn ethernet(kind: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = EthernetRepr {
        src_addr: EthernetAddress(GUEST_MAC),
        dst_addr: EthernetAddress(PEER_MAC),
        ethertype: kind,
    };
    let mut frame = vec![0; ETHERNET];
    repr.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    frame.extend_from_slice(payload);
    frame
}

/// An IPv4 packet in a frame.
pub(super) fn ipv4(from: Ipv4Address, to: Ipv4Address, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let repr = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: protocol,
        payload_len: payload.len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; 20];
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &ChecksumCapabilities::default());
    packet.extend_from_slice(payload);
    ethernet(EthernetProtocol::Ipv4, &packet)
}

/// Who asks for an address.
pub(super) fn arp(from: Ipv4Address, to: Ipv4Address) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(GUEST_MAC),
        source_protocol_addr: from,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: to,
    };
    let mut packet = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut packet[..]));
    let mut frame = ethernet(EthernetProtocol::Arp, &packet);
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame
}

/// An echo request with so many bytes of data.
pub(super) fn ping(len: usize) -> Vec<u8> {
    let data = vec![0x5a; len];
    let repr = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: &data };
    let mut packet = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut packet[..]), &ChecksumCapabilities::default());
    ipv4(GUEST, PEER, IpProtocol::Icmp, &packet)
}

/// A datagram.
pub(super) fn udp() -> Vec<u8> {
    ipv4(GUEST, PEER, IpProtocol::Udp, &[0, 9, 0, 9, 0, 8, 0, 0])
}

/// A segment from the guest.
pub(super) fn segment<'a>(
    port: u16,
    control: TcpControl,
    seq: TcpSeqNumber,
    ack: Option<TcpSeqNumber>,
    payload: &'a [u8],
) -> TcpRepr<'a> {
    TcpRepr {
        src_port: port,
        dst_port: PORT,
        control,
        seq_number: seq,
        ack_number: ack,
        window_len: 8192,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    }
}

/// A segment in a frame.
pub(super) fn tcp(repr: &TcpRepr<'_>) -> Vec<u8> {
    let mut packet = vec![0; repr.buffer_len()];
    let addresses = (GUEST.into(), PEER.into());
    let mut view = TcpPacket::new_unchecked(&mut packet[..]);
    repr.emit(&mut view, &addresses.0, &addresses.1, &ChecksumCapabilities::default());
    ipv4(GUEST, PEER, IpProtocol::Tcp, &packet)
}

/// The segment in a frame of the peer, if it is one. Its payload is left out.
pub(super) fn segment_of(frame: &[u8]) -> Option<TcpRepr<'_>> {
    let ethernet = EthernetFrame::new_checked(frame).expect("a frame");
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("a packet");
    if ip.next_header() != IpProtocol::Tcp {
        return None;
    }
    let tcp = TcpPacket::new_checked(ip.payload()).expect("a segment");
    let caps = ChecksumCapabilities::ignored();
    Some(TcpRepr::parse(&tcp, &ip.src_addr().into(), &ip.dst_addr().into(), &caps).expect("a segment"))
}

/// Does what the header says is left to do, and checks that then nothing is: lengths, addresses, all sums.
pub(super) fn on_the_wire(header: &Header, frame: &[u8]) -> Vec<Vec<u8>> {
    let frames = match header.gso {
        Gso::None => vec![frame.to_vec()],
        Gso::Tcp4 => cut(header, frame),
        other => panic!("GSO type {other:?}"),
    };
    let finish = |mut frame: Vec<u8>| {
        if header.needs_csum {
            sum(header, &mut frame);
        }
        check(&frame);
        frame
    };
    frames.into_iter().map(finish).collect()
}

/// Cuts a frame into segments as virtio 1.3, section 5.1.6.4, and `tcp_gso_segment` of Linux have it. The
/// partial sum covers the length, which changes.
fn cut(header: &Header, frame: &[u8]) -> Vec<Vec<u8>> {
    assert!(header.needs_csum, "GSO needs it");
    let (headers, payload) = frame.split_at(usize::from(header.hdr_len));
    let segments: Vec<&[u8]> = payload.chunks(usize::from(header.gso_size)).collect();
    assert!(segments.len() > 1 && frame.len() <= 65_535, "why else");
    let mut seq = TcpPacket::new_unchecked(&headers[34..]).seq_number();
    let last = segments.len() - 1;
    let one = |(index, segment): (usize, &&[u8])| {
        let mut frame = [headers, segment].concat();
        let len = (frame.len() - ETHERNET) as u16;
        let mut ip = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
        assert_eq!(usize::from(ip.total_len()), headers.len() + payload.len() - ETHERNET);
        let difference = ip.total_len() - len;
        ip.set_total_len(len);
        ip.fill_checksum();
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        tcp.set_seq_number(seq);
        if index < last {
            tcp.set_fin(false);
            tcp.set_psh(false);
        }
        // One's complement subtraction.
        let sum = u32::from(tcp.checksum()) + u32::from(!difference);
        tcp.set_checksum((sum as u16).wrapping_add((sum >> 16) as u16));
        seq += segment.len();
        frame
    };
    segments.iter().enumerate().map(one).collect()
}

/// Sums from `csum_start` to the end, the partial sum included, and puts it where it belongs.
fn sum(header: &Header, frame: &mut [u8]) {
    let start = usize::from(header.csum_start);
    let mut sum = 0_u64;
    for pair in frame[start..].chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let place = start + usize::from(header.csum_offset);
    frame[place..place + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// Checks a frame of the peer as a strict receiver would.
fn check(frame: &[u8]) {
    assert!(frame.len() <= ETHERNET + MTU, "{} bytes", frame.len());
    let ethernet = EthernetFrame::new_checked(frame).expect("a frame");
    assert_eq!(ethernet.src_addr(), EthernetAddress(PEER_MAC));
    if ethernet.ethertype() == EthernetProtocol::Arp {
        let packet = ArpPacket::new_checked(ethernet.payload()).expect("ARP");
        ArpRepr::parse(&packet).expect("ARP");
        return;
    }
    assert_eq!(ethernet.ethertype(), EthernetProtocol::Ipv4);
    let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("a packet");
    assert_eq!((ip.src_addr(), ip.dst_addr()), (PEER, GUEST));
    assert_eq!(usize::from(ip.total_len()) + ETHERNET, frame.len());
    assert!(ip.verify_checksum());
    match ip.next_header() {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(ip.payload()).expect("a segment");
            assert!(tcp.verify_checksum(&PEER.into(), &GUEST.into()), "TCP checksum");
        }
        IpProtocol::Icmp => {
            assert!(Icmpv4Packet::new_checked(ip.payload()).expect("ICMP").verify_checksum());
        }
        other => panic!("{other}"),
    }
}
