//! The link between guest and peer: time, delay, and all that can go wrong.

use std::time::Duration;

use super::frames::on_the_wire;
use super::guest::{Guest, Talk};
use super::pattern::{Echo, Patterns};
use super::{ALL_OFFLOADS, config};
use crate::devices::virtio::net::HEADER;
use crate::link::{Config, Header, Offloads, Peer, Service, Transmit};

/// How bad the link is. Chances are of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) loss: u32,
    pub(super) duplicate: u32,
    /// Chance that a frame comes late, after others.
    pub(super) late: u32,
    /// The guest has seldom more than a few receive buffers.
    pub(super) scarce: bool,
}

pub(super) struct Net<S: Service = Patterns, T = Echo> {
    pub(super) peer: Peer<S>,
    pub(super) guest: Guest<T>,
    pub(super) now: Duration,
    pub(super) faults: Faults,
    rng: fastrand::Rng,
    /// Frames under way, with the time of arrival.
    to_peer: Vec<(Duration, Header, Vec<u8>)>,
    to_guest: Vec<(Duration, Vec<u8>)>,
    pub(super) ring: Ring,
}

/// The guest's receive buffers, and what was put into them.
pub(super) struct Ring {
    /// Free buffers, 1526 bytes each, as Linux has them with `VIRTIO_NET_F_MRG_RXBUF`.
    pub(super) buffers: usize,
    /// A frame may take several.
    pub(super) merged: bool,
    pub(super) frames: Vec<(Header, Vec<u8>)>,
}

impl Transmit for Ring {
    fn has_room(&mut self, len: usize) -> bool {
        let buffers = (len + HEADER).div_ceil(1526);
        buffers <= self.buffers && (buffers == 1 || self.merged)
    }

    fn transmit(&mut self, header: &Header, frame: &[u8]) {
        assert!(self.has_room(frame.len()), "there was no room");
        self.buffers -= (frame.len() + HEADER).div_ceil(1526);
        self.frames.push((*header, frame.to_vec()));
    }
}

impl Ring {
    pub(super) fn of(buffers: usize) -> Self {
        Self { buffers, merged: true, frames: Vec::new() }
    }
}

impl Net {
    pub(super) fn new(offloads: Offloads, faults: Faults, seed: u64) -> Self {
        Self::with(Config { seed, ..config() }, Patterns::default(), offloads, faults)
    }

    pub(super) fn with(config: Config, service: Patterns, offloads: Offloads, faults: Faults) -> Self {
        Self::between(config, service, offloads, faults)
    }
}

impl<S: Service, T: Talk> Net<S, T> {
    pub(super) fn between(config: Config, service: S, offloads: Offloads, faults: Faults) -> Self {
        let mut peer = Peer::new(config, service).expect("config");
        peer.reset(offloads);
        Self {
            peer,
            guest: Guest::new(offloads == ALL_OFFLOADS, config.seed + 1),
            now: Duration::from_secs(1),
            faults,
            rng: fastrand::Rng::with_seed(config.seed),
            to_peer: Vec::new(),
            to_guest: Vec::new(),
            ring: Ring::of(0),
        }
    }

    /// The guest is gone, and another one starts; the device knows of it or not.
    pub(super) fn reboot(&mut self, device_reset: Option<Offloads>) {
        let seed = self.rng.u64(..);
        let offloads = device_reset.is_some_and(|offloads| offloads == ALL_OFFLOADS);
        self.guest = Guest::new(offloads, seed);
        self.to_peer.clear();
        self.to_guest.clear();
        if let Some(offloads) = device_reset {
            self.peer.reset(offloads);
        }
    }

    /// Goes on until all programs are done.
    pub(super) fn finish(&mut self, limit: Duration) {
        let end = self.now + limit;
        while !self.guest.is_done() {
            assert!(self.now < end, "not done after {limit:?}: {:?}", self.peer.metrics());
            self.step();
        }
    }

    /// Goes on for a time.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Lets both sides work, then goes to the next moment at which there is something to do.
    pub(super) fn step(&mut self) {
        self.guest.poll(self.now);
        for (header, frame) in std::mem::take(&mut self.guest.card.sent) {
            for at in self.arrivals() {
                self.to_peer.push((at, header, frame.clone()));
            }
        }
        self.ring.buffers = match self.faults.scarce {
            true => self.rng.usize(..4),
            false => 256,
        };
        self.peer.poll(self.now, &mut self.ring);
        for (header, frame) in std::mem::take(&mut self.ring.frames) {
            for frame in on_the_wire(&header, &frame) {
                for at in self.arrivals() {
                    self.to_guest.push((at, frame.clone()));
                }
            }
        }
        self.wait();
        self.deliver();
    }

    /// Sets the clock to the next event, 10 ms from now at the latest: buffers may be there again.
    fn wait(&mut self) {
        let next = [
            self.to_peer.iter().map(|frame| frame.0).min(),
            self.to_guest.iter().map(|frame| frame.0).min(),
            self.peer.poll_at(self.now),
            self.guest.poll_at(self.now),
            Some(self.now + Duration::from_millis(10)),
        ];
        // At least a microsecond: who wants to be called at once is called, but time goes on.
        let next = next.into_iter().flatten().min().expect("one");
        self.now = next.max(self.now + Duration::from_micros(1));
    }

    fn deliver(&mut self) {
        let now = self.now;
        self.to_peer.sort_by_key(|frame| frame.0);
        self.to_guest.sort_by_key(|frame| frame.0);
        let count = self.to_peer.partition_point(|frame| frame.0 <= now);
        for (_, header, frame) in self.to_peer.drain(..count) {
            self.peer.receive(&header, &frame, false, now);
        }
        let count = self.to_guest.partition_point(|frame| frame.0 <= now);
        self.guest.card.received.extend(self.to_guest.drain(..count).map(|frame| frame.1));
    }

    /// When a frame arrives: never, once or twice.
    fn arrivals(&mut self) -> Vec<Duration> {
        let mut chance = |of| self.rng.u32(..1000) < of;
        let copies = match (chance(self.faults.loss), chance(self.faults.duplicate)) {
            (true, _) => 0,
            (_, true) => 2,
            _ => 1,
        };
        let late = chance(self.faults.late);
        let mut arrivals = Vec::new();
        for _ in 0..copies {
            let delay = if late { self.rng.u64(20..2000) } else { 20 };
            arrivals.push(self.now + Duration::from_micros(delay));
        }
        arrivals
    }
}
