//! The kind of a frame from the guest, and whether it is looked at any further.
//!
//! smoltcp would answer more than we want answered, so only these come through: ARP for our address, echo
//! requests, and TCP from our subnet to our address. TCP checksums are verified here: whether they are to be
//! verified depends on the frame, which smoltcp does not know.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet,
    IpEndpoint, IpProtocol, Ipv4Address, Ipv4Cidr, Ipv4Packet, TcpControl, TcpPacket, TcpRepr,
};

use super::Header;
use super::config::{Config, is_host};

/// Bytes of an Ethernet header (IEEE 802.3).
pub(super) const ETHERNET: usize = 14;

/// Bytes of an IPv4 header without options (RFC 791), such as smoltcp makes.
pub(super) const IPV4: usize = 20;

/// A frame that is for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// ARP about our address: without it there is no swap connection.
    Arp,
    /// TCP to the port.
    Swap {
        /// Who sent it.
        from: IpEndpoint,
        /// It asks for a new connection.
        opens: bool,
    },
    /// An echo request, or TCP to another port, which is reset: swap does not need it.
    Spare,
}

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed,
    BadChecksum,
    NotForUs,
    Unserved,
}

#[derive(Debug)]
pub(super) struct Filter {
    mac: EthernetAddress,
    cidr: Ipv4Cidr,
    port: u16,
    /// The guest may send frames without a TCP checksum.
    pub(super) csum: bool,
}

impl Filter {
    pub(super) fn new(config: &Config) -> Self {
        Self { mac: EthernetAddress(config.mac), cidr: config.cidr(), port: config.port, csum: false }
    }

    /// Says what a frame is.
    pub(super) fn classify(&self, header: &Header, frame: &[u8]) -> Result<Kind, Refusal> {
        let ethernet = EthernetFrame::new_checked(frame).map_err(malformed)?;
        let to = ethernet.dst_addr();
        match ethernet.ethertype() {
            EthernetProtocol::Arp if to == self.mac || to.is_broadcast() => self.arp(ethernet.payload()),
            EthernetProtocol::Ipv4 if to == self.mac => self.ipv4(header, ethernet.payload()),
            EthernetProtocol::Arp | EthernetProtocol::Ipv4 => Err(Refusal::NotForUs),
            _ => Err(Refusal::Unserved),
        }
    }

    fn arp(&self, bytes: &[u8]) -> Result<Kind, Refusal> {
        let packet = ArpPacket::new_checked(bytes).map_err(malformed)?;
        match ArpRepr::parse(&packet).map_err(malformed)? {
            ArpRepr::EthernetIpv4 { source_protocol_addr: from, target_protocol_addr: to, .. }
                if self.is_from_guest(from) && to == self.cidr.address() =>
            {
                Ok(Kind::Arp)
            }
            _ => Err(Refusal::NotForUs),
        }
    }

    fn ipv4(&self, header: &Header, bytes: &[u8]) -> Result<Kind, Refusal> {
        let packet = Ipv4Packet::new_checked(bytes).map_err(malformed)?;
        if packet.version() != 4 {
            return Err(Refusal::Malformed);
        }
        if !packet.verify_checksum() {
            return Err(Refusal::BadChecksum);
        }
        // Nobody here puts fragments together: to smoltcp, one is a packet.
        if packet.more_frags() || packet.frag_offset() != 0 {
            return Err(Refusal::Malformed);
        }
        if packet.dst_addr() != self.cidr.address() || !self.is_from_guest(packet.src_addr()) {
            return Err(Refusal::NotForUs);
        }
        match packet.next_header() {
            IpProtocol::Tcp => self.tcp(header, &packet),
            IpProtocol::Icmp => echo(packet.payload()),
            _ => Err(Refusal::Unserved),
        }
    }

    fn tcp(&self, header: &Header, ip: &Ipv4Packet<&[u8]>) -> Result<Kind, Refusal> {
        let (from, to) = (ip.src_addr(), ip.dst_addr());
        let packet = TcpPacket::new_checked(ip.payload()).map_err(malformed)?;
        let trusted = self.csum && header.needs_csum;
        if !trusted && !packet.verify_checksum(&from.into(), &to.into()) {
            return Err(Refusal::BadChecksum);
        }
        let repr = TcpRepr::parse(&packet, &from.into(), &to.into(), &ChecksumCapabilities::ignored())
            .map_err(malformed)?;
        if repr.dst_port != self.port {
            return Ok(Kind::Spare);
        }
        let opens = repr.control == TcpControl::Syn && repr.ack_number.is_none();
        Ok(Kind::Swap { from: IpEndpoint::new(from.into(), repr.src_port), opens })
    }

    /// Whether an address is that of another host of the subnet. Only such a one can be answered.
    fn is_from_guest(&self, address: Ipv4Address) -> bool {
        is_host(self.cidr, address) && address != self.cidr.address()
    }
}

/// Of ICMP, only echo requests are served. smoltcp verifies their checksum: no offload covers it.
fn echo(bytes: &[u8]) -> Result<Kind, Refusal> {
    let packet = Icmpv4Packet::new_checked(bytes).map_err(malformed)?;
    match packet.msg_type() {
        Icmpv4Message::EchoRequest if packet.verify_checksum() => Ok(Kind::Spare),
        Icmpv4Message::EchoRequest => Err(Refusal::BadChecksum),
        _ => Err(Refusal::Unserved),
    }
}

fn malformed<E>(_: E) -> Refusal {
    Refusal::Malformed
}
