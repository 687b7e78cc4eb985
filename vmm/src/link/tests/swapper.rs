//! A program that swaps: an NBD client with requests under way on pages of its own, which knows what each page may be.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use memsvc::swap::nbd::{
    ClientFlags, Command, CommandFlags, Greeting, OptionCode, OptionHeader, Request, RequestHeader,
    SimpleReply,
};
use zerocopy::{FromBytes, IntoBytes};

use super::guest::Talk;
use crate::swap::known::{Known, PAGE, content};

/// Requests under way.
const DEPTH: usize = 8;
/// Pages of a request.
const MOST: u64 = 8;
/// Longer than a frame of an earlier connection may be under way.
const SETTLED: Duration = Duration::from_millis(5);
/// Bytes of the answer to the name of the export, without zeroes.
const EXPORT_REPLY: usize = 10;

#[derive(Debug)]
enum Asked {
    Read,
    /// What the first page is to be; the next one has the next number.
    Write(u64),
    Trim,
}

/// The client.
pub(super) struct Swapper {
    known: Rc<RefCell<Known>>,
    pages: Range<u64>,
    /// Requests still to be made before all pages are read.
    left: u64,
    /// The next page to be read in the end.
    next: u64,
    under_way: BTreeMap<u64, (Asked, Range<u64>)>,
    cookie: u64,
    /// To be sent.
    out: VecDeque<u8>,
    input: Vec<u8>,
    /// Bytes of the handshake that have come.
    greeted: usize,
    begins: Duration,
}

impl Swapper {
    /// Makes so many requests for pages that nobody else uses, and then reads all of them.
    pub(super) fn new(known: &Rc<RefCell<Known>>, pages: Range<u64>, requests: u64) -> Self {
        Self {
            known: Rc::clone(known),
            next: pages.start,
            pages,
            left: requests,
            under_way: BTreeMap::new(),
            cookie: 0,
            out: VecDeque::new(),
            input: Vec::new(),
            greeted: 0,
            begins: Duration::ZERO,
        }
    }

    /// The connection is lost, with what was under way.
    pub(super) fn lose(&mut self) {
        let known = &mut *self.known.borrow_mut();
        let unsent = self.out.len();
        self.out.clear();
        self.input.clear();
        self.greeted = 0;
        let last = self.under_way.keys().next_back().copied();
        for (cookie, (asked, pages)) in std::mem::take(&mut self.under_way) {
            let len = size_of::<RequestHeader>() + (pages.end - pages.start) as usize * PAGE;
            known.cut += u64::from(
                Some(cookie) == last && matches!(asked, Asked::Write(_)) && (1..len).contains(&unsent),
            );
            for (page, at) in pages.zip(0..) {
                match asked {
                    Asked::Read => {}
                    Asked::Write(first) => known.may_be(page).push(first + at),
                    Asked::Trim => known.may_be(page).push(0),
                }
            }
        }
        self.next = self.pages.start;
    }

    fn is_free(&self, pages: &Range<u64>) -> bool {
        self.under_way.values().all(|(_, other)| other.end <= pages.start || pages.end <= other.start)
    }

    /// Makes a request, if there is one to make.
    fn ask(&mut self) -> bool {
        if self.under_way.len() == DEPTH {
            return false;
        }
        let known = Rc::clone(&self.known);
        let mut known = known.borrow_mut();
        let (asked, pages) = if self.left > 0 {
            let first = known.random.u64(self.pages.clone());
            let pages = first..self.pages.end.min(first + known.random.u64(1..=MOST));
            if !self.is_free(&pages) {
                return false;
            }
            self.left -= 1;
            let asked = match known.random.u8(0..8) {
                0 => Asked::Trim,
                1..3 => Asked::Read,
                _ => Asked::Write(known.next),
            };
            (asked, pages)
        } else {
            let pages = self.next..self.pages.end.min(self.next + MOST);
            if pages.is_empty() || !self.is_free(&pages) {
                return false;
            }
            self.next = pages.end;
            (Asked::Read, pages)
        };
        let count = pages.end - pages.start;
        let command = match asked {
            Asked::Read => Command::Read,
            Asked::Write(_) => Command::Write,
            Asked::Trim => Command::Trim,
        };
        self.cookie += 1;
        let request = Request {
            command: Some(command),
            flags: CommandFlags::empty(),
            cookie: self.cookie,
            offset: pages.start * PAGE as u64,
            len: count as u32 * PAGE as u32,
        };
        self.out.extend(RequestHeader::new(&request).as_bytes());
        if let Asked::Write(first) = asked {
            known.next += count;
            (first..first + count).for_each(|number| self.out.extend(content(number)));
        }
        self.under_way.insert(self.cookie, (asked, pages));
        true
    }

    /// Takes one answer off the front of what has come, if it is all there.
    fn hear(&mut self) -> bool {
        if self.greeted < size_of::<Greeting>() + EXPORT_REPLY {
            let now = self.input.len().min(size_of::<Greeting>() + EXPORT_REPLY - self.greeted);
            self.greeted += now;
            self.input.drain(..now);
            return now > 0;
        }
        let Ok((reply, data)) = SimpleReply::read_from_prefix(&self.input) else { return false };
        let (cookie, error) = reply.parse().expect("a reply");
        assert_eq!(error, None);
        let (asked, pages) = self.under_way.get(&cookie).expect("it was asked");
        let len = match asked {
            Asked::Read => (pages.end - pages.start) as usize * PAGE,
            _ => 0,
        };
        if data.len() < len {
            return false;
        }
        let mut known = self.known.borrow_mut();
        for (page, at) in pages.clone().zip(0..) {
            match asked {
                Asked::Read => known.see(page, &data[at as usize * PAGE..][..PAGE]),
                Asked::Write(first) => *known.may_be(page) = vec![first + at],
                Asked::Trim => *known.may_be(page) = vec![0],
            }
        }
        self.input.drain(..size_of::<SimpleReply>() + len);
        self.under_way.remove(&cookie);
        true
    }
}

impl Talk for Swapper {
    fn begin(&mut self, now: Duration) {
        self.lose();
        self.begins = now + SETTLED;
        let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
        self.out.extend(flags.bits().to_be_bytes());
        self.out.extend(OptionHeader::new(OptionCode::ExportName as u32, 0).as_bytes());
    }

    fn send(&mut self, room: &mut [u8], now: Duration) -> usize {
        while self.begins <= now && self.out.len() < room.len() && self.ask() {}
        let len = room.len().min(self.out.len());
        for (place, byte) in room.iter_mut().zip(self.out.drain(..len)) {
            *place = byte;
        }
        len
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        self.input.extend_from_slice(bytes);
        while self.hear() {}
        bytes.len()
    }

    fn is_done(&self) -> bool {
        self.left == 0 && self.next == self.pages.end && self.under_way.is_empty()
    }
}
