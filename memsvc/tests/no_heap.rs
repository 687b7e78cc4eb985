//! Storing pages of swap takes no memory of the process: counted at its allocator.
#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use memsvc::swap::nbd::{
    ClientFlags, Command, CommandFlags, OptionCode, OptionHeader, Request, RequestHeader, SimpleReply,
};
use memsvc::swap::{Codec, Connection, SwapConfig, Waker};
use memsvc::{Config, MemoryService, RegionSpec};
use zerocopy::{FromBytes, IntoBytes};

/// The system's allocator, with a count for each thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all is left to the system's allocator; the count is neither allocated nor dropped.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are those that the system's allocator wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above; the place came from there.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Allocations of this thread that `work` makes.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

const PAGE: usize = 4096;
const PAGES: u64 = 16 << 8;

struct Client {
    connection: Connection,
    out: Vec<u8>,
}

impl Client {
    fn new(mut connection: Connection) -> Self {
        let mut out = vec![0; 4 * PAGE];
        let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
        let option = OptionHeader::new(OptionCode::ExportName as u32, 0);
        let hello = [&flags.bits().to_be_bytes(), option.as_bytes()].concat();
        while connection.send(&mut out) > 0 {}
        assert_eq!(connection.receive(&hello), hello.len());
        while connection.send(&mut out) > 0 {}
        Self { connection, out }
    }

    fn ask(&mut self, command: Command, page: u64, len: u32, data: &[u8]) {
        let (flags, offset) = (CommandFlags::empty(), page * PAGE as u64);
        let request = Request { command: Some(command), flags, cookie: page, offset, len };
        for mut bytes in [RequestHeader::new(&request).as_bytes(), data] {
            while !bytes.is_empty() {
                let taken = self.connection.receive(bytes);
                bytes = &bytes[taken..];
            }
        }
        let mut len = 0;
        while len < size_of::<SimpleReply>() {
            len += self.connection.send(&mut self.out[len..]);
        }
        let reply = SimpleReply::read_from_prefix(&self.out).ok().and_then(|(reply, _)| reply.parse());
        assert_eq!(reply, Some((page, None)));
    }
}

/// A page that packs to any size, by its number.
fn fill(page: &mut [u8; PAGE], number: u64) {
    let mut random = fastrand::Rng::with_seed(number);
    page.fill(number as u8);
    let len = random.usize(8..PAGE);
    random.fill(&mut page[..len]);
}

#[test]
fn storing_pages_allocates_nothing() {
    let regions = vec![RegionSpec { gpa: 0, len: 16 << 20 }];
    let bytes = PAGES * PAGE as u64;
    let swap = SwapConfig { name: "swap".into(), bytes, memory: bytes, codec: Codec::Lz4, tiers: vec![] };
    let config = Config { swap: Some(swap), ..Config::new(regions) };
    let service = MemoryService::new(&config, |why| panic!("{why}")).expect("a service on this host");
    let mut client =
        Client::new(service.swap().expect("swap").connect(&Arc::new(Waker::new().expect("a descriptor"))));
    let mut page = [0; PAGE];
    let store_all = |client: &mut Client, page: &mut [u8; PAGE], seed: u64| {
        for number in 0..PAGES {
            fill(page, seed + number);
            client.ask(Command::Write, number, PAGE as u32, page);
        }
    };
    // Once for each size class, tables of slabs grow: by half at the least, so a few times.
    let first = allocations(|| store_all(&mut client, &mut page, 0));
    assert!(first < 119 * 3 * 8, "{first} allocations for {PAGES} pages");
    client.ask(Command::Trim, 0, bytes as u32, &[]);
    let again = allocations(|| store_all(&mut client, &mut page, 0));
    assert_eq!(again, 0, "the first time it was {first}");
    assert_eq!(service.swap().expect("swap").stats().store.stored_pages, PAGES);
}
