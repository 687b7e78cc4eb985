//! A guest: smoltcp as the client, and programs that talk over it.

use std::collections::VecDeque;
use std::time::Duration;

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::pattern::Echo;
use super::{GUEST, GUEST_MAC, MTU, PEER, PORT};
use crate::link::Header;

pub(super) struct Guest<T = Echo> {
    interface: Interface,
    pub(super) card: Card,
    sockets: SocketSet<'static>,
    pub(super) programs: Vec<Program<T>>,
    next_port: u16,
}

/// What a program says on its connection, and hears.
pub(super) trait Talk {
    /// There is a connection, the first one or another.
    fn begin(&mut self, now: Duration);

    /// Fills the front of `room`; says how many bytes.
    fn send(&mut self, room: &mut [u8], now: Duration) -> usize;

    /// Takes what has come; says how many bytes.
    fn receive(&mut self, bytes: &[u8]) -> usize;

    /// All has been said and heard.
    fn is_done(&self) -> bool;
}

/// The guest's network card.
pub(super) struct Card {
    pub(super) received: VecDeque<Vec<u8>>,
    pub(super) sent: Vec<(Header, Vec<u8>)>,
    /// Frames are sent without checksums, and longer than the MTU.
    offloads: bool,
}

/// One program and its connection.
pub(super) struct Program<T> {
    socket: SocketHandle,
    pub(super) talk: T,
    /// It takes what comes.
    pub(super) reads: bool,
    /// Buffer sizes, to open it anew.
    buffer: usize,
    /// Times that the connection had to be opened anew.
    pub(super) retries: u64,
}

impl Guest {
    /// Starts a program that sends so many bytes and wants as many back, with socket buffers of a size.
    pub(super) fn start(&mut self, total: u64, buffer: usize) {
        self.run(Echo::new(total), buffer, Duration::ZERO);
    }
}

impl<T: Talk> Guest<T> {
    pub(super) fn new(offloads: bool, seed: u64) -> Self {
        let mut card = Card { received: VecDeque::new(), sent: Vec::new(), offloads };
        let mut config = smoltcp::iface::Config::new(EthernetAddress(GUEST_MAC).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut card, Instant::ZERO);
        interface.update_ip_addrs(|all| all.push(IpCidr::new(IpAddress::Ipv4(GUEST), 30)).expect("room"));
        Self { interface, card, sockets: SocketSet::new(vec![]), programs: Vec::new(), next_port: 40_000 }
    }

    /// Starts a program with socket buffers of a size.
    pub(super) fn run(&mut self, talk: T, buffer: usize, now: Duration) {
        let socket = self
            .sockets
            .add(Socket::new(SocketBuffer::new(vec![0; buffer]), SocketBuffer::new(vec![0; buffer])));
        self.programs.push(Program { socket, talk, reads: true, buffer, retries: 0 });
        self.connect(self.programs.len() - 1, now);
    }

    /// A program opens its connection, from the start.
    fn connect(&mut self, index: usize, now: Duration) {
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
        program.talk.begin(now);
    }

    /// A program's connection is reset and opened anew.
    pub(super) fn reset(&mut self, index: usize, now: Duration) {
        self.socket(index).abort();
        self.poll(now);
        self.programs[index].retries += 1;
        self.connect(index, now);
    }

    pub(super) fn socket(&mut self, index: usize) -> &mut Socket<'static> {
        self.sockets.get_mut(self.programs[index].socket)
    }

    /// All has been said and heard, but by those that do not read.
    pub(super) fn is_done(&self) -> bool {
        self.programs.iter().all(|program| program.talk.is_done() || !program.reads)
    }

    /// Takes frames, lets programs work, makes frames.
    pub(super) fn poll(&mut self, now: Duration) {
        let instant = Instant::from_micros(now.as_micros() as i64);
        self.interface.poll(instant, &mut self.card, &mut self.sockets);
        for index in 0..self.programs.len() {
            self.work(index, now);
        }
        self.interface.poll(instant, &mut self.card, &mut self.sockets);
    }

    pub(super) fn poll_at(&mut self, now: Duration) -> Option<Duration> {
        let at = self.interface.poll_at(Instant::from_micros(now.as_micros() as i64), &self.sockets)?;
        Some(Duration::from_micros(at.total_micros() as u64).max(now))
    }

    fn work(&mut self, index: usize, now: Duration) {
        let program = &mut self.programs[index];
        let socket = self.sockets.get_mut::<Socket>(program.socket);
        let talk = &mut program.talk;
        while socket.can_send() {
            let sent = socket.send(|room| {
                let len = talk.send(room, now);
                (len, len)
            });
            if sent.expect("open") == 0 {
                break;
            }
        }
        while socket.can_recv() && program.reads {
            let received = socket.recv(|bytes| {
                let len = talk.receive(bytes);
                (len, len)
            });
            if received.expect("open") == 0 {
                break;
            }
        }
        let done = talk.is_done();
        if done && socket.state() == State::Established {
            socket.close();
        }
        if !done && socket.state() == State::Closed {
            program.retries += 1;
            self.connect(index, now);
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
