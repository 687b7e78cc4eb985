//! Frames that a guest sends take no memory: counted at the allocator.

use std::time::Duration;

use super::frames::{arp, on_the_wire, ping, udp};
use super::guest::Guest;
use super::{ALL_OFFLOADS, GUEST, NO_OFFLOADS, PEER, config};
use crate::allocations::allocations;
use crate::link::{Header, Peer, Service, Stream, Transmit};

/// Answers with the complement of what came, without taking memory.
struct Echo([u8; 4096], usize);

struct Echoes;

impl Service for Echoes {
    type Stream = Echo;
    fn connect(&mut self) -> Option<Echo> {
        Some(Echo([0; 4096], 0))
    }
}

impl Stream for Echo {
    fn receive(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.0.len() - self.1);
        for (place, byte) in self.0[self.1..].iter_mut().zip(&bytes[..len]) {
            *place = !byte;
        }
        self.1 += len;
        len
    }
    fn send(&mut self, out: &mut [u8]) -> usize {
        let len = self.1.min(out.len());
        out[..len].copy_from_slice(&self.0[..len]);
        self.0.copy_within(len..self.1, 0);
        self.1 -= len;
        len
    }
    fn is_over(&self) -> bool {
        false
    }
}

/// Room for frames, taken before.
struct Shelf {
    bytes: Vec<u8>,
    frames: Vec<(Header, usize)>,
}

impl Transmit for Shelf {
    fn has_room(&mut self, len: usize) -> bool {
        self.bytes.len() + len <= self.bytes.capacity() && self.frames.len() < self.frames.capacity()
    }
    fn transmit(&mut self, header: &Header, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.frames.push((*header, frame.len()));
    }
}

#[test]
fn nothing_is_allocated_after_the_start() {
    let mut peer = Peer::new(config(), Echoes).expect("config");
    let mut shelf = Shelf { bytes: Vec::with_capacity(300_000), frames: Vec::with_capacity(500) };
    let mut count = 0;
    let mut now = Duration::from_secs(1);
    for offloads in [NO_OFFLOADS, ALL_OFFLOADS] {
        count += allocations(|| peer.reset(offloads));
        let mut guest = Guest::new(offloads == ALL_OFFLOADS, 1);
        // More than there are places: some are refused and come again.
        for _ in 0..6 {
            guest.start(100_000, 65_535);
        }
        while !guest.is_done() {
            assert!(now < Duration::from_secs(60));
            guest.poll(now);
            let mut sent = std::mem::take(&mut guest.card.sent);
            sent.extend([ping(100), udp(), arp(GUEST, PEER), vec![1; 77]].map(|f| (Header::default(), f)));
            for (header, frame) in sent {
                count += allocations(|| peer.receive(&header, &frame, false, now));
            }
            count += allocations(|| peer.poll(now, &mut shelf));
            count += allocations(|| {
                peer.poll_at(now);
            });
            let mut rest = &shelf.bytes[..];
            for (header, len) in shelf.frames.drain(..) {
                let (frame, more) = rest.split_at(len);
                guest.card.received.extend(on_the_wire(&header, frame));
                rest = more;
            }
            shelf.bytes.clear();
            now += Duration::from_micros(100);
        }
    }
    assert_eq!(count, 0);
    assert_ne!(allocations(|| drop(vec![1_u8])), 0, "it does count");
}
