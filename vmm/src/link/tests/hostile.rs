//! A guest out of its mind: whatever it sends, the peer stands it, and serves an ordinary guest afterwards.

use std::time::Duration;

use proptest::prelude::*;
use smoltcp::wire::{TcpControl, TcpSeqNumber};

use super::frames::{arp, ethernet, on_the_wire, ping, segment, segment_of, tcp, udp};
use super::net::{Faults, Net, Ring};
use super::pattern::{Patterns, byte};
use super::{ALL_OFFLOADS, GUEST, NO_OFFLOADS, PEER, config};
use crate::link::{Header, Peer};

/// One thing that the guest does.
#[derive(Clone, Debug)]
enum Act {
    /// Any bytes.
    Bytes(Vec<u8>),
    /// A good frame with bytes changed, cut off or added.
    Broken { kind: u8, changes: Vec<(u16, u8)>, len: u16 },
    /// A segment of one of two connections; numbers are counted from what the peer expects.
    Segment { port: u16, control: u8, seq: i32, ack: Option<i32>, window: u16, options: u8, len: u16 },
    /// Time goes by, with so many buffers.
    Wait { millis: u16, buffers: u8 },
    /// The driver starts anew.
    Restart { offloads: bool },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let near = || {
        prop_oneof![
            6 => Just(0),
            3 => -3..3i32,
            2 => prop_oneof![Just(-65_536), Just(65_535), Just(131_070), Just(60_000), Just(1460)],
            2 => -70_000..140_000i32,
            1 => any::<i32>(),
        ]
    };
    let segment = (
        0..2u16,
        prop_oneof![4 => Just(0u8), 3 => Just(1u8), 3 => 0..5u8],
        near(),
        prop::option::weighted(0.9, near()),
        prop_oneof![3 => Just(60_000u16), 2 => 0..3u16, 1 => any::<u16>()],
        any::<u8>(),
        prop_oneof![3 => Just(0u16), 2 => 0..3000u16, 2 => 60_000..65_400u16],
    );
    let segment = segment.prop_map(|(port, control, seq, ack, window, options, len)| Act::Segment {
        port: port + 1,
        control,
        seq,
        ack,
        window,
        options,
        len,
    });
    let changes = prop::collection::vec((0..100u16, any::<u8>()), 0..4);
    let act = prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200).prop_map(Act::Bytes),
        2 => (0..5u8, changes, prop_oneof![Just(u16::MAX), 0..120u16])
            .prop_map(|(kind, changes, len)| Act::Broken { kind, changes, len }),
        12 => segment,
        3 => (prop_oneof![0..20u16, 0..20_000u16], prop_oneof![Just(0u8), Just(200u8), 0..4u8])
            .prop_map(|(millis, buffers)| Act::Wait { millis, buffers }),
        1 => any::<bool>().prop_map(|offloads| Act::Restart { offloads }),
    ];
    prop::collection::vec(act, 1..60)
}

/// The peer, and what it said last to each of two ports: its next sequence number, and what it expects.
struct Torment {
    peer: Peer<Patterns>,
    now: Duration,
    expects: [(TcpSeqNumber, TcpSeqNumber); 2],
}

impl Torment {
    fn send(&mut self, frame: &[u8], needs_csum: bool) {
        self.peer.receive(&Header { needs_csum, ..Header::default() }, frame, false, self.now);
    }

    fn poll(&mut self, buffers: usize) {
        let mut ring = Ring::of(buffers);
        self.peer.poll(self.now, &mut ring);
        assert!(ring.frames.len() <= 200, "bounded");
        for (header, frame) in ring.frames {
            for frame in on_the_wire(&header, &frame) {
                let Some(repr) = segment_of(&frame) else { continue };
                let Some(expects) = self.expects.get_mut(usize::from(repr.dst_port) - 1) else { continue };
                let Some(ack) = repr.ack_number else { continue };
                *expects = (repr.seq_number + repr.segment_len(), ack);
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Bytes(bytes) => self.send(&bytes, false),
            Act::Broken { kind, changes, len } => {
                let mut frame = match kind {
                    0 => arp(GUEST, PEER),
                    1 => ping(60),
                    2 => udp(),
                    3 => ethernet(smoltcp::wire::EthernetProtocol::Ipv4, &ping(30)[14..]),
                    _ => tcp(&segment(1, TcpControl::Syn, TcpSeqNumber(1), None, b"data")),
                };
                for (at, value) in changes {
                    if let Some(place) = frame.get_mut(usize::from(at)) {
                        *place = value;
                    }
                }
                frame.truncate(usize::from(len));
                self.send(&frame, true);
            }
            Act::Segment { port, control, seq, ack, window, options, len } => {
                let (their_next, ours) = self.expects[usize::from(port) - 1];
                let control =
                    [TcpControl::None, TcpControl::Syn, TcpControl::Fin, TcpControl::Rst, TcpControl::Psh]
                        [usize::from(control)];
                let payload: Vec<u8> = vec![7; usize::from(len)];
                let seq = TcpSeqNumber(ours.0.wrapping_add(seq));
                let ack = ack.map(|ack| TcpSeqNumber(their_next.0.wrapping_add(ack)));
                let ack = ack.filter(|_| control != TcpControl::Syn);
                let mut repr = segment(port, control, seq, ack, &payload);
                repr.window_len = window;
                if control == TcpControl::Syn {
                    repr.window_scale = (options & 1 != 0).then_some(options >> 4);
                    repr.max_seg_size = (options & 2 != 0).then_some(u16::from(options) * 8);
                    repr.sack_permitted = options & 4 != 0;
                }
                self.send(&tcp(&repr), false);
            }
            Act::Wait { millis, buffers } => {
                self.now += Duration::from_millis(u64::from(millis));
                self.poll(usize::from(buffers));
            }
            Act::Restart { offloads } => {
                self.peer.reset(if offloads { ALL_OFFLOADS } else { NO_OFFLOADS });
                self.send(&arp(GUEST, PEER), false);
            }
        }
        if !self.now.as_millis().is_multiple_of(3) {
            self.poll(200);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_is_survived(
        acts in acts(),
        gulp in prop_oneof![Just(0usize), Just(100), Just(1 << 20)],
    ) {
        let service = Patterns { gulp: Some(gulp), any: true, ..Patterns::default() };
        let peer = Peer::new(config(), service).expect("config");
        let zero = TcpSeqNumber(0);
        let mut torment = Torment { peer, now: Duration::from_secs(1), expects: [(zero, zero); 2] };
        torment.send(&arp(GUEST, PEER), false);
        let frames = acts.len() as u64;
        for act in acts {
            torment.act(act);
        }
        // It comes to rest: nothing is to be done at once for ever.
        torment.now += Duration::from_secs(1);
        for _ in 0..100 {
            torment.poll(10_000);
        }
        prop_assert_ne!(torment.peer.poll_at(torment.now), Some(torment.now));
        let metrics = torment.peer.metrics();
        prop_assert!(metrics.frames_in.get() <= 2 * frames + 1);

        torment.now += Duration::from_secs(61);
        torment.peer.reset(NO_OFFLOADS);
        let open = segment(9, TcpControl::Syn, TcpSeqNumber(1), None, &[]);
        torment.send(&arp(GUEST, PEER), false);
        torment.send(&tcp(&open), false);
        let mut ring = Ring::of(100);
        torment.peer.poll(torment.now, &mut ring);
        let said = ring.frames.iter().filter_map(|(_, frame)| segment_of(frame)).next_back();
        prop_assert_eq!(said.map(|repr| repr.control), Some(TcpControl::Syn), "an ordinary guest is served");
    }
}

#[test]
fn a_guest_that_sends_more_than_it_may_is_not_heard() {
    // A window of 65,535 bytes is offered in the SYN, which window scaling does not apply to. smoltcp forgets it where
    // the guest knows scaling: it must have room for as much as it hears.
    for (scale, heard) in [(Some(7), 4 * 65_535), (None, 65_535)] {
        let mut peer = Peer::new(config(), Patterns::default()).expect("config");
        peer.service().tally.stuck.set(true);
        let now = Duration::from_secs(1);
        let mut ring = Ring::of(100);
        let mut tell = |peer: &mut Peer<Patterns>, frame: &[u8]| {
            peer.receive(&Header::default(), frame, false, now);
            peer.poll(now, &mut ring);
        };
        tell(&mut peer, &arp(GUEST, PEER));
        let mut syn = segment(1, TcpControl::Syn, TcpSeqNumber(0), None, &[]);
        syn.window_scale = scale;
        tell(&mut peer, &tcp(&syn));
        let said = ring.frames.iter().filter_map(|(_, frame)| segment_of(frame)).next_back();
        let ack = Some(said.expect("SYN").seq_number + 1);
        let all: Vec<u8> = (0..300_000).map(byte).collect();
        for at in [0, 60_000, 120_000, 180_000, 240_000, 200_000] {
            let seq = TcpSeqNumber(1 + at as i32);
            let data = segment(1, TcpControl::None, seq, ack, &all[at..][..60_000]);
            peer.receive(&Header::default(), &tcp(&data), false, now);
        }
        peer.service().tally.stuck.set(false);
        peer.poll(now, &mut Ring::of(100));
        assert_eq!(peer.service().tally.received.get(), heard, "{scale:?}");
    }
}

#[test]
fn a_bad_guest_cannot_stop_a_good_one() {
    let mut net = Net::new(ALL_OFFLOADS, Faults::default(), 1);
    net.guest.start(1_000_000, 65_535);
    let mut rng = fastrand::Rng::with_seed(1);
    while !net.guest.is_done() {
        for _ in 0..20 {
            let port = rng.u16(1..30_000);
            let seq = TcpSeqNumber(rng.i32(..));
            let frame = match rng.u8(..3) {
                0 => tcp(&segment(port, TcpControl::Syn, seq, None, &[])),
                1 => tcp(&segment(port, TcpControl::None, seq, Some(seq), b"hello")),
                _ => ping(1000),
            };
            net.peer.receive(&Header::default(), &frame, false, net.now);
        }
        net.step();
        assert!(net.now < Duration::from_secs(30));
    }
}
