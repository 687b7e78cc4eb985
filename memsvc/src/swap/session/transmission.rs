//! After the export is chosen: requests in, replies out.
//!
//! ```text
//!   bytes ─▶ Header ─▶ Write: page by page to the disk ─┐
//!              ▲  └──▶ Skip: data of a refused write ───┤       queue of replies, bounded
//!              │                                        ├────▶  Done │ Read │ Erase │ …
//!              └────────────────────────────────────────┘                 │ the first that can be
//!                                                                         ▼
//!                                                 outbox (headers), then pages: bytes
//! ```
//! Replies may overtake each other where pages are still on their way.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use super::super::nbd::{
    ChunkFlags, ChunkHeader, ChunkType, Command, CommandFlags, MAX_PAYLOAD, NbdError, Request, RequestHeader,
    SimpleReply,
};
use super::super::stats::NbdCounters;
use super::buffer::{Gather, Outbox};
use super::{Disk, Fetch, Page, Stored, WINDOW, window_of};
use crate::core::units::FRAME_SIZE;

/// Requests that may wait for their answers: what Linux's client has under way on one connection
/// (`nbd_dev_add`, drivers/block/nbd.c: a queue of 128).
const MAX_WAITING: usize = 128;

const PAGE: u64 = FRAME_SIZE as u64;

/// What comes next.
#[derive(Debug)]
enum Expected {
    Header,
    /// Data of a write.
    Write {
        cookie: u64,
        pages: Range<u64>,
        /// When the header came.
        came: Duration,
    },
    /// Data of a write that has failed; so many bytes are still to come.
    Skip {
        cookie: u64,
        left: u32,
        error: NbdError,
    },
    /// The client has said good-bye, or nonsense.
    Nothing,
}

/// What is left to do for a reply.
#[derive(Debug)]
enum Work {
    Done(Option<NbdError>),
    /// A write that came then is stored.
    Stored {
        came: Duration,
    },
    /// A read that came then, and whether it had to wait for a tier.
    Read {
        pages: Range<u64>,
        came: Duration,
        waited: bool,
    },
    /// A read that makes no sense. Where replies come in chunks, one to a read does in any case.
    RefusedRead(NbdError),
    Erase {
        pages: Range<u64>,
    },
}

#[derive(Debug)]
struct Reply {
    cookie: u64,
    work: Work,
}

/// Pages that are being sent.
#[derive(Debug)]
struct Sending {
    cookie: u64,
    /// Of which the header has been sent.
    announced: Range<u64>,
    /// All that are left, those with them.
    pages: Range<u64>,
}

/// The state of transmission.
#[derive(Debug)]
pub(super) struct Transmission<D> {
    disk: D,
    structured: bool,
    expected: Expected,
    header: Gather<{ size_of::<RequestHeader>() }>,
    page: Gather<FRAME_SIZE>,
    waiting: VecDeque<Reply>,
    outbox: Outbox,
    sending: Option<Sending>,
    /// A page of which a part has been sent. Wiped when it goes.
    partial: Box<Zeroizing<Page>>,
    partial_left: usize,
}

impl<D: Disk> Transmission<D> {
    pub(super) fn new(disk: D, structured: bool, answer: Outbox) -> Self {
        Self {
            disk,
            structured,
            expected: Expected::Header,
            header: Gather::new(),
            page: Gather::new(),
            waiting: VecDeque::with_capacity(MAX_WAITING),
            outbox: answer,
            sending: None,
            partial: Box::new(Zeroizing::new([0; FRAME_SIZE])),
            partial_left: 0,
        }
    }

    /// The client has gone, and all that it asked before is answered; or they are out of step.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.expected, Expected::Nothing)
            && self.waiting.is_empty()
            && self.sending.is_none()
            && self.partial_left == 0
            && self.outbox.is_empty()
    }

    /// It has pages to erase, and nothing is to be sent before.
    pub(super) fn is_erasing(&self) -> bool {
        let is_sending = self.sending.is_some() || self.partial_left > 0 || !self.outbox.is_empty();
        !is_sending && self.waiting.iter().any(|reply| matches!(reply.work, Work::Erase { .. }))
    }

    /// Something that has been asked for is not answered yet, or a page not stored.
    pub(super) fn is_waiting(&self) -> bool {
        self.page.holds() || self.sending.is_some() || !self.waiting.is_empty()
    }

    /// The client says no more. A page that waits for room is refused: who has turned away may have it written on
    /// another connection, and what is stored late would undo that.
    pub(super) fn last_word(&mut self, counters: &NbdCounters) {
        let Expected::Write { cookie, pages, .. } = &self.expected else { return };
        if !self.page.holds() {
            return;
        }
        let (cookie, left) = (*cookie, (pages.end - pages.start - 1) as u32 * FRAME_SIZE as u32);
        self.page.clear();
        match left {
            0 => self.refuse_write(cookie, NbdError::NoSpace, counters),
            left => self.expected = Expected::Skip { cookie, left, error: NbdError::NoSpace },
        }
    }

    /// Takes what has come, as long as there is room for answers.
    pub(super) fn receive(&mut self, input: &mut &[u8], counters: &NbdCounters) {
        while !input.is_empty() || self.page.holds() {
            match &mut self.expected {
                Expected::Header => {
                    if self.waiting.len() >= MAX_WAITING {
                        return;
                    }
                    let Some(bytes) = self.header.take(input, size_of::<RequestHeader>()) else { return };
                    let header = RequestHeader::read_from_bytes(bytes).ok();
                    match header.and_then(|header| header.parse()) {
                        Some(request) => self.begin(&request, counters),
                        None => {
                            counters.malformed.add(1);
                            self.hang_up();
                        }
                    }
                }
                Expected::Write { cookie, pages, came } => {
                    let before = *input;
                    let Some(bytes) = self.page.take(input, FRAME_SIZE) else { return };
                    let Ok(data) = Page::ref_from_bytes(bytes) else { return };
                    let (cookie, page, came) = (*cookie, pages.start, *came);
                    let stored = self.disk.write(page, data);
                    if stored == Ok(Stored::Later) {
                        self.page.hold(&before[..before.len() - input.len()]);
                        return;
                    }
                    pages.start += 1;
                    let left = (pages.end - pages.start) as u32 * FRAME_SIZE as u32;
                    match stored {
                        Ok(_) => counters.pages_written.add(1),
                        Err(error) => self.expected = Expected::Skip { cookie, left, error },
                    }
                    if left == 0 {
                        match self.expected {
                            Expected::Skip { error, .. } => self.refuse_write(cookie, error, counters),
                            _ => self.finish(cookie, Work::Stored { came }),
                        }
                    }
                }
                Expected::Skip { cookie, left, error } => {
                    let now = input.len().min(*left as usize);
                    *input = &input[now..];
                    *left -= now as u32;
                    if *left == 0 {
                        let (cookie, error) = (*cookie, *error);
                        self.refuse_write(cookie, error, counters);
                    }
                }
                Expected::Nothing => *input = &[],
            }
        }
    }

    /// Data of a write has come.
    fn finish(&mut self, cookie: u64, work: Work) {
        self.expected = Expected::Header;
        self.waiting.push_back(Reply { cookie, work });
    }

    /// Data of a write has come that could not be stored.
    fn refuse_write(&mut self, cookie: u64, error: NbdError, counters: &NbdCounters) {
        counters.errors.add(1);
        self.finish(cookie, Work::Done(Some(error)));
    }

    fn answer(&mut self, cookie: u64, result: Option<NbdError>, counters: &NbdCounters) {
        if result.is_some() {
            counters.errors.add(1);
        }
        self.waiting.push_back(Reply { cookie, work: Work::Done(result) });
    }

    /// A request has come.
    fn begin(&mut self, request: &Request, counters: &NbdCounters) {
        let &Request { command, cookie, len, .. } = request;
        let checked = command.ok_or(NbdError::Invalid).and_then(|command| self.check(command, request));
        let pages = match checked {
            Ok(pages) => pages,
            Err(error) => {
                counters.refused.add(1);
                match command {
                    Some(Command::Write) if len > 0 => {
                        self.expected = Expected::Skip { cookie, left: len, error };
                    }
                    Some(Command::Read) => {
                        self.waiting.push_back(Reply { cookie, work: Work::RefusedRead(error) });
                    }
                    _ => self.answer(cookie, Some(error), counters),
                }
                return;
            }
        };
        match command {
            Some(Command::Write) => {
                counters.writes.add(1);
                self.expected = Expected::Write { cookie, pages, came: self.disk.now() };
            }
            Some(Command::Read) => {
                counters.reads.add(1);
                let came = self.disk.now();
                self.waiting.push_back(Reply { cookie, work: Work::Read { pages, came, waited: false } });
            }
            Some(Command::Trim | Command::WriteZeroes) => {
                counters.erasures.add(1);
                self.waiting.push_back(Reply { cookie, work: Work::Erase { pages } });
            }
            // What is stored is stored as far as it ever will be: swap does not outlive the process.
            Some(Command::Flush) => {
                counters.flushes.add(1);
                self.answer(cookie, None, counters);
            }
            Some(Command::Disconnect) | None => self.expected = Expected::Nothing,
        }
    }

    /// The pages of a request, if it makes sense.
    fn check(&self, command: Command, request: &Request) -> Result<Range<u64>, NbdError> {
        let &Request { flags, offset, len, .. } = request;
        let allowed = CommandFlags::FUA
            | match command {
                Command::Read if self.structured => CommandFlags::DF,
                Command::WriteZeroes => CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
                _ => CommandFlags::empty(),
            };
        if matches!(command, Command::Disconnect) {
            return Ok(0..0);
        }
        if !allowed.contains(flags) {
            return Err(NbdError::Invalid);
        }
        if matches!(command, Command::Flush) {
            return if offset == 0 && len == 0 { Ok(0..0) } else { Err(NbdError::Invalid) };
        }
        let is_data = matches!(command, Command::Read | Command::Write);
        let is_aligned = offset.is_multiple_of(PAGE) && u64::from(len).is_multiple_of(PAGE);
        if len == 0 || !is_aligned || is_data && len > MAX_PAYLOAD {
            return Err(NbdError::Invalid);
        }
        let pages = offset / PAGE..offset / PAGE + u64::from(len) / PAGE;
        if pages.end > self.disk.pages() {
            let writes = matches!(command, Command::Write | Command::WriteZeroes);
            return Err(if writes { NbdError::NoSpace } else { NbdError::Invalid });
        }
        if flags.contains(CommandFlags::DF) && pages.end - pages.start > WINDOW {
            return Err(NbdError::Overflow);
        }
        Ok(pages)
    }

    /// Sends what there is, as long as there is room.
    pub(super) fn send(&mut self, out: &mut &mut [u8], counters: &NbdCounters) {
        if self.page.holds() {
            self.receive(&mut &[][..], counters);
        }
        loop {
            self.outbox.send(out);
            if out.is_empty() || !self.outbox.is_empty() {
                return;
            }
            if self.partial_left > 0 {
                self.send_partial(out);
                continue;
            }
            if self.sending.is_some() {
                if !self.send_page(out, counters) {
                    return;
                }
                continue;
            }
            if !self.begin_reply(counters) {
                return;
            }
        }
    }

    fn send_partial(&mut self, out: &mut &mut [u8]) {
        let now = self.partial_left.min(out.len());
        let (room, rest) = std::mem::take(out).split_at_mut(now);
        let from = FRAME_SIZE - self.partial_left;
        room.copy_from_slice(&self.partial[from..from + now]);
        *out = rest;
        self.partial_left -= now;
    }

    /// The next page, or the header before it, of what is being sent. False when it has to wait.
    fn send_page(&mut self, out: &mut &mut [u8], counters: &NbdCounters) -> bool {
        let Some(sending) = &mut self.sending else { return true };
        if sending.announced.is_empty() {
            if sending.pages.is_empty() {
                self.sending = None;
                return true;
            }
            let (cookie, pages) = (sending.cookie, sending.pages.clone());
            let window = window_of(&pages);
            match self.disk.fetch(window.clone(), true) {
                Fetch::Ready => self.announce(cookie, window, &pages),
                Fetch::Later => return false,
                Fetch::Failed(error) => self.fail_read(cookie, error, counters),
            }
            return true;
        }
        let page = sending.announced.start;
        sending.announced.start += 1;
        sending.pages.start += 1;
        // What could not be read is not sent.
        let result = match out.first_chunk_mut::<FRAME_SIZE>() {
            Some(room) => self.disk.read(page, room).inspect(|()| {
                *out = &mut std::mem::take(out)[FRAME_SIZE..];
            }),
            None => self.disk.read(page, &mut self.partial).inspect(|()| self.partial_left = FRAME_SIZE),
        };
        match result {
            Ok(()) => counters.pages_read.add(1),
            // Its header has been sent: there is no way to say so but to hang up.
            Err(_) => {
                counters.errors.add(1);
                self.hang_up();
            }
        }
        true
    }

    /// Begins the first reply that can be begun. False when there is none.
    fn begin_reply(&mut self, counters: &NbdCounters) -> bool {
        let (mut at, mut next) = (0, true);
        while let Some(Reply { cookie, work }) = self.waiting.get_mut(at) {
            let cookie = *cookie;
            match work {
                Work::Done(result) => {
                    self.outbox.push(SimpleReply::new(cookie, *result).as_bytes());
                }
                Work::Stored { came } => {
                    let took = self.disk.now().saturating_sub(*came);
                    self.disk.latencies().writes.record(took);
                    self.outbox.push(SimpleReply::new(cookie, None).as_bytes());
                }
                Work::RefusedRead(error) => {
                    let error = *error;
                    self.refuse_read(cookie, error, counters);
                }
                Work::Erase { pages } => {
                    if !self.disk.erase_some(pages) {
                        return false;
                    }
                    self.outbox.push(SimpleReply::new(cookie, None).as_bytes());
                }
                Work::Read { pages, came, waited } => {
                    let window = window_of(pages);
                    match self.disk.fetch(window.clone(), next) {
                        Fetch::Ready => {
                            let took = self.disk.now().saturating_sub(*came);
                            self.disk.latencies().of_reads(*waited).record(took);
                            let pages = pages.clone();
                            self.announce(cookie, window, &pages);
                        }
                        Fetch::Later => {
                            *waited = true;
                            (at, next) = (at + 1, false);
                            continue;
                        }
                        Fetch::Failed(error) => self.refuse_read(cookie, error, counters),
                    }
                }
            }
            self.waiting.remove(at);
            return true;
        }
        false
    }

    /// Sends the header of pages that can be read.
    fn announce(&mut self, cookie: u64, window: Range<u64>, pages: &Range<u64>) {
        let is_first = self.sending.is_none();
        let (offset, bytes) = (window.start * PAGE, ((window.end - window.start) * PAGE) as u32);
        let is_last = window.end == pages.end;
        let mut sending = Sending { cookie, announced: window.clone(), pages: pages.clone() };
        if self.structured {
            let flags = if is_last { ChunkFlags::DONE } else { ChunkFlags::empty() };
            let is_hole = self.disk.is_hole(window.clone());
            let (kind, len) =
                if is_hole { (ChunkType::OffsetHole, 12) } else { (ChunkType::OffsetData, 8 + bytes) };
            self.outbox.push(ChunkHeader::new(flags, kind, cookie, len).as_bytes());
            self.outbox.push(&offset.to_be_bytes());
            if is_hole {
                self.outbox.push(&bytes.to_be_bytes());
                sending.pages.start = window.end;
                sending.announced.start = window.end;
            }
        } else if is_first {
            self.outbox.push(SimpleReply::new(cookie, None).as_bytes());
        }
        self.sending = Some(sending);
    }

    /// Nothing of this read has been sent.
    fn refuse_read(&mut self, cookie: u64, error: NbdError, counters: &NbdCounters) {
        counters.errors.add(1);
        if !self.structured {
            self.outbox.push(SimpleReply::new(cookie, Some(error)).as_bytes());
            return;
        }
        let text = error.text();
        let len = 4 + 2 + text.len() as u32;
        self.outbox.push(ChunkHeader::new(ChunkFlags::DONE, ChunkType::Error, cookie, len).as_bytes());
        self.outbox.push(&(error as u32).to_be_bytes());
        self.outbox.push(&(text.len() as u16).to_be_bytes());
        self.outbox.push(text.as_bytes());
    }

    /// Some of this read has been sent.
    fn fail_read(&mut self, cookie: u64, error: NbdError, counters: &NbdCounters) {
        self.sending = None;
        if self.structured {
            self.refuse_read(cookie, error, counters);
        } else {
            counters.errors.add(1);
            self.hang_up();
        }
    }

    /// There is no way to go on.
    fn hang_up(&mut self) {
        self.expected = Expected::Nothing;
        self.page = Gather::new();
        self.waiting.clear();
        self.sending = None;
        self.partial_left = 0;
    }
}
