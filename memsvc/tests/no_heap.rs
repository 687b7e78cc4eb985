//! Storing pages of swap takes no memory of the process: counted at its allocator.
#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use memsvc::swap::{Codec, Connection, SwapConfig, Waker};
use memsvc::{Config, MemoryService, RegionSpec};

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

/// Numbers of NBD (doc/proto.md).
const IHAVEOPT: u64 = 0x4948_4156_454F_5054;
const OPT_EXPORT_NAME: u32 = 1;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const WRITE: u16 = 1;
const TRIM: u16 = 4;

struct Client {
    connection: Connection,
    out: Vec<u8>,
}

impl Client {
    fn new(mut connection: Connection) -> Self {
        let mut out = vec![0; 4 * PAGE];
        let mut hello = Vec::new();
        hello.extend_from_slice(&3u32.to_be_bytes());
        hello.extend_from_slice(&IHAVEOPT.to_be_bytes());
        hello.extend_from_slice(&OPT_EXPORT_NAME.to_be_bytes());
        hello.extend_from_slice(&0u32.to_be_bytes());
        while connection.send(&mut out) > 0 {}
        assert_eq!(connection.receive(&hello), hello.len());
        while connection.send(&mut out) > 0 {}
        Self { connection, out }
    }

    fn ask(&mut self, command: u16, page: u64, len: u32, data: &[u8]) {
        let mut request = [0; 28];
        request[..4].copy_from_slice(&REQUEST.to_be_bytes());
        request[6..8].copy_from_slice(&command.to_be_bytes());
        request[16..24].copy_from_slice(&(page * PAGE as u64).to_be_bytes());
        request[24..].copy_from_slice(&len.to_be_bytes());
        for mut bytes in [&request[..], data] {
            while !bytes.is_empty() {
                let taken = self.connection.receive(bytes);
                bytes = &bytes[taken..];
            }
        }
        let mut len = 0;
        while len < 16 {
            len += self.connection.send(&mut self.out[len..]);
        }
        let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|byte| self.out[at + byte]));
        assert_eq!((word(0), word(4)), (REPLY, 0), "page {page}");
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
            client.ask(WRITE, number, PAGE as u32, page);
        }
    };
    // Once for each size class, tables of slabs grow: by half at the least, so a few times.
    let first = allocations(|| store_all(&mut client, &mut page, 0));
    assert!(first < 119 * 3 * 8, "{first} allocations for {PAGES} pages");
    client.ask(TRIM, 0, bytes as u32, &[]);
    let again = allocations(|| store_all(&mut client, &mut page, 0));
    assert_eq!(again, 0, "the first time it was {first}");
    assert_eq!(service.swap().expect("swap").stats().store.stored_pages, PAGES);
}
