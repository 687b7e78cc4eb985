use std::collections::HashMap;
use std::sync::mpsc::{Receiver, channel};

use proptest::prelude::*;

use super::super::mem::{Faults, MemTier};
use super::*;

const PLACES: u64 = 100;
const DEPTH: u64 = MemTier::DEPTH as u64;

fn start(capacity: usize, faults: Faults) -> (Tier, Receiver<Done>, Arc<Mutex<Faults>>) {
    let faults = Arc::new(Mutex::new(faults));
    let (sender, receiver) = channel();
    let transport = Box::new(MemTier::new(PLACES, 1, Arc::clone(&faults)));
    let tier = Tier::spawn(transport, capacity, &guard(), move |done| sender.send(done).unwrap()).unwrap();
    (tier, receiver, faults)
}

fn guard() -> Guard {
    Guard::new(|why| panic!("{why}"))
}

fn block(byte: u8) -> Box<Block> {
    Box::new(Block([byte; FRAME_SIZE]))
}

fn read(place: u64) -> Op {
    Op::Read { place, block: block(0) }
}

fn write(place: u64) -> Op {
    Op::Write { place, block: block(place as u8) }
}

fn discard(place: u64) -> Op {
    Op::Discard { places: place..place + 1 }
}

/// Fills the transport, which holds all that it gets.
fn fill(tier: &Tier, faults: &Mutex<Faults>) {
    for place in 0..DEPTH {
        tier.begin(place, discard(place)).unwrap();
    }
    while faults.lock().unwrap().submitted.len() < MemTier::DEPTH {
        thread::yield_now();
    }
}

fn held() -> Faults {
    Faults { hold: true, ..Faults::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each operation that was begun ends once, with the block that was lent; those that went well did what
    /// they were to do.
    #[test]
    fn each_operation_ends_once(
        kinds in prop::collection::vec((0..3u8, 0..PLACES), 1..300),
        refuse in 0..30u32, full in 0..30u32, away in 0..30u32,
    ) {
        let (tier, ended, faults) = start(16, Faults { refuse, full, away, ..Faults::default() });
        let mut lent: HashMap<u64, usize> = HashMap::new();
        let mut model: HashMap<u64, Option<u8>> = HashMap::new();
        let mut check = |done: Done, lent: &mut HashMap<u64, usize>| {
            let (place, block) = match &done.op {
                Op::Read { place, block } | Op::Write { place, block } => (*place, Some(block)),
                Op::Discard { places } => (places.start, None),
            };
            let address = block.map_or(0, |block| &raw const **block as usize);
            assert_eq!(lent.remove(&place), Some(address), "{done:?}");
            let known = match (&done.op, done.result) {
                (Op::Write { block, .. }, Ok(())) => Some(block.0[0]),
                (Op::Read { block, .. }, Ok(())) => {
                    if let Some(Some(byte)) = model.get(&place) {
                        assert!(block.0 == [*byte; FRAME_SIZE], "place {place}");
                    }
                    return;
                }
                (Op::Read { .. }, Err(_)) => return,
                (Op::Discard { .. }, Ok(())) => None,
                (Op::Discard { .. }, Err(_)) => return,
                (Op::Write { .. }, Err(_)) => None,
            };
            model.insert(place, known);
        };
        for (kind, place) in kinds {
            while lent.contains_key(&place) {
                check(ended.recv().unwrap(), &mut lent);
            }
            let mut op = [read, write, discard][usize::from(kind)](place);
            let address = match &op {
                Op::Read { block, .. } | Op::Write { block, .. } => &raw const **block as usize,
                Op::Discard { .. } => 0,
            };
            lent.insert(place, address);
            while let Err(back) = tier.begin(place, op) {
                op = back;
                thread::yield_now();
            }
        }
        drop(tier);
        for done in ended {
            check(done, &mut lent);
        }
        prop_assert!(lent.is_empty(), "{:?}", lent);
        prop_assert_eq!(&faults.lock().unwrap().rules_broken, &Vec::<String>::new());
    }
}

#[test]
fn reads_go_before_writes_and_these_before_discards() {
    let (tier, ended, faults) = start(10, held());
    fill(&tier, &faults);
    for token in 10..20 {
        tier.begin(token, discard(token)).unwrap();
        tier.begin(token + 10, write(token + 10)).unwrap();
        tier.begin(token + 20, read(token + 20)).unwrap();
    }
    faults.lock().unwrap().hold = false;
    assert!(ended.iter().take(38).all(|done| done.result.is_ok()));
    let order = faults.lock().unwrap().submitted[MemTier::DEPTH..].to_vec();
    assert!(order.into_iter().eq((30..40).chain(20..30).chain(10..20)));
}

#[test]
fn what_has_no_room_comes_back_and_keeps_no_other_kind_out() {
    let (tier, ended, faults) = start(2, held());
    // Two at a time, so that there is room.
    for place in (0..DEPTH).step_by(2) {
        tier.begin(place, write(place)).unwrap();
        tier.begin(place + 1, write(place + 1)).unwrap();
        while (faults.lock().unwrap().submitted.len() as u64) < place + 2 {
            thread::yield_now();
        }
    }
    tier.begin(20, write(20)).unwrap();
    tier.begin(21, write(21)).unwrap();
    assert!(matches!(tier.begin(22, write(22)), Err(Op::Write { place: 22, .. })));
    tier.begin(23, read(23)).unwrap();
    tier.begin(24, discard(24)).unwrap();
    faults.lock().unwrap().hold = false;
    let mut tokens: Vec<u64> = ended.iter().take(MemTier::DEPTH + 4).map(|done| done.token).collect();
    tokens.sort_unstable();
    assert!(tokens.into_iter().eq((0..DEPTH).chain([20, 21, 23, 24])));
}

#[test]
fn dropping_hands_back_what_waits_and_gives_up_what_is_under_way() {
    let (tier, ended, faults) = start(20, held());
    fill(&tier, &faults);
    for token in 10..20 {
        tier.begin(token, write(token)).unwrap();
    }
    tier.close();
    assert!(tier.begin(20, write(20)).is_err(), "it is closed");
    drop(tier);
    let mut all: Vec<(u64, bool)> =
        ended.iter().map(|done| (done.token, done.result == Err(TierError::Away))).collect();
    all.sort_unstable();
    assert!(all.into_iter().eq((0..DEPTH).chain(10..20).map(|token| (token, true))));
}

/// Whoever is told of an end may be the last to have the tier.
#[test]
fn it_may_be_dropped_by_who_is_told() {
    let (sender, ended) = channel();
    let place: Arc<Mutex<Option<Tier>>> = Arc::default();
    let there = Arc::clone(&place);
    let transport = Box::new(MemTier::new(PLACES, 1, Arc::default()));
    let done = move |done: Done| {
        drop(there.lock().unwrap().take());
        sender.send(done).unwrap();
    };
    let tier = Tier::spawn(transport, 1, &guard(), done).unwrap();
    let mut slot = place.lock().unwrap();
    tier.begin(1, read(1)).unwrap();
    *slot = Some(tier);
    drop(slot);
    assert_eq!(ended.iter().map(|done| done.token).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_transport_that_panics_is_away() {
    for in_submit in [true, false] {
        let (tier, ended, faults) = start(20, held());
        fill(&tier, &faults);
        for token in 10..20 {
            tier.begin(token, write(token)).unwrap();
        }
        let mut now = faults.lock().unwrap();
        (now.panic_in_submit, now.panic_in_wait, now.hold) = (in_submit, !in_submit, false);
        drop(now);
        let done: Vec<Done> = ended.iter().take(18).collect();
        let mut tokens: Vec<u64> = done.iter().map(|done| done.token).collect();
        tokens.sort_unstable();
        assert!(tokens.into_iter().eq((0..DEPTH).chain(10..20)), "{done:?}");
        for done in done.iter().filter(|done| !in_submit || done.token >= 10) {
            assert_eq!(done.result, Err(TierError::Away), "{done:?}");
            assert_eq!(matches!(done.op, Op::Write { .. }), done.token >= 10);
        }
        // And from now on.
        for token in 30..40 {
            tier.begin(token, read(token)).unwrap();
            let done = ended.recv().unwrap();
            assert!((done.token, done.result) == (token, Err(TierError::Away)), "{done:?}");
        }
        drop(tier);
        assert_eq!(ended.iter().count(), 0);
    }
}

#[test]
fn a_panic_of_the_thread_itself_is_told() {
    let (sender, told) = channel();
    let guard = Guard::new(move |why| sender.send(why).unwrap());
    let transport = Box::new(MemTier::new(PLACES, 1, Arc::default()));
    let tier = Tier::spawn(transport, 1, &guard, |_| panic!("on purpose")).unwrap();
    tier.begin(1, read(1)).unwrap();
    let why = told.recv().unwrap();
    assert!(why.contains("\"tier\"") && why.contains("a bug"), "{why}");
    drop(tier);
}
