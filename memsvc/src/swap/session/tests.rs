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

#[test]
fn options_are_answered_each_in_its_way() {
    let fake = fake();
    let mut client = Client::greeted(&fake, 1);
    client.option(99, b"what is this");
    assert_eq!(client.answer().0, ReplyType::ErrUnsupported as u32);
    client.option(OptionCode::List as u32, &[]);
    assert_eq!(client.answer(), (ReplyType::Server as u32, b"\0\0\0\x04swapa line".to_vec()));
    assert_eq!(client.answer(), (ReplyType::Ack as u32, vec![]));
    client.option(OptionCode::List as u32, b"data");
    assert_eq!(client.answer().0, ReplyType::ErrInvalid as u32);
    client.option(OptionCode::Info as u32, &info("other guest", &[]));
    assert_eq!(client.answer().0, ReplyType::ErrUnknown as u32);
    client.option(OptionCode::Go as u32, &info("swap", &[])[..7]);
    assert_eq!(client.answer().0, ReplyType::ErrInvalid as u32);
    client.option(OptionCode::Go as u32, &vec![0; 100_000]);
    assert_eq!(client.answer().0, ReplyType::ErrTooBig as u32);
    client.option(OptionCode::Info as u32, &info("swap", &[InfoType::Description, InfoType::Name]));
    let answers: Vec<_> = (0..5).map(|_| client.answer()).collect();
    assert!(answers.contains(&(ReplyType::Info as u32, b"\0\x01swap".to_vec())));
    assert!(answers.contains(&(ReplyType::Info as u32, b"\0\x02a line".to_vec())));
    client.option(OptionCode::Abort as u32, &[]);
    assert_eq!(client.answer().0, ReplyType::Ack as u32);
    assert!(client.has_hung_up());
    assert_eq!(fake.1.snapshot(), NbdStats { connections: 1, refused: 5, ..NbdStats::default() });
}

#[test]
fn the_old_way_to_choose_an_export_works_with_and_without_zeroes() {
    for no_zeroes in [false, true] {
        let fake = fake();
        let mut client = Client::new(&fake, 1);
        client.take(18);
        client.say((1 | u32::from(no_zeroes) << 1).to_be_bytes());
        client.option(OptionCode::ExportName as u32, b"swap");
        assert_eq!(client.take(8), (PAGES * 4096).to_be_bytes());
        client.take(2 + if no_zeroes { 0 } else { 124 });
        client.request(Command::Flush, 7, 0..0);
        assert_eq!(client.simple(), (7, None));
    }
    let mut client = Client::greeted(&fake(), 1);
    client.option(OptionCode::ExportName as u32, b"other guest");
    assert!(client.has_hung_up());
}

#[test]
fn nonsense_instead_of_a_handshake_is_hung_up_on() {
    for nonsense in [&b"GET / HTTP/1.1\r\n"[..], &[0; 64], &[0xFF; 64]] {
        let fake = fake();
        let mut client = Client::new(&fake, 1);
        client.say(nonsense);
        assert!(client.has_hung_up());
        assert_eq!(fake.1.snapshot().malformed, 1);
    }
    let fake = fake();
    let mut client = Client::greeted(&fake, 1);
    client.say([7; 16]);
    assert!(client.has_hung_up());
}

#[test]
fn requests_that_make_no_sense_are_refused_and_the_connection_goes_on() {
    refuses(false);
    refuses(true);
}

fn refuses(structured: bool) {
    let fake = fake();
    let mut client = Client::connected(&fake, 1, structured);
    let refused = |client: &mut Client, request: Request, data: usize| {
        client.say(RequestHeader::new(&request).as_bytes());
        client.settle();
        for piece in vec![1; data].chunks(1 << 20) {
            assert_eq!(client.session.receive(piece), piece.len());
        }
        if structured && request.command == Some(Command::Read) {
            let (flags, kind, cookie, data) = client.chunk();
            assert_eq!((flags, kind), (ChunkFlags::DONE, ChunkType::Error as u16));
            assert_eq!(cookie, request.cookie);
            let (code, _) = data.split_first_chunk::<4>().unwrap();
            return NbdError::new(u32::from_be_bytes(*code)).unwrap();
        }
        let (cookie, error) = client.simple();
        assert_eq!(cookie, request.cookie);
        error.unwrap()
    };
    let read = Request {
        command: Some(Command::Read),
        flags: CommandFlags::empty(),
        cookie: 5,
        offset: 0,
        len: 4096,
    };
    let write = Request { command: Some(Command::Write), ..read };
    let end = PAGES * 4096;
    assert_eq!(refused(&mut client, Request { offset: 512, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { len: 0, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { len: u32::MAX, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { offset: end, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { offset: u64::MAX - 4095, ..read }, 0), NbdError::Invalid);
    assert_eq!(refused(&mut client, Request { command: None, ..read }, 0), NbdError::Invalid);
    let df = Request { flags: CommandFlags::DF, len: 65 * 4096, ..read };
    let error = if structured { NbdError::Overflow } else { NbdError::Invalid };
    assert_eq!(refused(&mut client, df, 0), error);
    assert_eq!(
        refused(&mut client, Request { offset: end - 4096, len: 8192, ..write }, 8192),
        NbdError::NoSpace
    );
    assert_eq!(refused(&mut client, Request { len: 100, ..write }, 100), NbdError::Invalid);
    let too_long = Request { len: MAX_PAYLOAD + 4096, ..write };
    assert_eq!(refused(&mut client, too_long, too_long.len as usize), NbdError::Invalid);
    assert_eq!(fake.1.snapshot().refused, 10);
    client.request(Command::Write, 9, 0..1);
    client.say(page(1));
    assert_eq!(client.simple(), (9, None));
    assert!(fake.0.borrow().pages[&0] == page(1));
    client.say([7; 28]);
    assert!(client.has_hung_up());
    assert_eq!(fake.1.snapshot().malformed, 1);
}

#[test]
fn errors_are_answered_and_change_nothing_else() {
    let fake = fake();
    fake.0.borrow_mut().bad = vec![3, 100];
    for structured in [false, true] {
        let mut client = Client::connected(&fake, 1, structured);
        client.request(Command::Write, 1, 2..5);
        (0..3).for_each(|at| client.say(page(at)));
        assert_eq!(client.simple(), (1, Some(NbdError::NoSpace)));
        client.request(Command::Read, 2, 2..4);
        if structured {
            let (flags, kind, cookie, data) = client.chunk();
            assert_eq!((flags, kind, cookie), (ChunkFlags::DONE, ChunkType::Error as u16, 2));
            assert_eq!(data[..4], 5u32.to_be_bytes());
        } else {
            assert_eq!(client.simple(), (2, Some(NbdError::Io)));
        }
        // In the second window: some has been sent.
        client.request(Command::Read, 3, 60..130);
        if structured {
            let (flags, kind, ..) = client.chunk();
            assert_eq!((flags, kind), (ChunkFlags::DONE, ChunkType::Error as u16));
        } else {
            assert_eq!(client.simple(), (3, Some(NbdError::Io)));
        }
        fake.0.borrow_mut().bad = vec![3, 140];
        client.request(Command::Read, 4, 60..150);
        if structured {
            let (flags, ..) = client.chunk();
            assert_eq!(flags, ChunkFlags::empty());
            let (flags, kind, ..) = client.chunk();
            assert_eq!((flags, kind), (ChunkFlags::DONE, ChunkType::Error as u16));
            client.request(Command::Read, 5, 0..1);
            assert_eq!(client.chunk().2, 5);
        } else {
            // There is no other way to say so.
            assert_eq!(client.simple(), (4, None));
            assert!(client.has_hung_up());
        }
        fake.0.borrow_mut().bad = vec![3, 100];
    }
}

#[test]
fn what_cannot_be_read_is_not_sent() {
    let fake = fake();
    fake.0.borrow_mut().broken = vec![1];
    for seed in 0..20 {
        let mut client = Client::connected(&fake, seed, false);
        client.request(Command::Read, 1, 0..2);
        assert!(client.has_hung_up());
        assert_eq!(client.got.len(), 16 + 4096);
        assert!(!client.got.contains(&0xBB));
    }
    assert_eq!(fake.1.snapshot().errors, 20);
}

#[test]
fn who_waits_for_a_page_does_not_hold_up_others() {
    let fake = fake();
    fake.0.borrow_mut().slow.insert(1, 100);
    fake.0.borrow_mut().pages.insert(1, page(1));
    fake.0.borrow_mut().pages.insert(2, page(2));
    let mut client = Client::connected(&fake, 1, false);
    client.request(Command::Read, 1, 1..2);
    client.request(Command::Read, 2, 2..3);
    assert_eq!(client.simple(), (2, None));
    assert_eq!(client.take(4096), page(2));
    fake.0.borrow_mut().slow.clear();
    assert_eq!(client.simple(), (1, None));
    assert_eq!(client.take(4096), page(1));
}

#[test]
fn a_page_that_waits_for_room_is_stored_when_there_is_some() {
    let fake = fake();
    for seed in 0..20 {
        fake.0.borrow_mut().pages.clear();
        fake.0.borrow_mut().full.insert(2, u32::MAX);
        let mut client = Client::connected(&fake, seed, false);
        client.request(Command::Write, 1, 1..4);
        (1..4).for_each(|at| client.say(page(at)));
        client.request(Command::Read, 2, 2..3);
        client.settle();
        assert!(client.got.is_empty(), "it has not been written");
        assert!(!client.sent.is_empty(), "nothing more is taken");
        assert_eq!(fake.0.borrow().pages.keys().copied().collect::<Vec<_>>(), [1]);
        fake.0.borrow_mut().full.clear();
        // Nothing comes: whoever drives it asks what there is to send.
        assert_eq!(client.session.send(&mut [0; 16]), 0);
        assert!(fake.0.borrow().pages.contains_key(&2));
        assert_eq!(client.simple(), (1, None));
        assert_eq!(client.simple(), (2, None));
        assert_eq!(client.take(4096), page(2));
    }
}

#[test]
fn it_is_counted_how_long_each_request_took() {
    let fake = fake();
    let later = |us| fake.0.borrow_mut().now += Duration::from_micros(us);
    let mut client = Client::connected(&fake, 1, false);
    // A write: from its header on, however its data comes.
    client.request(Command::Write, 1, 0..2);
    client.settle();
    later(10);
    client.say(page(1));
    client.settle();
    later(20);
    client.say(page(2));
    assert_eq!(client.simple(), (1, None));
    // A read of what is there, while another waits for a tier.
    fake.0.borrow_mut().slow.insert(1, u32::MAX);
    client.request(Command::Read, 2, 1..2);
    client.settle();
    later(100);
    client.request(Command::Read, 3, 0..1);
    assert_eq!(client.simple(), (3, None));
    assert_eq!(client.take(4096), page(1));
    later(1000);
    fake.0.borrow_mut().slow.clear();
    assert_eq!(client.simple(), (2, None));
    assert_eq!(client.take(4096), page(2));
    let asked = fake.0.borrow().asked.get();
    // Errors, and what is neither.
    fake.0.borrow_mut().bad = vec![5];
    client.request(Command::Read, 4, 5..6);
    assert_eq!(client.simple(), (4, Some(NbdError::Io)));
    client.request(Command::Write, 5, 5..6);
    client.say(page(1));
    assert_eq!(client.simple(), (5, Some(NbdError::NoSpace)));
    client.request(Command::Flush, 6, 0..0);
    assert_eq!(client.simple(), (6, None));
    let took = fake.2.snapshot();
    let [writes, reads, from_tiers] =
        [took.writes, took.reads, took.reads_from_tiers].map(|took| (took.count, took.total_us));
    assert_eq!((writes, reads, from_tiers), ((1, 30), (1, 0), (1, 1100)));
    assert_eq!(asked, 2 * 3, "twice a request, not each time it is tried");
}

#[test]
fn long_erasures_take_turns() {
    let fake = fake();
    let mut client = Client::connected(&fake, 1, false);
    client.request(Command::Trim, 1, 0..PAGES);
    client.request_with(Command::WriteZeroes, 2, 5..6, CommandFlags::NO_HOLE | CommandFlags::FUA);
    assert_eq!([client.simple(), client.simple()], [(1, None), (2, None)]);
    assert_eq!(fake.0.borrow().most_erased, ERASED_AT_ONCE);
}

#[test]
fn good_bye_comes_after_the_answers() {
    let fake = fake();
    let mut client = Client::connected(&fake, 1, false);
    client.request(Command::Read, 1, 0..3);
    client.request(Command::Disconnect, 2, 0..0);
    client.request(Command::Read, 3, 0..3);
    assert_eq!(client.simple(), (1, None));
    client.take(3 * 4096);
    assert!(client.has_hung_up());
    assert_eq!(client.got.len(), 0);
}

#[test]
fn a_client_that_does_not_read_is_not_listened_to() {
    let fake = fake();
    let mut session = Client::connected(&fake, 1, false).session;
    let request = Request {
        command: Some(Command::Read),
        flags: CommandFlags::empty(),
        cookie: 1,
        offset: 0,
        len: 4096,
    };
    let many = RequestHeader::new(&request).as_bytes().repeat(1000);
    let taken = session.receive(&many);
    assert_eq!(taken, 128 * 28);
    assert_eq!(session.receive(&many[taken..]), 0);
    let mut out = [0; 16 + 4096];
    assert_eq!(session.send(&mut out), out.len());
    assert_eq!(session.receive(&many[taken..]), 28, "one for the one that was answered");
}

#[derive(Clone, Debug)]
enum Op {
    Read(Range<u64>),
    Write(u64, Vec<u8>),
    Erase(Range<u64>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = (0..200u64, 1..150u64).prop_map(|(start, len)| start..start + len);
    let op = prop_oneof![
        range.clone().prop_map(Op::Read),
        (0..200u64, prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, pages)| Op::Write(at, pages)),
        range.prop_map(Op::Erase),
    ];
    prop::collection::vec(op, 1..30)
}

proptest! {
    /// However the bytes are cut, a client reads what it wrote.
    #[test]
    fn reads_what_was_written(
        ops in ops(),
        seed: u64,
        structured: bool,
        waits in prop::collection::hash_map(0..300u64, 1..4u32, 0..20),
    ) {
        let fake = fake();
        fake.0.borrow_mut().slow.clone_from(&waits);
        fake.0.borrow_mut().full = waits;
        let mut client = Client::connected(&fake, seed, structured);
        let mut model = HashMap::new();
        for (cookie, op) in (0..).zip(ops) {
            match op {
                Op::Write(at, pages) => {
                    client.request(Command::Write, cookie, at..at + pages.len() as u64);
                    for (at, seed) in (at..).zip(pages) {
                        client.say(page(seed));
                        model.insert(at, page(seed));
                    }
                    prop_assert_eq!(client.simple(), (cookie, None));
                }
                Op::Erase(range) => {
                    client.request(Command::Trim, cookie, range.clone());
                    prop_assert_eq!(client.simple(), (cookie, None));
                    range.for_each(|page| _ = model.remove(&page));
                }
                Op::Read(range) => {
                    client.request(Command::Read, cookie, range.clone());
                    let read = read_reply(&mut client, cookie, &range, structured);
                    for (at, read) in range.zip(read.chunks(4096)) {
                        prop_assert!(read == model.get(&at).copied().unwrap_or([0; 4096]), "page {}", at);
                    }
                }
            }
        }
    }

    /// Whatever comes, the session does not panic, and ends or goes on.
    #[test]
    fn survives_garbage(garbage in prop::collection::vec(any::<u8>(), 0..400), seed: u64, at in 0..3u8) {
        let fake = fake();
        let mut client = match at {
            0 => Client::new(&fake, seed),
            1 => Client::greeted(&fake, seed),
            _ => Client::connected(&fake, seed, true),
        };
        client.say(garbage);
        client.settle();
        prop_assert!(client.got.len() < 1 << 20);
    }

    /// Requests that are nearly right are answered or end the connection.
    #[test]
    fn survives_requests_with_a_byte_changed(byte in 0..28usize, to: u8, seed: u64) {
        let fake = fake();
        let mut client = Client::connected(&fake, seed, false);
        client.request(Command::Write, 1, 5..6);
        client.sent[byte] = to;
        client.say(page(1));
        client.settle();
        prop_assert!(client.session.is_over() || client.sent.is_empty());
    }
}

fn read_reply(client: &mut Client, cookie: u64, range: &Range<u64>, structured: bool) -> Vec<u8> {
    let bytes = ((range.end - range.start) * 4096) as usize;
    if !structured {
        assert_eq!(client.simple(), (cookie, None));
        return client.take(bytes);
    }
    let mut read = vec![0xEE; bytes];
    loop {
        let (flags, kind, of, data) = client.chunk();
        assert_eq!(of, cookie);
        let (offset, data) = data.split_first_chunk::<8>().unwrap();
        let at = (u64::from_be_bytes(*offset) - range.start * 4096) as usize;
        if kind == ChunkType::OffsetHole as u16 {
            let len = u32::from_be_bytes(data.try_into().unwrap()) as usize;
            read[at..at + len].fill(0);
        } else {
            assert_eq!(kind, ChunkType::OffsetData as u16);
            read[at..at + data.len()].copy_from_slice(data);
        }
        if flags.contains(ChunkFlags::DONE) {
            return read;
        }
    }
}
