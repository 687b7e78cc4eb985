//! Swap in a guest's arena: what is stored there is compacted as guest memory is, and gone when it is
//! released.

mod reserve;

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use super::store::Seat;
use super::*;
use crate::core::compact::{PolicyKind, Tuning};
use crate::{Config, MemoryService, RegionSpec};

const PAGES: u64 = 16 << 8;

/// A guest of 16 MiB with swap of the same size.
fn service() -> Arc<MemoryService> {
    let regions = vec![RegionSpec { gpa: 0, len: 16 << 20 }];
    let swap = SwapConfig {
        name: "swap".into(),
        bytes: PAGES << 12,
        memory: PAGES << 12,
        codec: Codec::Lz4,
        tiers: vec![],
    };
    let compaction = Tuning { policy: PolicyKind::Off, ..Tuning::default() };
    let config = Config { swap: Some(swap), compaction, ..Config::new(regions) };
    MemoryService::new(&config, |why| panic!("{why}")).unwrap()
}

/// A page that packs to less than half.
fn page_of(number: u64) -> session::Page {
    let mut page = [0; FRAME_SIZE];
    let mut random = fastrand::Rng::with_seed(number);
    let len = random.usize(100..1800);
    random.fill(&mut page[..len]);
    page
}

fn seat(store: &Store, codec: Codec) -> Seat {
    store.seat(OUTSIDE, codec, &Arc::new(Waker::new().unwrap())).unwrap()
}

/// Bytes of this process, as another one sees them.
pub(super) fn memory_at(address: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open("/proc/self/mem").unwrap().read_exact_at(&mut bytes, address as u64).unwrap();
    bytes
}

/// What `work` leaves on the stack, and what that came to. Deep enough that nothing is written over by who looks.
pub(super) fn stack_after<T>(work: impl FnOnce() -> T) -> (Vec<u8>, T) {
    #[inline(never)]
    fn deeper<T>(work: impl FnOnce() -> T) -> T {
        black_box(&mut [0_u8; 4 << 10]);
        work()
    }
    const SEEN: usize = 64 << 10;
    let here = 0_u8;
    let done = deeper(work);
    (memory_at(&raw const here as usize - SEEN, SEEN), done)
}

/// Whether some bytes have any 32 of a secret, in words.
pub(super) fn has_any_of(bytes: &[u8], secret: &[u8]) -> bool {
    let is_part = |part: &[u8]| secret.chunks_exact(32).any(|piece| piece == part);
    bytes.windows(32).step_by(4).any(is_part)
}

fn frames(service: &MemoryService) -> u64 {
    service.stats().arena.frames_by_type.movable_slab
}

#[test]
fn pages_stay_as_they_are_while_their_blocks_are_emptied_and_go_when_they_are_erased() {
    let service = service();
    let store = &service.swap().unwrap().export.store;
    let mut seat = seat(store, Codec::Lz4);
    for page in 0..PAGES {
        store.write(&mut seat, page, &page_of(page)).unwrap();
    }
    // Nine bytes a page, and a pointer with its lock for each 512.
    let table = service.swap().unwrap().stats().store.table_bytes;
    assert!((9 * PAGES + 1..10 * PAGES).contains(&table), "{table}");
    let before = frames(&service);
    assert!(before > 0 && before < PAGES / 2, "{before} frames for {PAGES} pages");
    let charged: Vec<u64> =
        service.type_info().charges.iter().map(|charge| charge.frames.movable_slab).collect();
    assert_eq!(charged.iter().sum::<u64>(), before, "{charged:?}");

    // Every fourth page stays, so that all slabs do.
    (0..PAGES).filter(|page| page % 4 != 0).for_each(|page| store.erase(OUTSIDE, page..page + 1));
    let compacted = service.compact(|| true);
    assert!(compacted.blocks > 0, "{compacted:?}");
    assert!(frames(&service) < before / 2, "{} of {before} frames", frames(&service));
    let mut read = [0; FRAME_SIZE];
    for page in 0..PAGES {
        store.read(&mut seat, page, &mut read).unwrap();
        let expected = if page % 4 == 0 { page_of(page) } else { [0; FRAME_SIZE] };
        assert!(read == expected, "page {page}");
    }

    store.erase(OUTSIDE, 0..PAGES);
    service.reclaim(1, || true);
    let stats = service.stats();
    assert_eq!(stats.arena.frames_by_type.movable_slab, 0);
    assert_eq!(stats.arena.broken_blocks, 0, "a block is still in pieces");
    assert_eq!(service.walk().unwrap().arena_resident_bytes, 0);
}

/// What is erased goes back by itself, with nobody who asks for it.
#[test]
fn memory_of_erased_pages_goes_back_to_the_host() {
    let service = service();
    let store = &service.swap().unwrap().export.store;
    let mut seat = seat(store, Codec::None);
    for page in 0..PAGES {
        store.write(&mut seat, page, &page_of(page)).unwrap();
    }
    assert!(service.walk().unwrap().arena_resident_bytes >= PAGES << 12);
    store.erase(OUTSIDE, 0..PAGES);
    let start = std::time::Instant::now();
    while service.walk().unwrap().arena_resident_bytes > 0 {
        assert!(start.elapsed().as_secs() < 60, "{:?}", service.stats().arena);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// 32 bytes are left of each page on a tier: 8 MiB of each GiB.
#[test]
fn records_want_a_128th_of_what_is_on_tiers() {
    let gib = 1 << 18;
    assert_eq!(too_little(8 << 20, gib), None);
    assert_eq!(too_little((8 << 20) - 1, gib), Some(1023));
    assert_eq!(too_little(4 << 20, gib), Some(512));
    assert_eq!(too_little(0, 1), Some(0));
    assert_eq!(too_little(0, 0), None);
}

/// A connection to one guest's export finds it by its name or by none, and no other.
#[test]
fn there_is_no_export_but_ones_own() {
    use super::session::Exports;
    let service = service();
    let offer =
        Offer { export: Arc::clone(&service.swap().unwrap().export), waker: Arc::new(Waker::new().unwrap()) };
    for name in [&b"swap"[..], b""] {
        assert_eq!(offer.pages(name), Some(PAGES));
        assert!(offer.open(name).is_some());
    }
    for name in [&b"other"[..], b"swap2", b"swa", b"SWAP", b"\0"] {
        assert_eq!(offer.pages(name), None);
        assert!(offer.open(name).is_none());
    }
    assert_eq!(offer.list().len(), 1);
}
