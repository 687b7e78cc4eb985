//! Frames that are answered, and frames that are dropped, with their counters.

use std::net::Ipv4Addr;
use std::time::Duration;

use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, TcpControl, TcpSeqNumber};

use super::frames::{arp, ethernet, ipv4, on_the_wire, ping, segment, segment_of, tcp, udp};
use super::net::{Faults, Net, Ring};
use super::pattern::Patterns;
use super::{ALL_OFFLOADS, GUEST, GUEST_MAC, NO_OFFLOADS, PEER, PORT, config};
use crate::link::{Config, ConfigError, Header, LinkMetrics, Peer};

const NOW: Duration = Duration::from_secs(1);

fn peer() -> Peer<Patterns> {
    let mut peer = Peer::new(config(), Patterns::default()).expect("config");
    // Else the first answer were the question who the guest is.
    answers(&mut peer, &arp(GUEST, PEER), false);
    peer
}

/// What the peer says to a frame.
fn answers(peer: &mut Peer<Patterns>, frame: &[u8], under_pressure: bool) -> Vec<Vec<u8>> {
    peer.receive(&Header::default(), frame, under_pressure, NOW);
    let mut ring = Ring::of(256);
    peer.poll(NOW, &mut ring);
    ring.frames.iter().flat_map(|(header, frame)| on_the_wire(header, frame)).collect()
}

fn syn(port: u16) -> Vec<u8> {
    tcp(&segment(port, TcpControl::Syn, TcpSeqNumber(5), None, &[]))
}

#[test]
fn arp_for_the_peer_is_answered_under_pressure_too() {
    for under_pressure in [false, true] {
        let mut peer = peer();
        let all = answers(&mut peer, &arp(GUEST, PEER), under_pressure);
        assert_eq!(all.len(), 1);
        let frame = EthernetFrame::new_checked(&all[0]).expect("a frame");
        assert_eq!((frame.ethertype(), frame.dst_addr().0), (EthernetProtocol::Arp, GUEST_MAC));
    }
}

#[test]
fn an_echo_request_is_answered_unless_under_pressure() {
    let mut peer = peer();
    for len in [0, 56, 1472] {
        let all = answers(&mut peer, &ping(len), false);
        assert_eq!(all.len(), 1, "{len}");
        assert_eq!(all[0].len(), ping(len).len());
        assert_eq!(all[0][34], 0, "an echo reply");
    }
    assert!(answers(&mut peer, &ping(56), true).is_empty());
    assert_eq!(peer.metrics().under_pressure.get(), 1);
    // An answer longer than the MTU cannot be sent, and is no reason to fall over.
    assert!(answers(&mut peer, &ping(60_000), false).is_empty());
}

#[test]
fn every_drop_has_its_reason() {
    let outside = Ipv4Addr::new(10, 0, 0, 1);
    let other = Ipv4Addr::new(169, 254, 7, 3);
    let mut fragment = syn(1);
    fragment[20] = 0x20;
    // The sum changes with the flags: 0x4000 (do not fragment) became 0x2000.
    fragment[24] = fragment[24].wrapping_add(0x20);
    let mut wrong_sum = syn(1);
    wrong_sum[50] ^= 1;
    let mut wrong_ip_sum = syn(1);
    wrong_ip_sum[24] ^= 1;
    let mut wrong_echo = ping(8);
    wrong_echo[40] ^= 1;
    let mut elsewhere = syn(1);
    elsewhere[5] ^= 4;
    let mut everybody = syn(1);
    everybody[..6].copy_from_slice(&[0xff; 6]);
    let mut version = syn(1);
    version[14] = 0x65;
    let mut flags = segment(1, TcpControl::Syn, TcpSeqNumber(5), None, &[]);
    flags.control = TcpControl::Fin;
    let mut flags = tcp(&flags);
    flags[47] |= 2;
    // The sum again: SYN is 2.
    flags[51] -= 2;

    type Count = fn(&LinkMetrics) -> u64;
    let malformed: Count = |metrics| metrics.malformed.get();
    let bad: Count = |metrics| metrics.bad_checksums.get();
    let not_ours: Count = |metrics| metrics.not_for_us.get();
    let unserved: Count = |metrics| metrics.unserved.get();
    let drops: Vec<(&str, Vec<u8>, Count)> = vec![
        ("nothing", vec![], malformed),
        ("half a header", syn(1)[..10].to_vec(), malformed),
        ("a header alone", syn(1)[..14].to_vec(), malformed),
        ("cut short", syn(1)[..50].to_vec(), malformed),
        ("half an ARP", arp(GUEST, PEER)[..30].to_vec(), malformed),
        ("a fragment", fragment, malformed),
        ("IPv5 or so", version, malformed),
        ("SYN and FIN", flags, malformed),
        ("TCP checksum", wrong_sum, bad),
        ("IP checksum", wrong_ip_sum, bad),
        ("ICMP checksum", wrong_echo, bad),
        ("another's MAC", elsewhere, not_ours),
        ("TCP to all", everybody, not_ours),
        ("ARP for another", arp(GUEST, other), not_ours),
        ("ARP from us", arp(PEER, PEER), not_ours),
        ("ARP from outside", arp(outside, PEER), not_ours),
        ("to another", ipv4(GUEST, other, IpProtocol::Tcp, &[0; 20]), not_ours),
        ("from outside", ipv4(outside, PEER, IpProtocol::Tcp, &[0; 20]), not_ours),
        ("from us", ipv4(PEER, PEER, IpProtocol::Tcp, &[0; 20]), not_ours),
        ("from the broadcast address", ipv4(other, PEER, IpProtocol::Tcp, &[0; 20]), not_ours),
        ("UDP", udp(), unserved),
        ("an echo reply", ipv4(GUEST, PEER, IpProtocol::Icmp, &[0, 0, 0xff, 0xff, 0, 0, 0, 0]), unserved),
        ("IPv6", ethernet(EthernetProtocol::Ipv6, &[0x60; 40]), unserved),
        ("what not", ethernet(EthernetProtocol::Unknown(0x88cc), &[0; 40]), unserved),
    ];
    let total =
        |metrics: &LinkMetrics| malformed(metrics) + bad(metrics) + not_ours(metrics) + unserved(metrics);
    for (name, frame, count) in drops {
        let mut peer = peer();
        assert!(answers(&mut peer, &frame, false).is_empty(), "{name} is not answered");
        let metrics = peer.metrics();
        assert_eq!((count(metrics), total(metrics)), (1, 1), "{name}: {metrics:?}");
    }
}

#[test]
fn another_port_is_reset_unless_under_pressure() {
    let mut peer = peer();
    let mut other = segment(1, TcpControl::Syn, TcpSeqNumber(5), None, &[]);
    other.dst_port = PORT + 1;
    let all = answers(&mut peer, &tcp(&other), false);
    assert_eq!(segment_of(&all[0]).map(|repr| repr.control), Some(TcpControl::Rst));
    assert!(answers(&mut peer, &tcp(&other), true).is_empty());
    let all = answers(&mut peer, &syn(1), true);
    assert_eq!(segment_of(&all[0]).map(|repr| repr.control), Some(TcpControl::Syn), "swap goes on");
}

#[test]
fn missing_checksums_are_fine_once_that_was_agreed() {
    let mut frame = syn(1);
    frame[50] ^= 1;
    let partial = Header { needs_csum: true, ..Header::default() };
    for (offloads, agreed) in [(NO_OFFLOADS, false), (ALL_OFFLOADS, true)] {
        let mut peer = peer();
        peer.reset(offloads);
        peer.receive(&partial, &frame, false, NOW);
        assert_eq!(peer.metrics().bad_checksums.get(), u64::from(!agreed));
        peer.receive(&Header::default(), &frame, false, NOW);
        assert_eq!(peer.metrics().bad_checksums.get(), 1 + u64::from(!agreed), "nobody said it was missing");
    }
}

#[test]
fn swap_goes_on_under_a_flood() {
    let mut net = Net::new(ALL_OFFLOADS, Faults::default(), 1);
    net.guest.start(2_000_000, 65_535);
    let mut floods = 0;
    while !net.guest.is_done() {
        for frame in [ping(1400), udp(), arp(GUEST, PEER)] {
            net.peer.receive(&Header::default(), &frame, true, net.now);
        }
        floods += 1;
        net.step();
        assert!(net.now < Duration::from_secs(2), "no segment was repeated");
    }
    let metrics = net.peer.metrics();
    assert!(floods > 20 && metrics.under_pressure.get() == floods && metrics.unserved.get() == floods);
    assert_eq!(metrics.replies_dropped.get(), 0);
}

#[test]
fn only_links_that_can_work_are_made() {
    let good = config();
    let refused = |config: Config| Peer::new(config, Patterns::default()).err();
    assert!(refused(good).is_none());
    let mac = Config { mac: [1, 0, 0, 0, 0, 1], ..good };
    assert!(matches!(refused(mac), Some(ConfigError::Mac)));
    assert!(matches!(refused(Config { mac: [0; 6], ..good }), Some(ConfigError::Mac)));
    for (address, prefix) in [
        (Ipv4Addr::new(169, 254, 7, 0), 30),
        (Ipv4Addr::new(169, 254, 7, 3), 30),
        (Ipv4Addr::new(224, 0, 0, 1), 24),
        (PEER, 31),
        (PEER, 33),
        (PEER, 0),
    ] {
        let config = Config { address, prefix, ..good };
        assert!(matches!(refused(config), Some(ConfigError::Address(..))), "{address}/{prefix}");
    }
    assert!(matches!(refused(Config { port: 0, ..good }), Some(ConfigError::Port)));
    for connections in [0, 257] {
        assert!(matches!(refused(Config { connections, ..good }), Some(ConfigError::Connections(_))));
    }
    for mtu in [575, 9001] {
        assert!(matches!(refused(Config { mtu, ..good }), Some(ConfigError::Mtu(_))));
    }
}
