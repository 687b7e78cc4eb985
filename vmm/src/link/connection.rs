//! One place for a connection: a socket with its buffers, and the stream behind it.
//!
//! ```text
//!   listening ── SYN ──▶ half-open ── ACK ──▶ served ── over, or FIN ──▶ closing ──▶ listening
//!       ▲                    │                  │                           │
//!       └────────────────────┴── RST from either side, or evicted ──────────┘
//! ```
//!
//! Served is what has a stream. Each socket is a set of its own, so that the peer decides whose turn it is.

use std::time::Duration;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::IpEndpoint;

use super::{LinkMetrics, Service, Stream};

// Buffers are smoltcp's from the start, and it does not give them back: what has gone through stays there until other
// data of the same guest takes its place.

/// Bytes of a socket's buffer for what it sends. More is slower: it falls out of the caches.
const SEND: usize = u16::MAX as usize;

/// Bytes of a socket's buffer for what comes: the guest sends a whole batch of kswapd's at once. A buffer that is empty
/// is filled from its start, so more is only used by who sends more.
///
/// smoltcp 0.14 forgets that the window of a SYN is not scaled: a guest may send so many bytes times the scale before
/// it hears more, and makes it panic if that is more than the buffer holds. This is exactly what it holds.
const RECEIVE: usize = (u16::MAX as usize) << 2;

/// How often a guest that says nothing is asked whether its connection is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Silence of a half-open or closing connection after which a new one may have its place: the least
/// retransmission timeout (RFC 6298).
const UNSERVED_SILENCE: Duration = Duration::from_secs(1);

/// Silence of a served connection after which a new one may have its place: it left four questions
/// unanswered, which a kernel that knows the connection answers by itself. Without a new one, a silent
/// connection stays: a guest that is slow, or has no memory to receive with, must not lose its swap.
const SERVED_SILENCE: Duration = Duration::from_secs(60);

/// Times that a stream is asked in one turn. More than once because buffers are rings, and each time it gets
/// what lies in one piece.
const ROUNDS: usize = 4;

/// How ready a place is for a new connection: the readiest first, then those silent for longest.
pub(super) type Readiness = (Claim, Duration);

/// Why a place may be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claim {
    /// Nobody has it.
    Free,
    /// It is half-open or closing, and silent: no stream is lost.
    Unserved,
    /// It is served, and its guest has closed its half, or been silent for so long that it has forgotten it.
    Dead,
}

#[derive(Debug)]
pub(super) struct Connection<S> {
    pub(super) sockets: SocketSet<'static>,
    handle: SocketHandle,
    port: u16,
    stream: Option<S>,
    /// When the guest last sent anything for it.
    heard: Duration,
}

impl<S: Stream> Connection<S> {
    /// A place that listens on a port.
    pub(super) fn new(port: u16) -> Self {
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(RECEIVE), buffer(SEND));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket.set_keep_alive(Some(KEEP_ALIVE.into()));
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let mut connection = Self { sockets, handle, port, stream: None, heard: Duration::ZERO };
        connection.recycle();
        connection
    }

    /// Forgets what was and listens; says whether a stream was lost.
    pub(super) fn recycle(&mut self) -> bool {
        let port = self.port;
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        socket.abort();
        // The port is not 0 and the socket closed, the only things that can be wrong.
        let listens = socket.listen(port);
        debug_assert!(listens.is_ok());
        self.stream.take().is_some()
    }

    /// Whether it does nothing but listen: then there is nothing to serve or to send.
    pub(super) fn is_listening(&self) -> bool {
        self.socket().state() == State::Listen
    }

    /// Whether frames from this address and port belong here.
    pub(super) fn is_with(&self, remote: IpEndpoint) -> bool {
        self.socket().remote_endpoint() == Some(remote)
    }

    /// Whether a new connection may have this place.
    pub(super) fn readiness(&self, now: Duration) -> Option<Readiness> {
        let silence = now.saturating_sub(self.heard);
        let claim = match (self.socket().state(), &self.stream) {
            (State::Listen | State::Closed | State::TimeWait, _) => Claim::Free,
            (_, None) if silence >= UNSERVED_SILENCE => Claim::Unserved,
            // It has said its last word, and most likely gone.
            (State::CloseWait, Some(_)) if silence >= UNSERVED_SILENCE => Claim::Dead,
            (_, Some(_)) if silence >= SERVED_SILENCE => Claim::Dead,
            _ => return None,
        };
        Some((claim, self.heard))
    }

    /// The guest has sent something for it.
    pub(super) fn hear(&mut self, now: Duration) {
        self.heard = now;
    }

    /// Lets socket and stream have what the other has for them, and follows the state of the socket.
    pub(super) fn serve<V>(&mut self, service: &mut V, metrics: &LinkMetrics)
    where
        V: Service<Stream = S>,
    {
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        match socket.state() {
            State::Established | State::CloseWait => {
                if self.stream.is_none() {
                    self.stream = service.connect();
                    let count = if self.stream.is_some() { &metrics.opened } else { &metrics.refused };
                    count.inc();
                }
                match &mut self.stream {
                    None => socket.abort(),
                    Some(stream) => {
                        if socket.state() == State::CloseWait {
                            stream.last_word();
                        }
                        let idle = pump(socket, stream);
                        let ended = socket.state() == State::CloseWait && !socket.can_recv();
                        if stream.is_over() || ended && idle && !stream.is_waiting() {
                            socket.close();
                            metrics.closed.inc();
                            self.stream = None;
                        }
                    }
                }
            }
            // Nobody wants what the guest still sends; taking it lets its FIN come.
            State::FinWait1 | State::FinWait2 => discard(socket),
            State::Closed => {
                if self.stream.take().is_some() {
                    metrics.reset.inc();
                }
                // Otherwise our RST is still to be sent.
                if socket.remote_endpoint().is_none() {
                    self.recycle();
                }
            }
            _ => {}
        }
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get(self.handle)
    }
}

/// Moves bytes both ways; says whether the stream had nothing to send though there was room.
fn pump(socket: &mut Socket<'_>, stream: &mut impl Stream) -> bool {
    for _ in 0..ROUNDS {
        if stream.is_over() {
            break;
        }
        let taken = socket.recv(|bytes| {
            let taken = stream.receive(bytes).min(bytes.len());
            (taken, taken)
        });
        if !socket.can_recv() || taken.unwrap_or(0) == 0 {
            break;
        }
    }
    for _ in 0..ROUNDS {
        if !socket.can_send() {
            return false;
        }
        let sent = socket.send(|room| {
            let sent = stream.send(room).min(room.len());
            (sent, sent)
        });
        if sent.unwrap_or(0) == 0 {
            return true;
        }
    }
    false
}

/// Throws away what has come.
fn discard(socket: &mut Socket<'_>) {
    while socket.can_recv() && socket.recv(|bytes| (bytes.len(), ())).is_ok() {}
}
