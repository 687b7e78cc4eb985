//! Work left to the other side, both ways; frames that go out in pieces.

use std::time::Duration;

use super::net::{Faults, Net, Ring};
use super::{ALL_OFFLOADS, MTU, NO_OFFLOADS};
use crate::devices::virtio::net::Gso;
use crate::link::{Header, Offloads};

/// A link on which a guest has sent 40,000 bytes, all of which are still to be answered.
fn loaded(offloads: Offloads) -> Net {
    let mut net = Net::new(offloads, Faults::default(), 2);
    net.peer.service().tally.stuck.set(true);
    net.guest.start(40_000, 65_535);
    net.run(Duration::from_millis(5));
    net.peer.service().tally.stuck.set(false);
    net
}

#[test]
fn without_offloads_headers_are_empty_and_frames_short() {
    let mut net = loaded(NO_OFFLOADS);
    let mut ring = Ring::of(256);
    net.peer.poll(net.now, &mut ring);
    assert!(ring.frames.len() >= 40_000 / 1460);
    for (header, frame) in &ring.frames {
        assert_eq!(*header, Header::default());
        assert!(frame.len() <= MTU + 14);
    }
}

#[test]
fn with_checksums_left_frames_stay_short() {
    let mut net = loaded(Offloads { guest_csum: true, ..NO_OFFLOADS });
    let mut ring = Ring::of(256);
    net.peer.poll(net.now, &mut ring);
    assert!(ring.frames.len() >= 40_000 / 1460);
    for (header, frame) in &ring.frames {
        let expected = Header { needs_csum: true, csum_start: 34, csum_offset: 16, ..Header::default() };
        assert_eq!(*header, expected);
        assert!(frame.len() <= MTU + 14);
    }
}

#[test]
fn large_segments_need_checksums_left_to_the_guest() {
    let mut net = loaded(Offloads { guest_tso4: true, ..NO_OFFLOADS });
    let mut ring = Ring::of(256);
    net.peer.poll(net.now, &mut ring);
    assert!(ring.frames.iter().all(|(header, frame)| header.gso == Gso::None && frame.len() <= MTU + 14));
}

#[test]
fn with_all_offloads_it_is_one_frame() {
    let mut net = loaded(ALL_OFFLOADS);
    let mut ring = Ring::of(256);
    net.peer.poll(net.now, &mut ring);
    let (header, frame) = ring.frames.first().expect("a frame");
    assert_eq!(frame.len(), 54 + 40_000);
    let expected = Header {
        needs_csum: true,
        gso: Gso::Tcp4,
        hdr_len: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
    };
    assert_eq!(*header, expected);
}

#[test]
fn what_finds_no_room_goes_out_in_pieces_of_whole_segments() {
    for buffers in 1..28 {
        let mut net = loaded(ALL_OFFLOADS);
        let mut ring = Ring::of(buffers);
        let mut payload = 0;
        let mut rounds = 0;
        while payload < 40_000 {
            ring.buffers = buffers;
            net.peer.poll(net.now, &mut ring);
            for (header, frame) in ring.frames.drain(..) {
                assert_eq!((header.gso == Gso::Tcp4), frame.len() > 54 + 1460);
                payload += frame.len() - 54;
                assert!(payload == 40_000 || (frame.len() - 54) % 1460 == 0);
                // The network's check, and the guest's programs look at every byte.
                net.guest.card.received.extend(super::frames::on_the_wire(&header, &frame));
            }
            rounds += 1;
            assert!(rounds <= 28, "each round brings a segment at least");
        }
        net.guest.poll(net.now);
        assert!(net.guest.is_done(), "{buffers} buffers");
    }
}
