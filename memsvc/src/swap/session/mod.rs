//! One NBD connection, as a state machine: bytes go in, bytes come out. No I/O, no clock, no locks of its own:
//! who has the pages says what time it is.
//!
//! ```text
//!   new ──▶ Handshake ── GO, EXPORT_NAME ──▶ Transmission ── DISC ──▶ what was asked is answered ──▶ Over
//!               │ ABORT, or out of step            │ out of step                                    ▲
//!               └──────────────────────────────────┴────────────────────────────────────────────────┘
//! ```
//! Its memory is bounded and there from the start: one page, one header, one queue of requests. What is
//! written is stored page by page as it comes, what is read is fetched page by page as there is room to send
//! it. When the queue is full, an answer to an option waits to be sent, or a page waits for room in the store,
//! no more is taken: the peer's window closes.

pub(super) mod buffer;
mod handshake;
mod transmission;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::ops::Range;
use std::time::Duration;

use super::nbd::NbdError;
use super::stats::{NbdCounters, SwapLatencies};
use crate::core::units::FRAME_SIZE;
use handshake::{Handshake, Next};
use transmission::Transmission;

/// The contents of a page.
pub(crate) type Page = [u8; FRAME_SIZE];

/// What is exported, and under which names.
pub(crate) trait Exports {
    /// An export as one connection uses it.
    type Disk: Disk;

    /// Pages of the export of this name; `None` if there is no such export.
    fn pages(&self, name: &[u8]) -> Option<u64>;

    /// The export of this name; `None` if there is none, or no memory to serve it with.
    fn open(&self, name: &[u8]) -> Option<Self::Disk>;

    /// Names of the exports, each with a line for people.
    fn list(&self) -> Vec<(String, String)>;

    /// Where it is counted what connections do.
    fn counters(&self) -> &NbdCounters;
}

/// Whether pages can be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetch {
    /// They can.
    Ready,
    /// They are on their way: ask again when told.
    Later,
    /// They cannot.
    Failed(NbdError),
}

/// Whether a page has been stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It has.
    Now,
    /// There is no room yet: offer it again when told.
    Later,
}

/// The pages of an export. Page numbers are less than [`Disk::pages`].
pub(crate) trait Disk {
    /// How many there are.
    fn pages(&self) -> u64;

    /// Stores a page.
    ///
    /// # Errors
    /// What the client is told; the page is as it was.
    fn write(&mut self, page: u64, data: &Page) -> Result<Stored, NbdError>;

    /// Sees to it that up to [`WINDOW`] pages can be read without waiting, until they have been. Those that
    /// are `next` take the place of others that have been fetched, if there is no other.
    fn fetch(&mut self, pages: Range<u64>, next: bool) -> Fetch;

    /// Reads a page that has been fetched.
    ///
    /// # Errors
    /// What the client is told.
    fn read(&mut self, page: u64, into: &mut Page) -> Result<(), NbdError>;

    /// True when all of these read as zeroes and nothing is stored for them.
    fn is_hole(&self, pages: Range<u64>) -> bool;

    /// Forgets pages: they read as zeroes. At most [`ERASED_AT_ONCE`].
    fn erase(&mut self, pages: Range<u64>);

    /// Forgets the first of these pages, as many as others can wait for; true when none are left.
    fn erase_some(&mut self, pages: &mut Range<u64>) -> bool {
        let now = pages.start..pages.end.min(pages.start + ERASED_AT_ONCE);
        pages.start = now.end;
        self.erase(now);
        pages.is_empty()
    }

    /// The time, from whenever. Asked for once when a read or a write comes, and once when it is answered.
    fn now(&self) -> Duration;

    /// Where it is counted how long requests took.
    fn latencies(&self) -> &SwapLatencies;
}

/// Pages that are fetched together: 256 KiB, more than Linux asks for in one request when it swaps.
pub(crate) const WINDOW: u64 = 64;
/// Pages that are erased before other work gets its turn: some 100 µs.
pub(crate) const ERASED_AT_ONCE: u64 = 1024;

/// Of these pages, those that are fetched first.
pub(super) fn window_of(pages: &Range<u64>) -> Range<u64> {
    pages.start..pages.end.min(pages.start + WINDOW)
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Session<E: Exports> {
    exports: E,
    state: State<E::Disk>,
}

#[derive(Debug)]
enum State<D> {
    Handshake(Handshake),
    Transmission(Box<Transmission<D>>),
    Over,
}

impl<E: Exports> Session<E> {
    /// A connection that has just been made; the server speaks first.
    pub(crate) fn new(exports: E) -> Self {
        exports.counters().connections.add(1);
        Self { exports, state: State::Handshake(Handshake::new()) }
    }

    /// Takes bytes that have come; says how many. Those that are not taken are to be offered again after
    /// [`Session::send`].
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> usize {
        let mut input = bytes;
        loop {
            let before = input.len();
            match &mut self.state {
                State::Handshake(handshake) => match handshake.receive(&mut input, &self.exports) {
                    Next::Stay => {}
                    Next::Transmit { disk, structured, answer } => {
                        let transmission = Transmission::new(disk, structured, answer);
                        self.state = State::Transmission(Box::new(transmission));
                    }
                    Next::HangUp => self.state = State::Over,
                },
                State::Transmission(transmission) => {
                    transmission.receive(&mut input, self.exports.counters());
                }
                // Nobody listens any more.
                State::Over => input = &[],
            }
            // An option without data is complete when there is nothing more to take.
            if input.len() == before {
                return bytes.len() - input.len();
            }
        }
    }

    /// Fills `out` with what is to be sent; says how many bytes. Fewer than there is room for means that
    /// there is no more for now.
    pub(crate) fn send(&mut self, out: &mut [u8]) -> usize {
        let room = out.len();
        let mut rest = out;
        match &mut self.state {
            State::Handshake(handshake) => {
                if handshake.send(&mut rest) {
                    let sent = room - rest.len();
                    self.state = State::Over;
                    return sent;
                }
            }
            State::Transmission(transmission) => {
                transmission.send(&mut rest, self.exports.counters());
                if transmission.is_over() {
                    let sent = room - rest.len();
                    self.state = State::Over;
                    return sent;
                }
            }
            State::Over => {}
        }
        room - rest.len()
    }

    /// The client says no more, but for what has come already. May be told again.
    pub(crate) fn last_word(&mut self) {
        if let State::Transmission(transmission) = &mut self.state {
            transmission.last_word(self.exports.counters());
        }
    }

    /// True when [`Session::send`] has something to do that takes its time, and is to be called again soon
    /// even if nothing comes.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(&self.state, State::Transmission(transmission) if transmission.is_erasing())
    }

    /// True when, after [`Session::send`] had nothing to send, the disk has something to do before there is: a page
    /// comes from a tier, or room is made for one.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(&self.state, State::Transmission(transmission) if transmission.is_waiting())
    }

    /// True until an export is chosen, or all has been said.
    pub(crate) fn is_greeting(&self) -> bool {
        matches!(self.state, State::Handshake(_))
    }

    /// All has been said: the connection is to be closed.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }
}
