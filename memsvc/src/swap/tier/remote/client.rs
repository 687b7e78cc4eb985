//! The client's side of one connection after another: bytes go in, bytes come out. No I/O, no clock.
//!
//! ```text
//!   restart ──▶ Handshake ──▶ Transmission ──┐
//!      ▲            │ Broken        │ Broken │ operations go on
//!      └────────────┴───────────────┘        ▼
//! ```
//! Its memory is bounded and there from the start. Nothing that a server says makes it grow or panic: it is
//! one [`Broken`], and the end of that connection.

use std::time::Instant;

use super::super::{Block, Done, Op, TierError};
use super::broken::Broken;
use super::handshake::{Export, Handshake};
use super::requests::Requests;
use crate::core::units::FRAME_SIZE;
use crate::swap::nbd::{Command, CommandFlags, Request, RequestHeader};

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    handshake: Handshake,
    /// Once the handshake is done.
    export: Option<Export>,
    /// Places that an export has to have.
    needed: u64,
    requests: Requests,
    /// For [`Client::probe`], while it is not under way.
    probe: Option<Box<Block>>,
}

/// The token of a probe, which nobody else has.
const PROBE: u64 = u64::MAX;

impl Client {
    /// For the export of this name, of one place or more.
    pub(super) fn new(export: &str) -> Self {
        let probe = Some(Box::new(Block([0; FRAME_SIZE])));
        Self { handshake: Handshake::new(export), export: None, needed: 1, requests: Requests::new(), probe }
    }

    /// From now on, exports with fewer places are of no use.
    pub(super) fn need(&mut self, places: u64) {
        self.needed = places;
    }

    /// The export, while there is a connection to it.
    pub(super) fn export(&self) -> Option<Export> {
        self.export
    }

    /// Takes an operation that is to end before `deadline`.
    pub(super) fn submit(&mut self, token: u64, op: Op, deadline: Instant) {
        let is_there = match &op {
            Op::Read { place, .. } | Op::Write { place, .. } => *place < self.needed,
            Op::Discard { places } => places.end <= self.needed,
        };
        if is_there {
            self.requests.submit(token, op, deadline);
        } else {
            self.end(token, op, TierError::Refused);
        }
    }

    /// Reads a place for nobody: who greets may still not serve. Not while anything is under way, whose answer says as
    /// much. It takes the slot of no operation, if none is submitted until it has ended.
    pub(super) fn probe(&mut self, deadline: Instant) {
        if self.requests.is_idle()
            && let Some(block) = self.probe.take()
        {
            self.requests.submit(PROBE, Op::Read { place: 0, block }, deadline);
        }
    }

    /// Takes an operation, which ends in this way at once.
    pub(super) fn end(&mut self, token: u64, op: Op, error: TierError) {
        self.requests.end(token, op, Err(error));
    }

    /// Takes bytes that have come.
    ///
    /// # Errors
    /// The connection is of no use any more: [`Client::restart`] it.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let mut input = bytes;
        if self.export.is_none() {
            self.export = self.handshake.receive(&mut input, self.needed)?;
        }
        if input.is_empty() { Ok(()) } else { self.requests.receive(input) }
    }

    /// Fills `out` with what is to be sent; says how many bytes.
    pub(super) fn send(&mut self, out: &mut [u8]) -> usize {
        let room = out.len();
        let mut rest = out;
        self.handshake.send(&mut rest);
        if let Some(export) = self.export {
            self.requests.send(&mut rest, export);
        }
        room - rest.len()
    }

    /// True when [`Client::send`] has something to say.
    pub(super) fn has_output(&self) -> bool {
        self.handshake.has_output() || self.export.is_some() && self.requests.has_output()
    }

    /// Good-bye; between requests only.
    pub(super) fn farewell(&self) -> Option<[u8; size_of::<RequestHeader>()]> {
        let request = Request {
            command: Some(Command::Disconnect),
            flags: CommandFlags::empty(),
            cookie: 0,
            offset: 0,
            len: 0,
        };
        let is_between = self.export.is_some() && !self.requests.is_sending();
        is_between.then(|| zerocopy::transmute!(RequestHeader::new(&request)))
    }

    /// The connection is lost, and the next one begins from the start. Says how many operations will be sent
    /// again.
    pub(super) fn restart(&mut self) -> u64 {
        self.export = None;
        self.handshake.restart();
        self.requests.restart()
    }

    /// Requests that have been answered on this connection.
    pub(super) fn answered(&self) -> u64 {
        self.requests.answered()
    }

    /// A server serves: it has answered a request on this connection, or has nothing to answer and `is_trusted`.
    pub(super) fn is_served(&self, is_trusted: bool) -> bool {
        self.export.is_some() && (self.answered() > 0 || is_trusted && self.requests.is_idle())
    }

    /// See [`Requests::next_deadline`].
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.requests.next_deadline()
    }

    /// See [`Requests::expire`]. A probe is not counted.
    pub(super) fn expire(&mut self, now: Instant) -> (u64, bool) {
        self.requests.expire(now, |token| token != PROBE)
    }

    /// See [`Requests::end_all`].
    pub(super) fn end_all(&mut self, error: TierError) {
        self.requests.end_all(error);
    }

    /// The next operation that has ended.
    pub(super) fn take_ended(&mut self) -> Option<Done> {
        loop {
            let ended = self.requests.take_ended()?;
            match ended {
                Done { token: PROBE, op: Op::Read { block, .. }, .. } => self.probe = Some(block),
                ended => return Some(ended),
            }
        }
    }
}
