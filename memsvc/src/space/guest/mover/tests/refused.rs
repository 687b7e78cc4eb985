//! The kernel refuses: pages that it shares, and every system call that changes a mapping.

use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::core::units::{BlockId, GuestBlock, GuestFrame};
use crate::space::faults::Call;
use crate::space::guest::BlockState;
use crate::space::guest::split::Page;
use crate::space::mapping::Mapping;

const PATIENCE: Duration = Duration::from_secs(60);

/// A child process that shares all that is in guest RAM and arena with us: nothing of it moves until it is written to, as
/// with pages that the kernel has merged (KSM).
struct Child(libc::pid_t);

impl Child {
    fn new(guest: &Guest) -> Self {
        let space = guest.service.space();
        // SAFETY: advice for mappings of ours; the child touches nothing and waits to be killed.
        unsafe {
            for (base, len) in
                [(space.mapping.base(), space.mapping.len()), (space.arena.base(), space.arena.len())]
            {
                assert_eq!(libc::madvise(base as *mut _, len, libc::MADV_DOFORK), 0);
            }
            match libc::fork() {
                0 => loop {
                    libc::pause();
                },
                child => {
                    assert!(child > 0, "{}", std::io::Error::last_os_error());
                    Self(child)
                }
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

fn even(guest: &Guest) -> impl Iterator<Item = usize> + use<> {
    (0..guest.pages).step_by(2)
}

/// Pages of the guest that are at home.
fn at_home(guest: &Guest) -> Vec<usize> {
    let state = guest.service.space().lock();
    let is_home = |page: &usize| matches!(state.page(GuestFrame(*page as u32)), Page::AtHome(_));
    (0..guest.pages).filter(is_home).collect()
}

fn behind(guest: &Guest, block: u32) -> BlockId {
    match guest.service.space().lock().blocks[GuestBlock(block).0 as usize] {
        BlockState::Huge(behind) => behind,
        ref other => panic!("{other:?}"),
    }
}

/// All in single pages, of which every other one is given up.
fn half_given_up(guest: &Guest) -> Vec<Gfn> {
    (0..guest.pages).for_each(|page| guest.fill(page));
    split_all(guest);
    guest.give_up(|page| page % 2 == 1)
}

#[test]
fn pages_that_the_kernel_shares_are_helped_and_move() {
    let guest = Guest::new(4);
    half_given_up(&guest);
    let _child = Child::new(&guest);
    let run = guest.compact(Occupancy::default());
    assert!(run.emptied > 0 && run.failed == 0, "{run:?}");
    even(&guest).for_each(|page| guest.check(page));
    assert_eq!(guest.consistent().mover.counts.pinned, 0);
}

/// A touch of such a page waits for the thread that helps it, and the fault thread serves others meanwhile.
#[test]
fn a_page_at_home_that_the_kernel_shares_comes_in() {
    let guest = with_pages_at_home();
    let home = at_home(&guest);
    let child = Child::new(&guest);
    let touched = 20;
    thread::scope(|scope| {
        let guest = &guest;
        let threads: Vec<_> =
            home[..touched].iter().map(|&page| scope.spawn(move || guest.check(page))).collect();
        let start = Instant::now();
        let is_over = || threads.iter().all(|thread| thread.is_finished());
        while !is_over() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        if !is_over() {
            // So that they end.
            guest.service.space().let_go();
            panic!("a page at home hangs who touches it: {:?}", guest.service.stats());
        }
    });
    assert!(guest.service.stats().faults.failed >= touched as u64, "they moved at once");
    drop(child);
    even(&guest).for_each(|page| guest.check(page));
    guest.consistent();
}

/// A guest of two blocks, of which the first is at home: its even pages are, the others are given up.
fn with_pages_at_home() -> Guest {
    let guest = Guest::new(2);
    (0..guest.pages).for_each(|page| guest.fill(page));
    guest.give_up(|page| page % 2 == 1);
    // The huge page comes home, and no page of it goes in again.
    of_uffd(&guest).plan_for(Call::Move, 1, u32::MAX, Errno::BUSY);
    guest.service.space().split_in_place(behind(&guest, 0));
    of_uffd(&guest).clear();
    assert_eq!(at_home(&guest).len(), FRAMES / 2);
    guest
}

/// A page that nothing helps holds up nobody else, and is tried at a bounded rate.
#[test]
fn a_page_that_is_pinned_at_home_waits_by_itself() {
    let guest = with_pages_at_home();
    let space = guest.service.space();
    let Page::AtHome(home) = space.lock().page(GuestFrame(0)) else { panic!("page 0 is not at home") };
    let pin = Pin::at(space.arena.frame_address(home));
    thread::scope(|scope| {
        let guest = &guest;
        let waits = scope.spawn(move || guest.check(0));
        while guest.service.stats().faults.failed < 3 {
            thread::sleep(Duration::from_millis(1));
        }
        (2..FRAMES).step_by(2).for_each(|page| guest.check(page));
        assert!(!waits.is_finished());
        let (before, start) = (guest.service.stats().faults.failed, Instant::now());
        thread::sleep(Duration::from_millis(300));
        // Every 64 ms by then.
        let failed = guest.service.stats().faults.failed - before;
        assert!(
            u128::from(failed) <= 10 + start.elapsed().as_millis() / 64,
            "{failed} in {:?}",
            start.elapsed()
        );
        drop(pin);
    });
    even(&guest).for_each(|page| guest.check(page));
}

/// Else a device that touches it could not be ended.
#[test]
fn who_waits_for_a_page_that_is_refused_goes_on_when_the_guest_ends() {
    let guest = with_pages_at_home();
    of_uffd(&guest).plan_for(Call::Move, 0, u32::MAX, Errno::NOMEM);
    thread::scope(|scope| {
        let guest = &guest;
        let waits = scope.spawn(move || guest.word(0, 0).load(Ordering::Relaxed));
        while guest.service.stats().faults.failed < 3 {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!waits.is_finished());
        guest.service.end_guest();
        let start = Instant::now();
        while !waits.is_finished() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        let went_on = waits.is_finished();
        // So that it ends in any case.
        guest.service.space().let_go();
        assert!(went_on, "it waits still");
    });
}

/// Where the kernel has unmapped a block and maps none, its address space is kept, or the block is not used again.
#[test]
fn a_block_that_is_not_mapped_any_more_is_kept_from_others() {
    let guest = Guest::new(1);
    let mapping = guest.service.space().arena.mapping();
    let block = BlockId(guest.service.space().arena.blocks() - 1);
    let address = mapping.base() + block.offset();
    assert!(mapping.is_mapped(block.offset()));
    assert!(mapping.hold(block.offset()).is_err(), "something is mapped there");
    // SAFETY: a free block of the arena that nobody has touched.
    assert_eq!(unsafe { libc::munmap(address as *mut _, BLOCK_SIZE) }, 0);
    assert!(!mapping.is_mapped(block.offset()));
    mapping.hold(block.offset()).unwrap();
    assert!(mapping.is_mapped(block.offset()));
    guest.service.space().arena.renew(block, guest.service.space().uffd()).unwrap();
}

#[test]
fn what_a_compaction_leaves_at_home_goes_back_in() {
    let guest = Guest::new(2);
    (0..guest.pages).for_each(|page| guest.fill(page));
    guest.give_up(|page| page % 2 == 1);
    let space = guest.service.space();
    // The receiver's pages go home and in again, the source comes home; then half of what it holds does not go in.
    let calls = (0..8).find(|batches| {
        space.uffd().faults.plan_for(Call::Move, 2 + 256 + 64 * batches, 64, Errno::NOENT);
        let run = guest.compact(Occupancy::default());
        space.uffd().faults.clear();
        run.failed > 0
    });
    assert!(calls.is_some(), "no move of the source failed");
    assert_eq!(at_home(&guest), Vec::<usize>::new());
    even(&guest).for_each(|page| guest.check(page));
    guest.consistent();
}

/// A guest with a pattern in all of its RAM, and what is said when it is ended.
fn told(blocks: usize) -> (Guest, Receiver<String>) {
    let (sender, told) = channel();
    let guest = Guest::that_may_fail(blocks, &still(blocks), move |why| _ = sender.send(why));
    (0..guest.pages).for_each(|page| guest.fill(page));
    (guest, told)
}

/// Does what needs a call that fails; says what the guest was told, if it was ended.
fn with_fault(
    blocks: usize,
    faults: impl Fn(&Guest) -> &crate::space::faults::Faults,
    call: Call,
    act: impl Fn(&Guest),
) -> (Guest, Receiver<String>) {
    let (guest, told) = told(blocks);
    faults(&guest).plan_for(call, 0, 1, Errno::NOMEM);
    act(&guest);
    assert!(faults(&guest).clear() > 0, "{call:?} was not called");
    (guest, told)
}

fn of_guest(guest: &Guest) -> &crate::space::faults::Faults {
    &guest.service.space().mapping.faults
}

fn of_arena(guest: &Guest) -> &crate::space::faults::Faults {
    &guest.service.space().arena.mapping().faults
}

fn of_uffd(guest: &Guest) -> &crate::space::faults::Faults {
    &guest.service.space().uffd().faults
}

fn give_up_block(guest: &Guest) {
    guest.give_up(|page| page < FRAMES);
}

#[test]
fn a_block_that_the_kernel_does_not_discard_stays_and_is_right() {
    let (guest, _) = with_fault(2, of_guest, Call::Discard, give_up_block);
    assert_eq!(guest.consistent().guest.huge_blocks, 2);
    (FRAMES..guest.pages).for_each(|page| guest.check(page));
    let all: Vec<_> = (0..FRAMES as u64).map(Gfn).collect();
    assert_eq!(guest.service.deflate(&all).refused, 0);
    (0..guest.pages).for_each(|page| guest.check(page));
    give_up_block(&guest);
    assert_eq!(guest.consistent().guest.absent_blocks, 1);
}

#[test]
fn a_huge_page_that_the_kernel_does_not_split_loses_no_byte() {
    let (guest, _) = with_fault(2, of_arena, Call::Split, |guest| {
        guest.service.report_free(0, FRAME_SIZE as u64);
    });
    (1..guest.pages).for_each(|page| guest.check(page));
    guest.consistent();
}

#[test]
fn a_page_that_cannot_be_helped_stays_where_it_is() {
    let guest = Guest::new(4);
    half_given_up(&guest);
    let child = Child::new(&guest);
    of_guest(&guest).plan_for(Call::Populate, 0, u32::MAX, Errno::NOMEM);
    of_arena(&guest).plan_for(Call::Populate, 0, u32::MAX, Errno::NOMEM);
    guest.compact(Occupancy::default());
    assert!(of_guest(&guest).clear() > 0);
    of_arena(&guest).clear();
    even(&guest).for_each(|page| guest.check(page));
    assert!(guest.consistent().mover.counts.pinned > 0);
    drop(child);
    assert!(guest.compact(Occupancy::default()).emptied > 0);
    even(&guest).for_each(|page| guest.check(page));
}

/// A block of the arena that is not mapped anew, not advised or not registered is used by nobody until it is.
#[test]
fn a_block_of_the_arena_that_is_not_mapped_anew_is_set_aside() {
    type Where = fn(&Guest) -> &crate::space::faults::Faults;
    let cases: [(Where, Call); 4] = [
        (of_arena, Call::Map),
        (of_arena, Call::MapHalfway),
        (of_arena, Call::Advise),
        (of_uffd, Call::Register),
    ];
    for (place, call) in cases {
        let (guest, _) = with_fault(2, place, call, |guest| {
            split_all(guest);
            guest.service.report_free(0, BLOCK_SIZE as u64);
        });
        let stats = guest.service.stats();
        assert_eq!((stats.moves.set_aside, stats.arena.broken_blocks), (1, 1), "{call:?}: {stats:?}");
        assert_eq!(guest.service.space().allocator().check(), Ok(()));
        (FRAMES..guest.pages).for_each(|page| guest.check(page));
        // The next that comes home takes it along, and all of it is usable.
        guest.service.report_free(BLOCK_SIZE as u64, BLOCK_SIZE as u64);
        let stats = guest.consistent();
        assert_eq!(stats.arena.free_blocks, stats.arena.blocks, "{call:?}");
        (0..guest.pages).for_each(|page| guest.fill(page));
        half_given_up(&guest);
        guest.compact(Occupancy::default());
        even(&guest).for_each(|page| guest.check(page));
        guest.consistent();
    }
}

/// One of which not even the address space can be kept is used by nobody, ever: somebody else's memory may lie there.
#[test]
fn a_block_of_the_arena_whose_address_space_is_lost_is_not_used_again() {
    let (guest, told) = told(2);
    split_all(&guest);
    of_arena(&guest).plan_all(&[Call::MapHalfway, Call::Hold], Errno::NOMEM);
    guest.service.report_free(0, BLOCK_SIZE as u64);
    of_arena(&guest).clear();
    let stats = guest.service.stats();
    assert_eq!((stats.moves.set_aside, stats.arena.broken_blocks), (1, 1), "{stats:?}");
    let mapping = guest.service.space().arena.mapping();
    let lost = (0..mapping.len()).step_by(BLOCK_SIZE).find(|offset| !mapping.is_mapped(*offset));
    let lost = lost.expect("a block is not mapped");
    // All else comes home, and the guest goes on with what there is.
    guest.service.report_free(BLOCK_SIZE as u64, BLOCK_SIZE as u64);
    let stats = guest.service.stats();
    // A block of the stash may be on its way.
    let types = &stats.arena.frames_by_type;
    assert_eq!(types.buddy + types.stash, stats.arena.frames - FRAMES as u64, "{stats:?}");
    assert!(!mapping.is_mapped(lost), "it is used");
    (0..guest.pages).for_each(|page| guest.fill(page));
    (0..guest.pages).for_each(|page| guest.check(page));
    assert!(!mapping.is_mapped(lost), "it is used");
    assert!(told.try_recv().is_err());
}

#[test]
fn a_promotion_whose_mapping_fails_is_undone() {
    for call in [Call::Remap, Call::RemapHalfway] {
        let (guest, told) = with_fault(1, of_guest, call, |guest| {
            split_all(guest);
            assert_eq!(guest.service.space().promote_filled(|| true), 0, "{call:?}");
        });
        (0..guest.pages).for_each(|page| guest.check(page));
        assert_eq!(guest.consistent().mover.counts.given_up, 1);
        assert_eq!(guest.service.space().promote_filled(|| true), 1);
        (0..guest.pages).for_each(|page| guest.check(page));
        assert!(told.try_recv().is_err());
    }
}

/// A loss that cannot be undone ends the guest, with a sentence that says what to do.
#[test]
fn guest_ram_that_cannot_be_mapped_again_ends_the_guest() {
    for call in [Call::Map, Call::Register] {
        let (guest, told) = told(1);
        split_all(&guest);
        of_guest(&guest).plan_for(Call::RemapHalfway, 0, 1, Errno::NOMEM);
        match call {
            // Both are calls of one mapping.
            Call::Map => of_guest(&guest).plan_all(&[Call::RemapHalfway, Call::Map], Errno::NOMEM),
            call => of_uffd(&guest).plan_for(call, 0, 1, Errno::NOMEM),
        }
        assert_eq!(guest.service.space().promote_filled(|| true), 0);
        let why = told.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!(
                "{call:?} does not end the guest: {} calls, {:?}",
                of_guest(&guest).clear(),
                guest.service.stats()
            )
        });
        assert!(why.contains("could not be mapped again") && why.contains("vm.max_map_count"), "{why}");
    }
}

/// A promoted block that is not watched keeps what is in it until it is.
#[test]
fn a_promoted_block_that_is_not_watched_is_watched_later() {
    let (guest, told) = told(1);
    split_all(&guest);
    let fails = || of_uffd(&guest).plan_for(Call::Register, 0, 1, Errno::NOMEM);
    fails();
    assert_eq!(guest.service.space().promote_filled(|| true), 1);
    // Given up while it is not watched: it stays, whole.
    fails();
    give_up_block(&guest);
    assert_eq!(guest.service.stats().guest.huge_blocks, 1);
    assert_eq!(of_uffd(&guest).clear(), 1);
    let all: Vec<_> = (0..FRAMES as u64).map(Gfn).collect();
    assert_eq!(guest.service.deflate(&all).refused, 0);
    (0..guest.pages).for_each(|page| guest.check(page));
    give_up_block(&guest);
    assert_eq!(guest.service.stats().guest.absent_blocks, 1);
    assert_eq!(guest.word(3, 0).load(Ordering::Relaxed), 0);
    assert!(told.try_recv().is_err());
}

#[test]
fn guest_ram_is_let_go_block_by_block_when_it_cannot_be_at_once() {
    let guest = Guest::new(2);
    of_uffd(&guest).plan_for(Call::Unregister, 0, 1, Errno::NOMEM);
    guest.service.space().let_go();
    assert_eq!(of_uffd(&guest).clear(), 3);
    assert_eq!(guest.word(FRAMES, 0).load(Ordering::Relaxed), 0);
}

/// In a process of its own, whose address space is limited.
#[test]
fn address_space_that_cannot_be_had_is_named() {
    let mib = |mib: u64| mib << 20;
    // SAFETY: both calls only read or set a limit of this process, which nextest gives to this test alone.
    let before = unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut limit), 0);
        let less = libc::rlimit { rlim_cur: mib(2048), ..limit };
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const less), 0);
        limit
    };
    let error = Mapping::new(mib(4096) as usize).map(drop).unwrap_err();
    let started = MemoryService::new(&still(2048), |_| ()).map(drop).unwrap_err().to_string();
    // SAFETY: as above.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const before) }, 0);
    assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
    assert!(started.starts_with("cannot map ") && started.contains("MiB of address space"), "{started}");
}
