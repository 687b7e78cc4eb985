//! A service that knows which bytes must come, and answers each with its complement; and who sends them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::guest::Talk;
use crate::link::{Service, Stream};

/// The byte at a position of every connection.
pub(super) fn byte(position: u64) -> u8 {
    (position.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// What streams did, all told.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) opened: Cell<u64>,
    pub(super) dropped: Cell<u64>,
    pub(super) received: Cell<u64>,
    /// Streams take no bytes and send none.
    pub(super) stuck: Cell<bool>,
    /// Streams take bytes, and answer later.
    pub(super) silent: Cell<bool>,
}

#[derive(Debug, Default)]
pub(super) struct Patterns {
    pub(super) tally: Rc<Tally>,
    /// Connections are refused.
    pub(super) closed: bool,
    /// A connection is over after so many answers.
    pub(super) limit: Option<u64>,
    /// The most that is taken or given in one go.
    pub(super) gulp: Option<usize>,
    /// Whatever comes is fine.
    pub(super) any: bool,
}

#[derive(Debug)]
pub(super) struct Pattern {
    tally: Rc<Tally>,
    limit: u64,
    gulp: usize,
    any: bool,
    received: u64,
    sent: u64,
}

impl Service for Patterns {
    type Stream = Pattern;

    fn connect(&mut self) -> Option<Pattern> {
        if self.closed {
            return None;
        }
        self.tally.opened.set(self.tally.opened.get() + 1);
        Some(Pattern {
            tally: Rc::clone(&self.tally),
            limit: self.limit.unwrap_or(u64::MAX),
            gulp: self.gulp.unwrap_or(usize::MAX),
            any: self.any,
            received: 0,
            sent: 0,
        })
    }
}

impl Stream for Pattern {
    fn receive(&mut self, bytes: &[u8]) -> usize {
        assert!(!self.is_over(), "nothing comes when all is said");
        if self.tally.stuck.get() {
            return 0;
        }
        let bytes = &bytes[..bytes.len().min(self.gulp)];
        for &got in bytes {
            assert!(self.any || got == byte(self.received), "at {}", self.received);
            self.received += 1;
        }
        self.tally.received.set(self.tally.received.get() + bytes.len() as u64);
        bytes.len()
    }

    fn send(&mut self, out: &mut [u8]) -> usize {
        if self.tally.stuck.get() || self.tally.silent.get() {
            return 0;
        }
        let len = (self.received.min(self.limit) - self.sent).min(out.len().min(self.gulp) as u64);
        for place in &mut out[..len as usize] {
            *place = !byte(self.sent);
            self.sent += 1;
        }
        len as usize
    }

    fn is_waiting(&self) -> bool {
        self.tally.silent.get() && self.sent < self.received
    }

    fn is_over(&self) -> bool {
        self.sent == self.limit
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        self.tally.dropped.set(self.tally.dropped.get() + 1);
    }
}

/// Sends so many bytes, and wants as many back.
pub(super) struct Echo {
    total: u64,
    sent: u64,
    received: u64,
}

impl Echo {
    pub(super) fn new(total: u64) -> Self {
        Self { total, sent: 0, received: 0 }
    }
}

impl Talk for Echo {
    fn begin(&mut self, _: Duration) {
        (self.sent, self.received) = (0, 0);
    }

    fn send(&mut self, room: &mut [u8], _: Duration) -> usize {
        let len = (room.len() as u64).min(self.total - self.sent) as usize;
        for (place, position) in room[..len].iter_mut().zip(self.sent..) {
            *place = byte(position);
        }
        self.sent += len as u64;
        len
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        for (&got, position) in bytes.iter().zip(self.received..) {
            assert_eq!(got, !byte(position), "at {position}");
        }
        self.received += bytes.len() as u64;
        bytes.len()
    }

    fn is_done(&self) -> bool {
        self.received == self.total
    }
}
