//! A guest: smoltcp as the client, and programs that send the pattern and check what comes back.

use std::collections::VecDeque;
use std::time::Duration;

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::pattern::byte;
use super::{GUEST, GUEST_MAC, MTU, PEER, PORT};
use crate::link::Header;

pub(super) struct Guest {
    interface: Interface,
    pub(super) card: Card,
    sockets: SocketSet<'static>,
    pub(super) programs: Vec<Program>,
    next_port: u16,
}

/// The guest's network card.
pub(super) struct Card {
    pub(super) received: VecDeque<Vec<u8>>,
    pub(super) sent: Vec<(Header, Vec<u8>)>,
    /// Frames are sent without checksums, and longer than the MTU.
    offloads: bool,
}

/// Sends so many bytes, and wants as many back.
pub(super) struct Program {
    socket: SocketHandle,
    total: u64,
    sent: u64,
    received: u64,
    /// It takes what comes.
    pub(super) reads: bool,
    /// Buffer sizes, to open it anew.
    buffer: usize,
    /// Times that the connection had to be opened anew.
    pub(super) retries: u64,
}

impl Guest {
    pub(super) fn new(offloads: bool, seed: u64) -> Self {
        let mut card = Card { received: VecDeque::new(), sent: Vec::new(), offloads };
        let mut config = smoltcp::iface::Config::new(EthernetAddress(GUEST_MAC).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut card, Instant::ZERO);
        interface.update_ip_addrs(|all| all.push(IpCidr::new(IpAddress::Ipv4(GUEST), 30)).expect("room"));
        Self { interface, card, sockets: SocketSet::new(vec![]), programs: Vec::new(), next_port: 40_000 }
    }

    /// Starts a program with socket buffers of a size.
    pub(super) fn start(&mut self, total: u64, buffer: usize) {
        let socket = self
            .sockets
            .add(Socket::new(SocketBuffer::new(vec![0; buffer]), SocketBuffer::new(vec![0; buffer])));
        self.programs.push(Program { socket, total, sent: 0, received: 0, reads: true, buffer, retries: 0 });
        self.connect(self.programs.len() - 1);
    }

    /// A program opens its connection, from the start.
    fn connect(&mut self, index: usize) {
        let program = &mut self.programs[index];
        // A fresh one: what a socket was before must not matter.
        let buffers = [(); 2].map(|()| SocketBuffer::new(vec![0; program.buffer]));
        let [rx, tx] = buffers;
        self.sockets.remove(program.socket);
        let mut socket = Socket::new(rx, tx);
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.connect(self.interface.context(), (PEER, PORT), self.next_port).expect("connect");
        self.next_port = if self.next_port == 60_000 { 40_000 } else { self.next_port + 1 };
        program.socket = self.sockets.add(socket);
        (program.sent, program.received) = (0, 0);
    }

    /// A program's connection is reset and opened anew.
    pub(super) fn reset(&mut self, index: usize, now: Duration) {
        self.socket(index).abort();
        self.poll(now);
        self.programs[index].retries += 1;
        self.connect(index);
    }

    pub(super) fn socket(&mut self, index: usize) -> &mut Socket<'static> {
        self.sockets.get_mut(self.programs[index].socket)
    }

    /// All bytes went there and came back, but to those that do not read.
    pub(super) fn is_done(&self) -> bool {
        self.programs.iter().all(|program| program.received == program.total || !program.reads)
    }

    /// Takes frames, lets programs work, makes frames.
    pub(super) fn poll(&mut self, now: Duration) {
        let now = Instant::from_micros(now.as_micros() as i64);
        self.interface.poll(now, &mut self.card, &mut self.sockets);
        for index in 0..self.programs.len() {
            self.work(index);
        }
        self.interface.poll(now, &mut self.card, &mut self.sockets);
    }

    pub(super) fn poll_at(&mut self, now: Duration) -> Option<Duration> {
        let at = self.interface.poll_at(Instant::from_micros(now.as_micros() as i64), &self.sockets)?;
        Some(Duration::from_micros(at.total_micros() as u64).max(now))
    }

    fn work(&mut self, index: usize) {
        let program = &mut self.programs[index];
        let socket = self.sockets.get_mut::<Socket>(program.socket);
        while socket.can_send() && program.sent < program.total {
            let sent = socket.send(|room| {
                let len = (room.len() as u64).min(program.total - program.sent) as usize;
                for (place, position) in room[..len].iter_mut().zip(program.sent..) {
                    *place = byte(position);
                }
                (len, len)
            });
            program.sent += sent.expect("open") as u64;
        }
        while socket.can_recv() && program.reads {
            let received = socket.recv(|bytes| {
                for (&got, position) in bytes.iter().zip(program.received..) {
                    assert_eq!(got, !byte(position), "at {position}");
                }
                (bytes.len(), bytes.len())
            });
            program.received += received.expect("open") as u64;
        }
        let done = program.received == program.total;
        if done && socket.state() == State::Established {
            socket.close();
        }
        if !done && socket.state() == State::Closed {
            program.retries += 1;
            self.connect(index);
        }
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sent<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sent(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        Some(Sent(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = MTU + 14;
        if self.offloads {
            caps.checksum.tcp = Checksum::Rx;
            caps.segmentation.tcpv4 = std::num::NonZeroUsize::new(65_535);
        }
        caps
    }
}

pub(super) struct Received(Vec<u8>);

pub(super) struct Sent<'a>(&'a mut Card);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        // What Linux says: no sum in it yet.
        let header = Header { needs_csum: self.0.offloads, ..Header::default() };
        self.0.sent.push((header, frame));
        result
    }
}
