//! The peer: takes frames, lets connections have their turns, hands out frames.

use std::sync::Arc;
use std::time::Duration;

use smoltcp::iface::{Interface, SocketSet};
use smoltcp::phy::Device;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpEndpoint};

use super::config::{Config, ConfigError, Offloads};
use super::connection::Connection;
use super::device::{Egress, Ingress, Offered};
use super::filter::{ETHERNET, Filter, Kind, Refusal};
use super::outgoing::Outgoing;
use super::replies::Replies;
use super::{Header, LinkMetrics, Service, Transmit};

/// Frames that connections may send in one call of `poll`: up to 4 MiB with offloads, about a millisecond.
const TURNS: usize = 64;

/// Room for a frame of Ethernet's own MTU is enough to have one made, since a guest that knows no larger one has said so
/// by its MSS. One that turns out longer waits until there is room for it.
const ROOM: usize = 1500 + ETHERNET;

/// A TCP/IP peer that answers on one address and port.
pub struct Peer<S: Service> {
    config: Config,
    service: S,
    metrics: Arc<LinkMetrics>,
    filter: Filter,
    offered: Offered,
    interface: Interface,
    seeds: fastrand::Rng,
    connections: Vec<Connection<S::Stream>>,
    /// No sockets: smoltcp answers what comes here with a reset.
    nobody: SocketSet<'static>,
    outgoing: Outgoing,
    replies: Replies,
    /// Whose turn it is.
    turn: usize,
    rest: Rest,
}

/// Why `poll` stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// There was nothing to do.
    Idle,
    /// It did enough for once.
    Unfinished,
    /// The guest has no room.
    Blocked,
}

/// What came of a connection's turn.
enum Turn {
    Idle,
    Sent,
    NoRoom,
}

impl<S: Service> Peer<S> {
    /// A peer to whom no offloads were acknowledged yet. Takes all the memory it will ever need.
    ///
    /// # Errors
    /// If the configuration is not valid.
    pub fn new(config: Config, service: S) -> Result<Self, ConfigError> {
        config.validate()?;
        let offered = Offered::new(&config, Offloads::default());
        let mut seeds = fastrand::Rng::with_seed(config.seed);
        Ok(Self {
            interface: interface(&config, seeds.u64(..), &mut offered.clone()),
            service,
            metrics: Arc::default(),
            filter: Filter::new(&config),
            seeds,
            connections: (0..config.connections).map(|_| Connection::new(config.port)).collect(),
            nobody: SocketSet::new(Vec::new()),
            outgoing: Outgoing::new(),
            replies: Replies::new(offered.longest_frame()),
            turn: 0,
            rest: Rest::Idle,
            offered,
            config,
        })
    }

    /// What it did so far.
    #[must_use]
    pub fn metrics(&self) -> &Arc<LinkMetrics> {
        &self.metrics
    }

    /// The service behind the port.
    pub fn service(&mut self) -> &mut S {
        &mut self.service
    }

    /// The guest's driver starts anew, with the offloads that it acknowledged: all connections are gone,
    /// without a word. So a guest that was rebooted finds every place free.
    pub fn reset(&mut self, offloads: Offloads) {
        self.filter.csum = offloads.csum;
        self.offered = Offered::new(&self.config, offloads);
        self.interface = interface(&self.config, self.seeds.u64(..), &mut self.offered);
        for connection in &mut self.connections {
            if connection.recycle() {
                self.metrics.reset.inc();
            }
        }
        self.outgoing.clear();
        self.replies.clear();
        self.rest = Rest::Idle;
    }

    /// Takes a frame from the guest as it came from the queue, behind its virtio-net header: possibly without
    /// a TCP checksum, and longer than the MTU. `under_pressure` says that memory is short: then only what
    /// swap needs is looked at. `now` is the time since any moment, and does not go back.
    ///
    /// After one or more frames, [`Self::poll`] is to be called.
    pub fn receive(&mut self, header: &Header, frame: &[u8], under_pressure: bool, now: Duration) {
        self.metrics.frames_in.inc();
        self.metrics.bytes_in.add(frame.len() as u64);
        let kind = match self.filter.classify(header, frame) {
            Ok(kind) => kind,
            Err(refusal) => return self.count(refusal),
        };
        let place = match kind {
            Kind::Arp => None,
            Kind::Spare if under_pressure => return self.metrics.under_pressure.inc(),
            Kind::Spare if !self.replies.has_spare() => return self.metrics.unfetched.inc(),
            Kind::Spare => None,
            Kind::Swap { from, opens } => self.place(from, opens, now),
        };
        let connection = place.and_then(|place| self.connections.get_mut(place));
        let mut device = Ingress {
            frame: Some(frame),
            replies: &mut self.replies,
            offered: &self.offered,
            metrics: &self.metrics,
        };
        match connection {
            None => {
                self.interface.poll_ingress_single(instant(now), &mut device, &mut self.nobody);
            }
            Some(connection) => {
                self.interface.poll_ingress_single(instant(now), &mut device, &mut connection.sockets);
                connection.hear(now);
                connection.serve(&mut self.service, &self.metrics);
            }
        }
    }

    /// Hands out what is to be sent, as far as there is room, one frame of each connection in turn. To be
    /// called after frames came, when the guest has made room, when a stream can go on, and at
    /// [`Self::poll_at`].
    pub fn poll(&mut self, now: Duration, out: &mut impl Transmit) {
        let mut idle = 0;
        let mut turns = 0;
        self.rest = loop {
            if !self.flush(out) {
                self.metrics.no_room.inc();
                break Rest::Blocked;
            }
            if idle == self.connections.len() {
                break Rest::Idle;
            }
            if turns == TURNS {
                break Rest::Unfinished;
            }
            match self.next(now, out) {
                Turn::Sent => (idle, turns) = (0, turns + 1),
                Turn::Idle => idle += 1,
                Turn::NoRoom => {
                    self.metrics.no_room.inc();
                    break Rest::Blocked;
                }
            }
        };
    }

    /// When [`Self::poll`] is to be called again if nothing happens before. `None`: not before something
    /// does, which may be that the guest makes room.
    pub fn poll_at(&mut self, now: Duration) -> Option<Duration> {
        if self.rest == Rest::Blocked {
            return None;
        }
        if self.rest == Rest::Unfinished || !self.replies.is_empty() {
            return Some(now);
        }
        let interface = &mut self.interface;
        let taken = self.connections.iter().filter(|connection| !connection.is_listening());
        let times = taken.filter_map(|c| interface.poll_at(instant(now), &c.sockets));
        times.min().map(|at| Duration::from_micros(at.total_micros().max(0).unsigned_abs()).max(now))
    }

    /// Hands out what is made already; says whether all of it is gone.
    fn flush(&mut self, out: &mut impl Transmit) -> bool {
        let checksums = self.offered.checksums();
        self.outgoing.flush(out, checksums, &self.metrics)
            && self.replies.flush(out, checksums, &self.metrics)
    }

    /// One connection's turn. Who finds no room has the next turn again.
    fn next(&mut self, now: Duration, out: &mut impl Transmit) -> Turn {
        let Some(connection) = self.connections.get_mut(self.turn) else { return Turn::Idle };
        if connection.is_listening() {
            self.turn = (self.turn + 1) % self.config.connections;
            return Turn::Idle;
        }
        connection.serve(&mut self.service, &self.metrics);
        // Asked beforehand, because smoltcp must not be refused (see `Egress`).
        if !out.has_room(self.offered.longest_frame().min(ROOM)) {
            let at = self.interface.poll_at(instant(now), &connection.sockets);
            if at.is_some_and(|at| at <= instant(now)) {
                return Turn::NoRoom;
            }
        } else {
            let mut device = Egress { outgoing: &mut self.outgoing, offered: &self.offered };
            self.interface.poll_egress(instant(now), &mut device, &mut connection.sockets);
        }
        self.turn = (self.turn + 1) % self.config.connections;
        if self.outgoing.is_empty() { Turn::Idle } else { Turn::Sent }
    }

    /// The place of the connection with `from`, or one for it if it asks for one.
    fn place(&mut self, from: IpEndpoint, opens: bool, now: Duration) -> Option<usize> {
        if let Some(place) = self.connections.iter().position(|connection| connection.is_with(from)) {
            return Some(place);
        }
        if !opens {
            return None;
        }
        let ready = |(place, connection): (usize, &Connection<_>)| Some((connection.readiness(now)?, place));
        let Some((_, place)) = self.connections.iter().enumerate().filter_map(ready).min() else {
            self.metrics.refused.inc();
            return None;
        };
        if self.connections.get_mut(place).is_some_and(Connection::recycle) {
            self.metrics.evicted.inc();
        }
        Some(place)
    }

    fn count(&self, refusal: Refusal) {
        let metrics = &self.metrics;
        let count = match refusal {
            Refusal::Malformed => &metrics.malformed,
            Refusal::BadChecksum => &metrics.bad_checksums,
            Refusal::NotForUs => &metrics.not_for_us,
            Refusal::Unserved => &metrics.unserved,
        };
        count.inc();
    }
}

/// smoltcp's half of the peer. The configuration must be valid.
fn interface(config: &Config, seed: u64, device: &mut impl Device) -> Interface {
    let mut hardware = smoltcp::iface::Config::new(EthernetAddress(config.mac).into());
    hardware.random_seed = seed;
    let mut interface = Interface::new(hardware, device, Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        // There is room for one: it is the first.
        let added = addresses.push(config.cidr().into());
        debug_assert!(added.is_ok());
    });
    interface
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}
