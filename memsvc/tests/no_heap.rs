//! Storing pages of swap and bringing them back takes no memory of the process: counted at its allocator.
#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

mod client;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memsvc::swap::nbd::{Command, NbdError};
use memsvc::swap::{Codec, SwapConfig, TierConfig, Waker};
use memsvc::{Config, MemoryService, RegionSpec};

use client::{Client, PAGE, Replies};

/// The system's allocator, with a count for each thread, and one for those that tiers have.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

static BY_TIERS: AtomicU64 = AtomicU64::new(0);

/// Of tests: threads of tiers are counted together, whoever's they are.
static TURN: Mutex<()> = Mutex::new(());

// SAFETY: all is left to the system's allocator; the counts are neither allocated nor dropped.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        if is_of_a_tier() {
            BY_TIERS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promises are those that the system's allocator wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above; the place came from there.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Whether this thread is the evictor or a tier's, by its name.
fn is_of_a_tier() -> bool {
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes 16 bytes at the most, with the zero at the end.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"evict\0") || name.starts_with(b"tier\0")
}

/// Allocations that `work` makes, on this thread and on those of tiers.
fn allocations(work: impl FnOnce()) -> (u64, u64) {
    let counts = || (COUNT.get(), BY_TIERS.load(Ordering::Relaxed));
    let before = counts();
    work();
    let after = counts();
    (after.0 - before.0, after.1 - before.1)
}

const PAGES: u64 = 5000;
const BYTES: u64 = PAGES * PAGE as u64;

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn service(memory: u64, codec: Codec, tiers: Vec<TierConfig>) -> Arc<MemoryService> {
    let regions = vec![RegionSpec { gpa: 0, len: 16 << 20 }];
    let swap = SwapConfig { name: "swap".into(), bytes: BYTES, memory, codec, tiers };
    let config = Config { swap: Some(swap), ..Config::new(regions) };
    MemoryService::new(&config, |why| panic!("{why}")).expect("a service on this host")
}

fn client(service: &MemoryService, replies: Replies) -> Client {
    let waker = Arc::new(Waker::new().expect("a descriptor"));
    Client::new(service.swap().expect("swap").connect(&waker), replies)
}

/// A page that packs to any size, by its number.
fn fill(page: &mut [u8; PAGE], number: u64) {
    let mut random = fastrand::Rng::with_seed(number);
    page.fill(number as u8);
    let len = random.usize(8..PAGE);
    random.fill(&mut page[..len]);
}

/// Writes all pages, reads all, and asks for what is refused.
fn write_and_read(client: &mut Client) {
    let mut page = [0; PAGE];
    for number in 0..PAGES {
        fill(&mut page, number);
        client.write(number, &page);
    }
    for number in 0..PAGES {
        fill(&mut page, number);
        assert!(client.read(number) == page, "page {number}");
    }
    assert_eq!(client.ask(Command::Read, PAGES, PAGE as u32, &[]), Some(NbdError::Invalid));
    assert_eq!(client.ask(Command::Write, PAGES, PAGE as u32, &page), Some(NbdError::NoSpace));
}

#[test]
fn storing_pages_and_reading_them_allocates_nothing() {
    let _turn = turn();
    for codec in Codec::ALL {
        for replies in [Replies::Simple, Replies::Structured] {
            let service = service(BYTES, codec, vec![]);
            let mut client = client(&service, replies);
            // Once for each size class, tables of slabs grow: by half at the least, so a few times.
            let (first, _) = allocations(|| write_and_read(&mut client));
            assert!(first < 119 * 3 * 8, "{first} allocations for {PAGES} pages");
            client.trim(0, BYTES as u32);
            let again = allocations(|| write_and_read(&mut client));
            assert_eq!(again, (0, 0), "{codec:?}, {replies:?}; the first time it was {first}");
            assert_eq!(service.swap().expect("swap").stats().store.stored_pages, PAGES);
        }
    }
}

/// Nor do pages that leave for a tier and come back, on any of the threads that they go through. They are stored as
/// they are, so that tables grow as far as they ever will the first time.
#[test]
fn tiers_allocate_nothing() {
    let _turn = turn();
    let directory = tempfile::tempdir().expect("a directory");
    let server = client::Nbdkit::start(directory.path(), BYTES);
    for tier in [TierConfig::File(directory.path().to_path_buf()), server.tier()] {
        let service = service(3 << 20, Codec::None, vec![tier.clone()]);
        let mut client = client(&service, Replies::Structured);
        allocations(|| write_and_read(&mut client));
        let again = allocations(|| (0..3).for_each(|_| write_and_read(&mut client)));
        assert_eq!(again, (0, 0), "{tier}");
        let tier = &service.swap().expect("swap").stats().store.tiers[0];
        assert!(tier.pages_written > 3 * PAGES && tier.pages_read > 3 * PAGES, "{tier:?}");
    }
}
