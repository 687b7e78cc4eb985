//! Operations under way, and their requests and replies on a connection. No I/O, no clock.
//!
//! ```text
//!   submit ─▶ Queued ─▶ Sending ─▶ Sent ─▶ ended
//!               ▲          │        │
//!               └──────────┴────────┴── the connection is lost; a discard has more to trim
//! ```
//! An operation outlives the connections that it is tried on. It may be done twice then, which is as good as
//! once: a read, a write or a trim of a place leaves there what it leaves, however often it is done, and
//! nobody has another operation under way for that place which could come between.
//!
//! What no client can exclude is a server that does a write of a lost connection late, after the place has
//! been written anew on the next one. That spoils the page, and its seal shows it.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use zerocopy::FromBytes;

use super::super::{Done, Op, TierError};
use super::broken::Broken;
use super::handshake::Export;
use crate::core::units::FRAME_SIZE;
use crate::swap::nbd::{Command, CommandFlags, NbdError, Request, RequestHeader, SimpleReply};
use crate::swap::session::buffer::Gather;

/// Most operations under way. Enough for 10 Gbit/s at 200 µs.
pub(super) const DEPTH: usize = 64;
/// Places that are trimmed by one request: 1 GiB; longer ones need not be understood.
const TRIMMED_AT_ONCE: u64 = 1 << 18;
const HEADER: usize = size_of::<RequestHeader>();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Queued,
    Sending,
    Sent,
}

#[derive(Debug)]
struct UnderWay {
    token: u64,
    op: Op,
    deadline: Instant,
    stage: Stage,
    /// Of the request that was sent last; 0 before.
    cookie: u64,
    /// What of a discard has been trimmed.
    trimmed: u64,
}

impl UnderWay {
    fn was_sent(&self) -> bool {
        self.cookie != 0
    }
}

/// A request that goes out.
#[derive(Debug)]
struct Sending {
    slot: usize,
    header: [u8; HEADER],
    /// Bytes that have gone, of header and data.
    sent: usize,
}

/// Operations under way.
#[derive(Debug)]
pub(super) struct Requests {
    slots: [Option<UnderWay>; DEPTH],
    /// Slots to send, in this order.
    queue: VecDeque<usize>,
    sending: Option<Sending>,
    header: Gather<{ size_of::<SimpleReply>() }>,
    /// The slot of a read whose data comes, and how much has come.
    reading: Option<(usize, usize)>,
    /// Requests sent since the start: makes each cookie another.
    serial: u64,
    /// There is room for all that can be under way, and a probe.
    ended: VecDeque<Done>,
    /// Requests that have been answered on this connection, with all of their data.
    answered: u64,
}

impl Requests {
    pub(super) fn new() -> Self {
        Self {
            slots: [const { None }; DEPTH],
            queue: VecDeque::with_capacity(DEPTH),
            sending: None,
            header: Gather::new(),
            reading: None,
            serial: 0,
            ended: VecDeque::with_capacity(DEPTH + 1),
            answered: 0,
        }
    }

    /// Takes an operation that is to end before `deadline`.
    pub(super) fn submit(&mut self, token: u64, op: Op, deadline: Instant) {
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            debug_assert!(false, "more operations than the tier's depth");
            return self.end(token, op, Err(TierError::Refused));
        };
        let stage = Stage::Queued;
        self.slots[slot] = Some(UnderWay { token, op, deadline, stage, cookie: 0, trimmed: 0 });
        self.queue.push_back(slot);
    }

    /// Ends an operation that has not been begun.
    pub(super) fn end(&mut self, token: u64, op: Op, result: Result<(), TierError>) {
        self.ended.push_back(Done { token, op, result });
    }

    /// The next operation that has ended.
    pub(super) fn take_ended(&mut self) -> Option<Done> {
        self.ended.pop_front()
    }

    /// True when nothing waits for the server.
    pub(super) fn is_idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    pub(super) fn has_output(&self) -> bool {
        self.sending.is_some() || !self.queue.is_empty()
    }

    /// True when part of a request has been handed out, and part has not.
    pub(super) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// When the first operation has waited for too long.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.slots.iter().flatten().map(|under_way| under_way.deadline).min()
    }

    /// The connection is lost: all is to be sent again on the next one. Says how many operations had been sent.
    pub(super) fn restart(&mut self) -> u64 {
        self.sending = None;
        self.reading = None;
        self.header.clear();
        self.answered = 0;
        self.queue.clear();
        let mut resent = 0;
        for (slot, under_way) in self.slots.iter_mut().enumerate() {
            let Some(under_way) = under_way else { continue };
            resent += u64::from(under_way.stage != Stage::Queued);
            under_way.stage = Stage::Queued;
            self.queue.push_back(slot);
        }
        let slots = &self.slots;
        let deadline = |slot: &usize| slots[*slot].as_ref().map(|under_way| under_way.deadline);
        self.queue.make_contiguous().sort_unstable_by_key(deadline);
        resent
    }

    /// Ends what has waited for too long. Says how many there were of those that count, and whether the server has been
    /// asked one of all, so that it may still answer.
    pub(super) fn expire(&mut self, now: Instant, counts: impl Fn(u64) -> bool) -> (u64, bool) {
        let (mut count, mut has_ended, mut were_sent) = (0, false, false);
        for slot in 0..DEPTH {
            let Some(under_way) = &self.slots[slot] else { continue };
            if under_way.deadline > now {
                continue;
            }
            count += u64::from(counts(under_way.token));
            has_ended = true;
            were_sent |= under_way.stage != Stage::Queued;
            let error = if under_way.was_sent() { TierError::Away } else { TierError::Unasked };
            self.finish(slot, Err(error));
        }
        if has_ended {
            let slots = &self.slots;
            self.queue.retain(|slot| slots[*slot].is_some());
        }
        (count, were_sent)
    }

    /// Ends all operations, before [`Requests::restart`]: in this way, or as those of which nobody knows whether they
    /// are done late. A discard may be one that was sent before, which is begun again until it is answered.
    pub(super) fn end_all(&mut self, error: TierError) {
        for slot in 0..DEPTH {
            let Some(under_way) = &self.slots[slot] else { continue };
            let may_come_late = match under_way.op {
                Op::Read { .. } => false,
                Op::Write { .. } => under_way.was_sent(),
                Op::Discard { .. } => true,
            };
            self.finish(slot, Err(if may_come_late { TierError::Away } else { error }));
        }
    }

    fn finish(&mut self, slot: usize, result: Result<(), TierError>) {
        if let Some(UnderWay { token, op, .. }) = self.slots[slot].take() {
            self.end(token, op, result);
        }
    }

    /// Fills the front of `out` with requests.
    pub(super) fn send(&mut self, out: &mut &mut [u8], export: Export) {
        while !out.is_empty() {
            if self.sending.is_none() && !self.begin(export) {
                return;
            }
            let Some(sending) = &mut self.sending else { continue };
            let under_way = self.slots[sending.slot].as_mut();
            let data: &[u8] = match under_way.as_ref().map(|under_way| &under_way.op) {
                Some(Op::Write { block, .. }) => &block.0,
                _ => &[],
            };
            let waiting = sending.header.get(sending.sent..).filter(|header| !header.is_empty());
            let waiting = waiting.unwrap_or_else(|| data.get(sending.sent - HEADER..).unwrap_or(&[]));
            let now = waiting.len().min(out.len());
            let (room, rest) = std::mem::take(out).split_at_mut(now);
            room.copy_from_slice(&waiting[..now]);
            *out = rest;
            sending.sent += now;
            if sending.sent == HEADER + data.len() {
                if let Some(under_way) = under_way {
                    under_way.stage = Stage::Sent;
                }
                self.sending = None;
            }
        }
    }

    /// Makes the request of the first operation in the queue. False when there is none.
    fn begin(&mut self, export: Export) -> bool {
        let Some(slot) = self.queue.pop_front() else { return false };
        let Some(under_way) = &mut self.slots[slot] else { return true };
        let (command, places) = match &under_way.op {
            Op::Read { place, .. } => (Command::Read, *place..place.saturating_add(1)),
            Op::Write { place, .. } => (Command::Write, *place..place.saturating_add(1)),
            Op::Discard { places } => (Command::Trim, left_to_trim(places, under_way.trimmed)),
        };
        if command == Command::Trim && (!export.trims || places.is_empty()) {
            // A server before this one may still do it.
            let result = if under_way.was_sent() { Err(TierError::Away) } else { Ok(()) };
            self.finish(slot, result);
            return true;
        }
        if places.end > export.places {
            self.finish(slot, Err(TierError::Refused));
            return true;
        }
        self.serial += 1;
        under_way.stage = Stage::Sending;
        under_way.cookie = self.serial * DEPTH as u64 + slot as u64;
        let request = Request {
            command: Some(command),
            flags: CommandFlags::empty(),
            cookie: under_way.cookie,
            offset: places.start * FRAME_SIZE as u64,
            len: (places.end - places.start) as u32 * FRAME_SIZE as u32,
        };
        let header = zerocopy::transmute!(RequestHeader::new(&request));
        self.sending = Some(Sending { slot, header, sent: 0 });
        true
    }

    /// Takes replies.
    ///
    /// # Errors
    /// They make no sense, or the server ends: the connection is of no use any more.
    pub(super) fn receive(&mut self, mut input: &[u8]) -> Result<(), Broken> {
        loop {
            if let Some((slot, filled)) = &mut self.reading {
                let Some(UnderWay { op: Op::Read { block, .. }, .. }) = &mut self.slots[*slot] else {
                    return Err(Broken::Nonsense("data that nobody waits for"));
                };
                let room = &mut block.0[*filled..];
                let (now, rest) = input.split_at(input.len().min(room.len()));
                room[..now.len()].copy_from_slice(now);
                input = rest;
                *filled += now.len();
                if *filled < FRAME_SIZE {
                    return Ok(());
                }
                let slot = *slot;
                self.reading = None;
                self.finish(slot, Ok(()));
                self.answered += 1;
            }
            let Some(bytes) = self.header.take(&mut input, size_of::<SimpleReply>()) else { return Ok(()) };
            let reply = SimpleReply::read_from_bytes(bytes).ok().and_then(|reply| reply.parse());
            let (cookie, error) = reply.ok_or(Broken::Nonsense("no reply where one has to be"))?;
            self.answer(cookie, error)?;
        }
    }

    fn answer(&mut self, cookie: u64, error: Option<NbdError>) -> Result<(), Broken> {
        let slot = (cookie % DEPTH as u64) as usize;
        let under_way = self.slots[slot].as_mut();
        let under_way = under_way
            .filter(|under_way| under_way.stage == Stage::Sent && under_way.cookie == cookie)
            .ok_or(Broken::Nonsense("a reply to nothing that was asked"))?;
        match error {
            Some(NbdError::Shutdown) => return Err(Broken::ShuttingDown),
            Some(NbdError::NoSpace) => self.finish(slot, Err(TierError::Full)),
            Some(_) => self.finish(slot, Err(TierError::Refused)),
            None => match &under_way.op {
                Op::Read { .. } => {
                    self.reading = Some((slot, 0));
                    return Ok(());
                }
                Op::Write { .. } => self.finish(slot, Ok(())),
                Op::Discard { places } => {
                    let now = left_to_trim(places, under_way.trimmed);
                    if now.end == places.end {
                        self.finish(slot, Ok(()));
                    } else {
                        under_way.trimmed += now.end - now.start;
                        under_way.stage = Stage::Queued;
                        self.queue.push_back(slot);
                    }
                }
            },
        }
        self.answered += 1;
        Ok(())
    }
}

/// What the next request of a discard trims.
fn left_to_trim(places: &Range<u64>, trimmed: u64) -> Range<u64> {
    let start = places.start.saturating_add(trimmed);
    start..places.end.min(start.saturating_add(TRIMMED_AT_ONCE)).max(start)
}
