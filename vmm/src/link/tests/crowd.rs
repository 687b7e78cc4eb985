//! More connections than there are places.

use std::collections::BTreeMap;
use std::time::Duration;

use smoltcp::wire::{TcpControl, TcpSeqNumber};

use super::frames::{arp, segment, segment_of, tcp};
use super::net::{Faults, Net, Ring};
use super::pattern::Patterns;
use super::{ALL_OFFLOADS, GUEST, NO_OFFLOADS, PEER, config};
use crate::link::{Config, Header, Peer};

/// A guest by hand: it sends segments and remembers what was answered, by port.
struct Bare {
    peer: Peer<Patterns>,
    now: Duration,
    said: BTreeMap<u16, (TcpControl, TcpSeqNumber)>,
}

impl Bare {
    fn new() -> Self {
        let peer = Peer::new(config(), Patterns::default()).expect("config");
        let mut bare = Self { peer, now: Duration::from_secs(100), said: BTreeMap::new() };
        bare.send(&arp(GUEST, PEER));
        bare
    }

    fn send(&mut self, frame: &[u8]) {
        self.peer.receive(&Header::default(), frame, false, self.now);
        self.poll();
    }

    fn poll(&mut self) {
        let mut ring = Ring::of(64);
        self.peer.poll(self.now, &mut ring);
        for (_, frame) in ring.frames {
            if let Some(repr) = segment_of(&frame) {
                self.said.insert(repr.dst_port, (repr.control, repr.seq_number));
            }
        }
    }

    /// Asks for a connection; says whether it gets one.
    fn syn(&mut self, port: u16) -> bool {
        self.send(&tcp(&segment(port, TcpControl::Syn, TcpSeqNumber(9), None, &[])));
        self.said[&port].0 == TcpControl::Syn
    }

    /// A connection with both hands shaken.
    fn open(&mut self, port: u16) -> bool {
        self.syn(port) && {
            let ack = self.said[&port].1 + 1;
            self.send(&tcp(&segment(port, TcpControl::None, TcpSeqNumber(10), Some(ack), &[])));
            true
        }
    }

    fn count(&self, count: impl Fn(&crate::link::LinkMetrics) -> &crate::devices::virtio::Counter) -> u64 {
        count(self.peer.metrics()).get()
    }
}

#[test]
fn ten_thousand_attempts_get_four_places() {
    let mut bare = Bare::new();
    let open = (1..=10_000).filter(|&port| bare.open(port)).count();
    assert_eq!(open, 4);
    assert_eq!(bare.count(|metrics| &metrics.opened), 4);
    assert_eq!(bare.count(|metrics| &metrics.refused), 9_996);
    assert_eq!(bare.said.values().filter(|said| said.0 == TcpControl::Rst).count(), 9_996);
}

#[test]
fn ten_thousand_connections_one_after_another() {
    let mut bare = Bare::new();
    for port in 1..=10_000 {
        assert!(bare.open(port));
        let ack = bare.said[&port].1 + 1;
        let control = if port % 2 == 0 { TcpControl::Rst } else { TcpControl::Fin };
        bare.send(&tcp(&segment(port, control, TcpSeqNumber(10), Some(ack), &[])));
        // Acknowledges the FIN, where there was one.
        bare.send(&tcp(&segment(port, TcpControl::None, TcpSeqNumber(11), Some(ack + 1), &[])));
    }
    assert_eq!(bare.count(|metrics| &metrics.opened), 10_000);
    assert_eq!(bare.count(|metrics| &metrics.closed), 5_000);
    assert_eq!(bare.count(|metrics| &metrics.reset), 5_000);
    assert_eq!(bare.peer.service().tally.dropped.get(), 10_000);
}

#[test]
fn half_open_connections_give_way_after_a_second() {
    let mut bare = Bare::new();
    assert!((1..=4).all(|port| bare.syn(port)));
    assert!(!bare.open(5), "they may still come");
    bare.now += Duration::from_secs(1);
    assert!((6..=9).all(|port| bare.open(port)));
    assert!(!bare.open(10), "and these have come");
    bare.now += Duration::from_secs(59);
    assert!(!bare.open(11), "and may be slow");
    assert_eq!(bare.count(|metrics| &metrics.evicted), 0, "no stream was lost");
}

#[test]
fn a_silent_connection_is_asked_and_gives_way_after_a_minute() {
    let mut bare = Bare::new();
    assert!((1..=4).all(|port| bare.open(port)));
    // Port 1 answers to what it is asked.
    for _ in 0..4 {
        bare.now += Duration::from_secs(15);
        bare.said.clear();
        bare.poll();
        assert_eq!(bare.said.len(), 4, "each is asked");
        let ack = bare.said[&1].1 + 1;
        bare.send(&tcp(&segment(1, TcpControl::None, TcpSeqNumber(10), Some(ack), &[])));
    }
    assert!((5..=7).all(|port| bare.open(port)));
    assert_eq!(bare.count(|metrics| &metrics.evicted), 3);
    assert!(!bare.open(8), "port 1 was not silent, the others are new");
    assert_eq!(bare.peer.service().tally.dropped.get(), 3);
}

#[test]
fn silence_alone_ends_nothing() {
    let mut bare = Bare::new();
    assert!(bare.open(1));
    for _ in 0..1000 {
        bare.now += Duration::from_secs(20);
        bare.poll();
    }
    assert_eq!(bare.peer.service().tally.dropped.get(), 0);
}

#[test]
fn a_guest_that_never_closes_its_half_gives_way() {
    let mut bare = Bare::new();
    bare.peer.service().limit = Some(0);
    for port in 1..=4 {
        assert!(bare.open(port));
        let (control, seq) = bare.said[&port];
        assert_eq!(control, TcpControl::Fin, "all was said at once");
        bare.send(&tcp(&segment(port, TcpControl::None, TcpSeqNumber(10), Some(seq + 1), b"and on and on")));
    }
    assert!(!bare.open(5));
    bare.now += Duration::from_secs(1);
    assert!(bare.open(6));
}

#[test]
fn a_service_that_does_not_want_resets() {
    let mut bare = Bare::new();
    bare.peer.service().closed = true;
    for port in 1..=20 {
        assert!(bare.open(port), "the handshake comes first");
        assert_eq!(bare.said[&port].0, TcpControl::Rst);
    }
    assert_eq!(bare.count(|metrics| &metrics.refused), 20);
}

#[test]
fn all_places_serve_at_once() {
    let config = Config { connections: 16, ..config() };
    for offloads in [NO_OFFLOADS, ALL_OFFLOADS] {
        let faults = Faults { scarce: true, ..Faults::default() };
        let mut net = Net::with(config, Patterns::default(), offloads, faults);
        for _ in 0..16 {
            net.guest.start(100_000, 65_535);
        }
        net.finish(Duration::from_secs(100));
        assert_eq!(net.peer.metrics().refused.get(), 0);
    }
}

#[test]
fn a_connection_that_is_over_ends_when_all_has_arrived() {
    let service = Patterns { limit: Some(150_000), ..Patterns::default() };
    let faults = Faults { loss: 20, late: 50, ..Faults::default() };
    let mut net = Net::with(config(), service, ALL_OFFLOADS, faults);
    net.guest.start(150_000, 65_535);
    net.finish(Duration::from_secs(1000));
    assert_eq!(net.peer.metrics().closed.get(), 1);
    assert_eq!(net.peer.service().tally.dropped.get(), 1);
}

#[test]
fn a_guest_that_has_closed_its_half_is_answered() {
    let mut net = Net::new(ALL_OFFLOADS, Faults::default(), 1);
    net.peer.service().tally.silent.set(true);
    net.guest.start(10_000, 65_535);
    net.run(Duration::from_millis(100));
    assert_eq!(net.peer.service().tally.received.get(), 10_000);
    net.guest.socket(0).close();
    net.run(Duration::from_secs(30));
    assert_eq!(net.peer.metrics().closed.get(), 0);
    net.peer.service().tally.silent.set(false);
    net.finish(Duration::from_secs(1));
    assert_eq!(net.guest.programs[0].retries, 0);
    assert_eq!(net.peer.metrics().closed.get(), 1);
}

#[test]
fn who_has_closed_its_half_and_waits_gives_way() {
    let mut net = Net::new(ALL_OFFLOADS, Faults::default(), 1);
    net.peer.service().tally.silent.set(true);
    (0..4).for_each(|_| net.guest.start(1_000, 65_535));
    net.run(Duration::from_millis(100));
    (0..4).for_each(|program| net.guest.socket(program).close());
    net.run(Duration::from_secs(2));
    assert_eq!(net.peer.service().tally.opened.get(), 4);
    net.guest.start(1_000, 65_535);
    net.run(Duration::from_secs(2));
    assert!(net.peer.service().tally.opened.get() > 4);
    net.peer.service().tally.silent.set(false);
    // Whose place was taken waits for ever.
    net.guest.programs[..4].iter_mut().for_each(|program| program.reads = false);
    net.finish(Duration::from_secs(10));
}
