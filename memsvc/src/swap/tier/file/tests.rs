use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

use super::super::Block;
use super::*;

const PLACES: u64 = 300;

fn tier() -> FileTier {
    let directory = tempfile::tempdir().unwrap();
    FileTier::open(directory.path(), PLACES).unwrap()
}

fn bell() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn block_of(seed: u64) -> Box<Block> {
    let mut block = Box::new(Block([0; FRAME_SIZE]));
    fastrand::Rng::with_seed(seed).fill(&mut block.0);
    block
}

/// Waits for so many.
fn ends(tier: &mut FileTier, count: usize) -> Vec<Done> {
    let (bell, mut ended) = (bell(), Vec::new());
    while ended.len() < count {
        tier.wait(bell.as_fd(), &mut |done| ended.push(done));
    }
    assert_eq!(ended.len(), count);
    ended
}

fn end(tier: &mut FileTier, op: Op) -> (Op, Result<(), TierError>) {
    tier.submit(7, op);
    let done = ends(tier, 1).remove(0);
    assert_eq!(done.token, 7);
    (done.op, done.result)
}

/// What the disk has given the file, in bytes.
fn on_disk(tier: &FileTier) -> u64 {
    rustix::fs::fstat(&tier.file).unwrap().st_blocks as u64 * 512
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64),
    Write(u64, u64),
    Discard(u64, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = 0..PLACES + 3;
    let step = prop_oneof![
        4 => (place.clone(), any::<u64>()).prop_map(|(place, seed)| Step::Write(place, seed)),
        3 => place.clone().prop_map(Step::Read),
        1 => (place, 0..20u64).prop_map(|(place, len)| Step::Discard(place, place + len)),
    ];
    prop::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A tier is a map from places to pages, however many operations are under way, in whatever order they end.
    #[test]
    fn is_a_map(steps in steps()) {
        let mut tier = tier();
        let (bell, mut model) = (bell(), HashMap::<u64, u64>::new());
        let mut under_way: HashMap<u64, std::ops::Range<u64>> = HashMap::new();
        for (token, step) in steps.into_iter().enumerate() {
            let places = match step {
                Step::Read(place) | Step::Write(place, _) => place..place + 1,
                Step::Discard(from, to) => from..to,
            };
            let is_busy = |other: &std::ops::Range<u64>| other.start < places.end && places.start < other.end;
            while under_way.values().any(is_busy) || under_way.len() == tier.depth() {
                let mut check = |done| check(done, &mut under_way, &model);
                tier.wait(bell.as_fd(), &mut check);
            }
            under_way.insert(token as u64, places.clone());
            match step {
                Step::Read(place) => tier.submit(token as u64, Op::Read { place, block: block_of(0) }),
                Step::Write(place, seed) => {
                    tier.submit(token as u64, Op::Write { place, block: block_of(seed) });
                    model.insert(place, seed);
                }
                Step::Discard(..) => {
                    tier.submit(token as u64, Op::Discard { places: places.clone() });
                    if places.end <= PLACES {
                        places.for_each(|place| _ = model.remove(&place));
                    }
                }
            }
        }
        while !under_way.is_empty() {
            tier.wait(bell.as_fd(), &mut |done| check(done, &mut under_way, &model));
        }
        prop_assert_eq!(tier.free.len(), DEPTH);
        for (place, seed) in model.iter().filter(|(place, _)| **place < PLACES) {
            let (op, result) = end(&mut tier, Op::Read { place: *place, block: block_of(0) });
            let Op::Read { block, .. } = op else { panic!("{op:?}") };
            prop_assert!(result == Ok(()) && block.0 == block_of(*seed).0, "place {}", place);
        }
    }
}

/// An operation has ended as it should have. Nothing else was begun for its places meanwhile.
fn check(done: Done, under_way: &mut HashMap<u64, std::ops::Range<u64>>, model: &HashMap<u64, u64>) {
    let places = under_way.remove(&done.token).expect("ended twice");
    let is_here = places.is_empty() || places.end <= PLACES;
    assert_eq!(done.result, if is_here { Ok(()) } else { Err(TierError::Refused) }, "{places:?}");
    if let Op::Read { place, block } = &done.op
        && is_here
    {
        // A file's holes read as zeroes.
        let expected = model.get(place).map_or([0; FRAME_SIZE], |seed| block_of(*seed).0);
        assert!(block.0 == expected, "place {place}");
    }
}

#[test]
fn what_is_discarded_takes_no_disk() {
    let mut tier = tier();
    assert_eq!(on_disk(&tier), 0);
    for place in 0..32 {
        tier.submit(place, Op::Write { place, block: block_of(place) });
    }
    ends(&mut tier, 32);
    assert!(on_disk(&tier) >= 32 << 12, "{}", on_disk(&tier));
    assert_eq!(end(&mut tier, Op::Discard { places: 2..32 }).1, Ok(()));
    assert!(on_disk(&tier) <= 16 << 12, "{}", on_disk(&tier));
    assert_eq!(rustix::fs::fstat(&tier.file).unwrap().st_size as u64, PLACES << 12);
}

#[test]
fn the_bell_ends_a_wait_and_is_left_ringing() {
    let mut tier = tier();
    let bell = bell();
    std::thread::scope(|scope| {
        scope.spawn(|| rustix::io::write(&bell, &1u64.to_ne_bytes()).unwrap());
        tier.wait(bell.as_fd(), &mut |done| panic!("{done:?}"));
    });
    assert_eq!(rustix::io::read(&bell, &mut [0; 8]), Ok(8));
}

/// `/dev/full` is a disk without room that every kernel has.
#[test]
fn a_full_disk_is_told_from_a_broken_one() {
    let open = |path: &str| File::options().read(true).write(true).open(path).unwrap().into();
    let mut full = FileTier::over(open("/dev/full"), PLACES).unwrap();
    assert_eq!(end(&mut full, Op::Write { place: 0, block: block_of(1) }).1, Err(TierError::Full));
    // It has no holes either. Nothing is lost by that.
    assert_eq!(end(&mut full, Op::Discard { places: 0..3 }).1, Ok(()));
    assert!(full.complaints.cannot_punch && !full.complaints.refused);
    // A file that ends too early.
    let mut null = FileTier::over(open("/dev/null"), PLACES).unwrap();
    assert_eq!(end(&mut null, Op::Read { place: 0, block: block_of(1) }).1, Err(TierError::Refused));
    // One that is not to be written.
    let read_only = File::open("/proc/self/exe").unwrap().into();
    let mut read_only = FileTier::over(read_only, PLACES).unwrap();
    assert_eq!(end(&mut read_only, Op::Write { place: 0, block: block_of(1) }).1, Err(TierError::Refused));
    assert!(read_only.complaints.refused);
}

/// A pipe gives what it has.
#[test]
fn what_comes_in_parts_is_put_together() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut tier = FileTier::over(reader.into(), PLACES).unwrap();
    let page = block_of(3);
    let rung = bell();
    rustix::io::write(&rung, &1u64.to_ne_bytes()).unwrap();
    tier.submit(1, Op::Read { place: 0, block: block_of(0) });
    for part in page.0.chunks(1000) {
        let before = tier.slots.iter().flatten().map(|slot| slot.moved).sum::<usize>();
        writer.write_all(part).unwrap();
        if before + part.len() == FRAME_SIZE {
            break;
        }
        while tier.slots.iter().flatten().all(|slot| slot.moved == before) {
            tier.wait(rung.as_fd(), &mut |done| panic!("{done:?}"));
        }
    }
    let done = ends(&mut tier, 1).remove(0);
    let Op::Read { block, .. } = done.op else { panic!("{:?}", done.op) };
    assert!(done.result.is_ok() && block.0 == page.0);
}

#[test]
fn dropping_waits_for_what_is_under_way() {
    let mut tier = tier();
    let file = tier.file.try_clone().unwrap();
    for place in 0..DEPTH as u64 {
        tier.submit(place, Op::Write { place, block: block_of(place) });
    }
    drop(tier);
    for place in 0..DEPTH as u64 {
        let mut block = block_of(99);
        rustix::io::pread(&file, &mut block.0, place << 12).unwrap();
        assert!(block.0 == block_of(place).0, "place {place}");
    }
}

#[test]
fn a_directory_that_will_not_do_is_said_to() {
    let message =
        |directory: &str, places| FileTier::open(Path::new(directory), places).unwrap_err().to_string();
    assert!(message("/nonexistent", 1).starts_with("no file can be made in /nonexistent"));
    let unnamed = message("/proc", 1);
    assert!(unnamed.starts_with("the file system of /proc has no files without a name"), "{unnamed}");
    let here = tempfile::tempdir().unwrap();
    for places in [u64::MAX, 1 << 51] {
        let large = message(here.path().to_str().unwrap(), places);
        assert!(large.starts_with(&format!("a tier of {places} pages")), "{large}");
    }
}
