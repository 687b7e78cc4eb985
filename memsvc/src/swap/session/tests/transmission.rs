//! Answers of a session: which, when, and what waits.

use super::*;
use crate::swap::tests::{has_any_of, stack_after};

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

/// A trim takes turns with others as long as it has something to do; behind pages that are on their way it has not.
#[test]
fn a_trim_behind_a_read_that_waits_keeps_nobody_busy() {
    let fake = fake();
    fake.0.borrow_mut().slow.insert(WINDOW + 1, 1_000_000);
    let mut client = Client::connected(&fake, 1, false);
    client.request(Command::Read, 1, 0..WINDOW + 10);
    client.request(Command::Trim, 2, 0..1);
    (0..500).for_each(|_| _ = client.turn());
    assert!(client.session.is_waiting() && !client.session.goes_on());
    fake.0.borrow_mut().slow.clear();
    assert_eq!(client.simple(), (1, None));
    client.take((WINDOW as usize + 10) * 4096);
    assert_eq!(client.simple(), (2, None));
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

/// It lies where it is wiped when the session ends, and nowhere else, however it came.
#[test]
fn a_page_that_waits_for_room_is_nowhere_else() {
    let fake = fake();
    fake.0.borrow_mut().full.insert(2, u32::MAX);
    for cut in [0, 1, 1000, FRAME_SIZE - 1] {
        let mut secret = vec![0; FRAME_SIZE];
        fastrand::Rng::with_seed(cut as u64).fill(&mut secret);
        let mut client = Client::connected(&fake, 1, false);
        client.request(Command::Write, 1, 2..3);
        client.settle();
        let (left, taken) = stack_after(|| {
            let (first, second) = secret.split_at(cut);
            client.session.receive(first)
                + client.session.receive(second)
                + client.session.receive(b"no more")
        });
        assert_eq!(taken, FRAME_SIZE);
        assert!(!has_any_of(&left, &secret), "cut at {cut}");
        fake.0.borrow_mut().full.clear();
        assert_eq!(client.simple(), (1, None));
        assert!(fake.0.borrow_mut().pages[&2][..] == secret);
        fake.0.borrow_mut().full.insert(2, u32::MAX);
    }
}

/// Who has turned away may have written the page on another connection by the time there is room for it.
#[test]
fn a_page_that_waits_for_room_is_refused_when_its_client_says_no_more() {
    let fake = fake();
    for (seed, pages) in (0..20).flat_map(|seed| [(seed, 2..3), (seed, 1..4)]) {
        fake.0.borrow_mut().pages.clear();
        fake.0.borrow_mut().full.insert(2, u32::MAX);
        let mut client = Client::connected(&fake, seed, false);
        client.request(Command::Write, 1, pages.clone());
        pages.for_each(|at| client.say(page(at as u8)));
        client.request(Command::Read, 2, 0..1);
        client.settle();
        client.session.last_word();
        fake.0.borrow_mut().full.clear();
        assert_eq!(client.simple(), (1, Some(NbdError::NoSpace)));
        assert_eq!(client.simple(), (2, None));
        client.take(4096);
        assert!(!fake.0.borrow().pages.contains_key(&2));
        // Without one that waits it changes nothing.
        client.session.last_word();
        client.request(Command::Write, 3, 2..3);
        client.say(page(2));
        assert_eq!(client.simple(), (3, None));
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

/// What the export says it can do it does: `SEND_FUA`, `SEND_FAST_ZERO` and, with structured replies, `SEND_DF`.
#[test]
fn flags_that_are_offered_are_taken() {
    let fake = fake();
    let mut client = Client::connected(&fake, 1, true);
    client.request_with(Command::Write, 1, 0..2, CommandFlags::FUA);
    (0..2).for_each(|at| client.say(page(at)));
    assert_eq!(client.simple(), (1, None));
    client.request_with(Command::Read, 2, 0..WINDOW, CommandFlags::DF);
    let (flags, kind, cookie, data) = client.chunk();
    assert_eq!((flags, kind, cookie), (ChunkFlags::DONE, ChunkType::OffsetData as u16, 2));
    assert_eq!(data.len(), 8 + WINDOW as usize * 4096, "in one piece");
    assert!(data[8..][..8192] == [page(0), page(1)].concat());
    let fast = CommandFlags::FAST_ZERO | CommandFlags::FUA;
    client.request_with(Command::WriteZeroes, 3, 1..2, fast);
    assert_eq!(client.simple(), (3, None));
    assert!(!fake.0.borrow().pages.contains_key(&1));
    client.request_with(Command::Trim, 4, 0..1, CommandFlags::FUA);
    assert_eq!(client.simple(), (4, None));
    assert!(fake.0.borrow().pages.is_empty());
    assert_eq!((fake.1.snapshot().refused, fake.1.snapshot().errors), (0, 0));
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
