//! A session with a client that cuts what it says anywhere, over pages in a map.

mod handshake;
mod property;
mod transmission;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::super::nbd::*;
use super::super::stats::{NbdStats, SwapLatencies};
use super::*;

/// Pages in a map, with errors and delays on request.
#[derive(Debug, Default)]
struct Pages {
    pages: HashMap<u64, Page>,
    /// Pages that cannot be written or read.
    bad: Vec<u64>,
    /// Pages that can be fetched and then cannot be read.
    broken: Vec<u64>,
    /// Pages that take so many more questions before they are there.
    slow: HashMap<u64, u32>,
    /// Pages for which there is no room until they have been offered so many times.
    full: HashMap<u64, u32>,
    most_erased: u64,
    /// What time it is, and how often somebody asked.
    now: Duration,
    asked: Cell<u64>,
}

const PAGES: u64 = 10_000;

#[derive(Debug, Clone)]
struct Fake(Rc<RefCell<Pages>>, Rc<NbdCounters>, Rc<SwapLatencies>);

impl Exports for Fake {
    type Disk = Fake;

    fn pages(&self, name: &[u8]) -> Option<u64> {
        (name == b"swap").then_some(PAGES)
    }

    fn open(&self, name: &[u8]) -> Option<Fake> {
        (name == b"swap").then(|| self.clone())
    }

    fn list(&self) -> Vec<(String, String)> {
        vec![("swap".into(), "a line".into())]
    }

    fn counters(&self) -> &NbdCounters {
        &self.1
    }
}

impl Disk for Fake {
    fn pages(&self) -> u64 {
        PAGES
    }

    fn write(&mut self, page: u64, data: &Page) -> Result<Stored, NbdError> {
        assert!(page < PAGES);
        let mut pages = self.0.borrow_mut();
        if let Some(left) = pages.full.get_mut(&page).filter(|left| **left > 0) {
            *left -= 1;
            return Ok(Stored::Later);
        }
        if pages.bad.contains(&page) {
            return Err(NbdError::NoSpace);
        }
        pages.pages.insert(page, *data);
        Ok(Stored::Now)
    }

    fn fetch(&mut self, range: Range<u64>, _next: bool) -> Fetch {
        assert!(range.end <= PAGES && range.end - range.start <= WINDOW);
        let mut pages = self.0.borrow_mut();
        if range.clone().any(|page| pages.bad.contains(&page)) {
            return Fetch::Failed(NbdError::Io);
        }
        for page in range {
            if let Some(left) = pages.slow.get_mut(&page).filter(|left| **left > 0) {
                *left -= 1;
                return Fetch::Later;
            }
        }
        Fetch::Ready
    }

    fn read(&mut self, page: u64, into: &mut Page) -> Result<(), NbdError> {
        if self.0.borrow().broken.contains(&page) {
            into.fill(0xBB);
            return Err(NbdError::Io);
        }
        *into = self.0.borrow().pages.get(&page).copied().unwrap_or([0; FRAME_SIZE]);
        Ok(())
    }

    fn is_hole(&self, mut pages: Range<u64>) -> bool {
        pages.all(|page| !self.0.borrow().pages.contains_key(&page))
    }

    fn erase(&mut self, pages: Range<u64>) {
        assert!(pages.end <= PAGES);
        let mut all = self.0.borrow_mut();
        all.most_erased = all.most_erased.max(pages.end - pages.start);
        pages.for_each(|page| _ = all.pages.remove(&page));
    }

    fn now(&self) -> Duration {
        let pages = self.0.borrow();
        pages.asked.set(pages.asked.get() + 1);
        pages.now
    }

    fn latencies(&self) -> &SwapLatencies {
        &self.2
    }
}

fn fake() -> Fake {
    Fake(Rc::default(), Rc::default(), Rc::default())
}

/// A client: what it sends goes in pieces of random length, what comes is gathered.
struct Client {
    session: Session<Fake>,
    random: fastrand::Rng,
    sent: Vec<u8>,
    got: Vec<u8>,
}

impl Client {
    fn new(fake: &Fake, seed: u64) -> Self {
        Self {
            session: Session::new(fake.clone()),
            random: fastrand::Rng::with_seed(seed),
            sent: Vec::new(),
            got: Vec::new(),
        }
    }

    /// A client that has said its flags.
    fn greeted(fake: &Fake, seed: u64) -> Self {
        let mut client = Self::new(fake, seed);
        let greeting = client.take(18);
        let flags = Greeting::read_from_bytes(&greeting).unwrap().flags().unwrap();
        assert_eq!(flags, HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES);
        client.say((ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES).bits().to_be_bytes());
        client
    }

    /// A client in transmission.
    fn connected(fake: &Fake, seed: u64, structured: bool) -> Self {
        let mut client = Self::greeted(fake, seed);
        if structured {
            client.option(OptionCode::StructuredReply as u32, &[]);
            assert_eq!(client.answer().0, ReplyType::Ack as u32);
        }
        client.option(OptionCode::Go as u32, &info("swap", &[]));
        let (kind, data) = client.answer();
        assert_eq!(kind, ReplyType::Info as u32);
        assert_eq!(data[..10], [&[0, 0], &(PAGES * 4096).to_be_bytes()[..]].concat());
        let (kind, data) = client.answer();
        assert_eq!((kind, data), (ReplyType::Info as u32, block_size_info().to_vec()));
        assert_eq!(client.answer().0, ReplyType::Ack as u32);
        client
    }

    fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.sent.extend_from_slice(bytes.as_ref());
    }

    fn option(&mut self, code: u32, data: &[u8]) {
        self.say(OptionHeader::new(code, data.len() as u32).as_bytes());
        self.say(data);
    }

    fn request(&mut self, command: Command, cookie: u64, pages: Range<u64>) {
        self.request_with(command, cookie, pages, CommandFlags::empty());
    }

    fn request_with(&mut self, command: Command, cookie: u64, pages: Range<u64>, flags: CommandFlags) {
        let len = ((pages.end - pages.start) * 4096) as u32;
        let request = Request { command: Some(command), flags, cookie, offset: pages.start * 4096, len };
        self.say(RequestHeader::new(&request).as_bytes());
    }

    /// One exchange of pieces. False when nothing moved.
    fn turn(&mut self) -> bool {
        let len = self.random.usize(0..=self.sent.len().min(9000));
        let taken = self.session.receive(&self.sent[..len]);
        assert!(taken <= len);
        self.sent.drain(..taken);
        let mut out = vec![0xEE; self.random.usize(1..9000)];
        let filled = self.session.send(&mut out);
        self.got.extend_from_slice(&out[..filled]);
        taken > 0 || filled > 0 || self.session.goes_on()
    }

    /// Until nothing more comes.
    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 50 {
            idle = if self.turn() { 0 } else { idle + 1 };
        }
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut turns = 0;
        while self.got.len() < len {
            self.turn();
            turns += 1;
            assert!(turns < 100_000, "{} of {len} bytes came", self.got.len());
        }
        self.got.drain(..len).collect()
    }

    fn answer(&mut self) -> (u32, Vec<u8>) {
        let header = OptionReplyHeader::read_from_bytes(&self.take(20)).unwrap();
        let (_, kind, len) = header.parse().unwrap();
        (kind, self.take(len as usize))
    }

    fn simple(&mut self) -> (u64, Option<NbdError>) {
        SimpleReply::read_from_bytes(&self.take(16)).unwrap().parse().unwrap()
    }

    fn chunk(&mut self) -> (ChunkFlags, u16, u64, Vec<u8>) {
        let (flags, kind, cookie, len) =
            ChunkHeader::read_from_bytes(&self.take(20)).unwrap().parse().unwrap();
        (flags, kind, cookie, self.take(len as usize))
    }

    fn has_hung_up(&mut self) -> bool {
        self.settle();
        self.session.is_over()
    }
}

fn info(name: &str, wanted: &[InfoType]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(wanted.len() as u16).to_be_bytes());
    wanted.iter().for_each(|info| data.extend_from_slice(&(*info as u16).to_be_bytes()));
    data
}

fn page(seed: u8) -> Page {
    std::array::from_fn(|at| seed.wrapping_mul(31).wrapping_add(at as u8))
}
