//! A guest that takes nothing, takes little, or does not want what it asked for; and who goes first.

use std::time::Duration;

use super::frames::ping;
use super::net::{Faults, Net, Ring};
use super::pattern::Patterns;
use super::{ALL_OFFLOADS, NO_OFFLOADS, config};
use crate::link::{Config, Header, Peer};

#[test]
fn without_room_nothing_is_made_and_nobody_is_called() {
    let mut net = Net::new(ALL_OFFLOADS, Faults::default(), 1);
    net.peer.service().tally.stuck.set(true);
    net.guest.start(1_000_000, 65_535);
    net.run(Duration::from_millis(5));
    net.peer.service().tally.stuck.set(false);
    let out = net.peer.metrics().frames_out.get();
    for _ in 0..100 {
        net.peer.poll(net.now, &mut Ring::of(0));
        assert_eq!(net.peer.poll_at(net.now), None, "only buffers help");
    }
    assert_eq!(net.peer.metrics().frames_out.get(), out);
    let start = net.now;
    net.finish(Duration::from_secs(1));
    assert!(net.now - start < Duration::from_millis(900), "nothing was lost meanwhile");
}

#[test]
fn a_guest_that_knows_no_larger_frames_is_served() {
    // The card's MTU is an offer: a driver may go without it, and without merged buffers.
    let config = Config { mtu: 9000, ..config() };
    let mut net = Net::with(config, Patterns::default(), NO_OFFLOADS, Faults::default());
    net.ring.merged = false;
    net.guest.start(1_000_000, 65_535);
    net.finish(Duration::from_secs(1));
}

#[test]
fn answers_that_are_not_fetched_do_not_pile_up_nor_stop_swap() {
    let mut net = Net::new(NO_OFFLOADS, Faults::default(), 1);
    let arp = super::frames::arp(super::GUEST, super::PEER);
    for _ in 0..10 {
        net.peer.receive(&Header::default(), &arp, false, net.now);
    }
    for _ in 0..1000 {
        net.peer.receive(&Header::default(), &ping(1000), false, net.now);
    }
    assert_eq!(net.peer.metrics().unfetched.get(), 1000 - 6);
    for _ in 0..100 {
        net.peer.receive(&Header::default(), &arp, false, net.now);
    }
    assert_eq!(net.peer.metrics().replies_dropped.get(), 100 - 16);
    net.guest.start(100_000, 65_535);
    net.finish(Duration::from_secs(5));
}

#[test]
fn a_guest_that_does_not_read_holds_up_nobody_else() {
    let mut net = Net::new(ALL_OFFLOADS, Faults::default(), 1);
    net.guest.start(1_000_000, 65_535);
    net.guest.programs[0].reads = false;
    net.run(Duration::from_millis(5));
    net.guest.start(3_000_000, 65_535);
    let start = net.now;
    net.finish(Duration::from_secs(5));
    assert!(net.now - start < Duration::from_secs(1));
}

#[test]
fn a_stream_that_takes_nothing_closes_the_window_of_its_connection() {
    let mut net = Net::new(NO_OFFLOADS, Faults::default(), 1);
    net.peer.service().tally.stuck.set(true);
    net.guest.start(200_000, 65_535);
    net.run(Duration::from_secs(30));
    assert_eq!(net.peer.service().tally.received.get(), 0);
    net.peer.service().tally.stuck.set(false);
    net.finish(Duration::from_secs(60));
}

#[test]
fn connections_take_turns() {
    let mut net = Net::new(NO_OFFLOADS, Faults::default(), 1);
    net.peer.service().tally.stuck.set(true);
    for _ in 0..4 {
        net.guest.start(60_000, 65_535);
    }
    net.run(Duration::from_millis(50));
    net.peer.service().tally.stuck.set(false);
    let mut sent = std::collections::BTreeMap::new();
    for _ in 0..40 {
        // One buffer at a time: no connection may have more than its share.
        let mut ring = Ring::of(1);
        net.peer.poll(net.now, &mut ring);
        for (_, frame) in ring.frames {
            let port = super::frames::segment_of(&frame).expect("a segment").dst_port;
            *sent.entry(port).or_insert(0) += 1;
        }
    }
    assert_eq!(sent.len(), 4);
    assert!(sent.values().all(|&count| (9..=11).contains(&count)), "{sent:?}");
}

#[test]
fn one_call_does_no_more_than_it_should() {
    let mut net = Net::with(
        Config { connections: 16, ..config() },
        Patterns::default(),
        NO_OFFLOADS,
        Faults::default(),
    );
    net.peer.service().tally.stuck.set(true);
    for _ in 0..16 {
        net.guest.start(60_000, 65_535);
    }
    net.run(Duration::from_millis(50));
    net.peer.service().tally.stuck.set(false);
    let mut ring = Ring::of(1000);
    net.peer.poll(net.now, &mut ring);
    assert_eq!(ring.frames.len(), 64);
    assert_eq!(net.peer.poll_at(net.now), Some(net.now), "there is more");
}

#[test]
fn who_is_at_rest_is_not_called() {
    let mut peer = Peer::new(config(), Patterns::default()).expect("config");
    assert_eq!(peer.poll_at(Duration::ZERO), None);
    peer.poll(Duration::ZERO, &mut Ring::of(9));
    assert_eq!(peer.poll_at(Duration::ZERO), None);
}
