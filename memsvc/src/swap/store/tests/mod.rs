mod tiers;

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::core::units::FRAME_SIZE;

const PAGES: u64 = 600;
const CPU: CpuId = CpuId(0);

fn store(bytes: u64) -> Store {
    Store::new(
        Limits { pages: PAGES, bytes, touched: 0 },
        Arc::new(Objects::standalone(bytes * 2, 2).unwrap()),
        Box::new(|| {}),
        None,
    )
}

fn seat(store: &Store, codec: Codec) -> Seat {
    store.seat(CPU, codec, &Arc::new(Waker::new().unwrap())).unwrap()
}

/// A page of a kind: zeroes, one word, one that packs well, one that does not.
fn page_of(kind: u8, seed: u64) -> Page {
    let mut page = [0; FRAME_SIZE];
    match kind % 4 {
        0 => {}
        1 => fill(&mut page, seed | 1),
        kind => {
            let mut random = fastrand::Rng::with_seed(seed);
            let random_bytes = if kind == 2 { 700 } else { FRAME_SIZE };
            random.fill(&mut page[..random_bytes]);
        }
    }
    page
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u8, u64),
    Erase(u64, u64),
    Read(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let page = 0..PAGES + 2;
    let op = prop_oneof![
        4 => (page.clone(), any::<u8>(), 0..50u64).prop_map(|(page, kind, seed)| Op::Write(page, kind, seed)),
        1 => (page.clone(), 0..20u64).prop_map(|(page, len)| Op::Erase(page, page + len)),
        2 => page.prop_map(Op::Read),
    ];
    prop::collection::vec(op, 1..200)
}

proptest! {
    /// A store is a map from pages to contents, of which a part fits; and it counts right.
    #[test]
    fn is_a_map(ops in ops(), codec in 0..3usize, tight: bool) {
        let store = store(if tight { 64 << 10 } else { 16 << 20 });
        let mut seat = seat(&store, Codec::ALL[codec]);
        let mut model: HashMap<u64, Page> = HashMap::new();
        let mut read = [0; FRAME_SIZE];
        for op in ops {
            match op {
                Op::Write(page, kind, seed) => {
                    let data = page_of(kind, seed);
                    match store.write(&mut seat, page, &data) {
                        Ok(stored) => {
                            prop_assert!(page < PAGES && stored == Stored::Now);
                            model.insert(page, data);
                        }
                        Err(error) => {
                            prop_assert_eq!(error, NbdError::NoSpace);
                            prop_assert!(tight || page >= PAGES);
                        }
                    }
                }
                Op::Erase(from, to) => {
                    store.erase(CPU, from..to);
                    (from..to).for_each(|page| _ = model.remove(&page));
                    prop_assert!(store.is_hole(from..to));
                }
                Op::Read(page) => {
                    let result = store.read(&mut seat, page, &mut read);
                    prop_assert_eq!(result.is_ok(), page < PAGES);
                }
            }
        }
        for page in 0..PAGES {
            prop_assert_eq!(store.read(&mut seat, page, &mut read), Ok(()));
            prop_assert!(read == model.get(&page).copied().unwrap_or([0; FRAME_SIZE]), "page {}", page);
        }
        let stats = store.stats();
        let is_zero = |page: &Page| page.iter().all(|byte| *byte == 0);
        let stored = model.values().filter(|page| !is_zero(page)).count() as u64;
        let same = model.values().filter(|page| !is_zero(page) && same_filled(page).is_some()).count() as u64;
        prop_assert_eq!((stats.stored_pages, stats.same_filled_pages, stats.lost), (stored, same, 0));
        prop_assert!(stats.stored_bytes <= stats.limit_bytes);
        store.erase(CPU, 0..PAGES);
        let StoreStats { stored_pages, same_filled_pages, incompressible_pages, stored_bytes, .. } = store.stats();
        prop_assert_eq!((stored_pages, same_filled_pages, incompressible_pages, stored_bytes), (0, 0, 0, 0));
        store.objects().shrink(CPU, true, || true);
        prop_assert_eq!(store.objects().info().caches.iter().map(|cache| cache.slabs).sum::<u64>(), 0);
    }
}

/// Nothing of a page is left in memory once it is erased.
#[test]
fn pages_are_wiped() {
    let store = store(1 << 20);
    let mut seat = seat(&store, Codec::None);
    let secret = page_of(3, 1);
    store.write(&mut seat, 0, &secret).unwrap();
    let Slot::Object(handle, _) = store.slots.get(0).unwrap() else { panic!("is stored whole") };
    let address = store.objects.read(handle, |bytes| bytes.as_ptr() as usize).unwrap();
    assert!(store.objects.peek_for_test(address) == secret);
    store.erase(CPU, 0..1);
    let left = store.objects.peek_for_test(address);
    assert!(left.iter().all(|byte| *byte == left[0]), "what was stored is still there");
}

/// Nor where it was before it was moved.
#[test]
fn pages_are_wiped_where_they_were() {
    let store = store(1 << 20);
    let mut seat = seat(&store, Codec::Lz4);
    let bytes_of = |page| {
        let Slot::Object(handle, _) = store.slots.get(page).unwrap() else { panic!("is packed") };
        store.objects.read(handle, |bytes| (bytes.as_ptr() as usize, bytes.to_vec())).unwrap()
    };
    (0..200).for_each(|page| _ = store.write(&mut seat, page, &partly_random(1000)).unwrap());
    let kept = (0..200).step_by(5);
    (0..200).filter(|page| page % 5 != 0).for_each(|page| store.erase(CPU, page..page + 1));
    let before: Vec<_> = kept.clone().map(bytes_of).collect();
    store.objects.shrink(CPU, true, || true);
    let mut moved = 0;
    for (page, (place, bytes)) in kept.zip(before) {
        let (now, same) = bytes_of(page);
        assert_eq!(same, bytes);
        if now != place {
            moved += 1;
            assert!(
                !store.objects.peek_for_test(place).starts_with(&bytes[..64]),
                "page {page} is still there"
            );
        }
    }
    assert!(moved > 10, "{moved} have moved");
}

/// A page that is as long as it was is written where it was; others read it whole, before or after.
#[test]
fn a_page_of_the_same_length_takes_the_place_of_its_older_self() {
    let store = store(1 << 20);
    let mut seat = seat(&store, Codec::Lz4);
    let at = |store: &Store| match store.slots.get(0).unwrap() {
        Slot::Object(handle, codec) => (handle, codec),
        slot => panic!("{slot:?}"),
    };
    let mut read = [0; FRAME_SIZE];
    let mut places = Vec::new();
    for page in [page_of(3, 1), page_of(3, 2), page_of(2, 3), page_of(3, 4)] {
        store.write(&mut seat, 0, &page).unwrap();
        store.read(&mut seat, 0, &mut read).unwrap();
        assert!(read == page);
        places.push(at(&store));
    }
    assert!(places[0] == places[1] && places[1] != places[2] && places[2] != places[3], "{places:?}");
    assert_eq!((store.stats().stored_pages, store.stats().incompressible_pages), (1, 1));
    assert_eq!(store.stats().stored_bytes, FRAME_SIZE as u64);
}

#[test]
fn a_full_store_takes_what_replaces_as_much() {
    let store = store(16 << 10);
    let mut seat = seat(&store, Codec::None);
    for seed in 0..3 {
        for page in 0..4 {
            assert_eq!(store.write(&mut seat, page, &page_of(3, seed * 4 + page)), Ok(Stored::Now));
        }
        assert_eq!(store.write(&mut seat, 4, &page_of(3, 99)), Err(NbdError::NoSpace));
    }
}

/// Of so many random bytes, and then zeroes.
fn partly_random(bytes: usize) -> Page {
    let mut page = [0; FRAME_SIZE];
    fastrand::Rng::with_seed(1).fill(&mut page[..bytes]);
    page
}

/// They are of another length each time, so each is there twice for a moment, and none is refused for that.
#[test]
fn threads_that_write_again_what_fills_a_store_find_room() {
    let (long, short) = (partly_random(2000), partly_random(1000));
    let fill = |store: &Store| {
        let mut seat = seat(store, Codec::Lz4);
        (0..4).for_each(|page| assert_eq!(store.write(&mut seat, page, &long), Ok(Stored::Now)));
        store.stats().stored_bytes
    };
    let full = fill(&store(16 << 10));
    let store = store(full);
    fill(&store);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, long, short) = (&store, &long, &short);
            scope.spawn(move || {
                let waker = Arc::new(Waker::new().unwrap());
                let mut seat = store.seat(CpuId(thread), Codec::Lz4, &waker).unwrap();
                for at in [0, 2].map(|at| at + u64::from(thread)).into_iter().cycle().take(10_000) {
                    assert_eq!(store.write(&mut seat, at, short), Ok(Stored::Now));
                    assert_eq!(store.write(&mut seat, at, long), Ok(Stored::Now));
                }
            });
        }
    });
    assert_eq!(store.stats().stored_bytes, full);
}

#[test]
fn threads_that_write_and_read_the_same_pages_see_whole_pages_only() {
    let store = store(16 << 20);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let store = &store;
            scope.spawn(move || {
                let waker = Arc::new(Waker::new().unwrap());
                let mut seat = store.seat(CpuId(thread as u8), Codec::Lz4, &waker).unwrap();
                let mut random = fastrand::Rng::with_seed(thread);
                let mut read = [0; FRAME_SIZE];
                for _ in 0..20_000 {
                    let page = random.u64(0..8);
                    if random.bool() {
                        // All words of it say the same but for a counter, so that it is packed.
                        let word = random.u64(1..1000);
                        let mut data = [0; FRAME_SIZE];
                        let words = data.as_chunks_mut::<8>().0;
                        for (at, to) in words.iter_mut().enumerate() {
                            *to = (word << 32 | at as u64).to_ne_bytes();
                        }
                        store.write(&mut seat, page, &data).unwrap();
                    } else {
                        store.read(&mut seat, page, &mut read).unwrap();
                        let words = read.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
                        let first =
                            read.as_chunks::<8>().0.first().map_or(0, |word| u64::from_ne_bytes(*word));
                        let step = u64::from(first != 0);
                        let is_whole = words.enumerate().all(|(at, word)| word == first + step * at as u64);
                        assert!(is_whole, "page {page} is torn");
                    }
                }
            });
        }
    });
}
