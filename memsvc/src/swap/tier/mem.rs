//! A tier in memory, for tests: it does wrong what it is told to, and sees what is done wrong to it.

use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Block, Done, Op, TierError, Transport};
use crate::core::units::FRAME_SIZE;

/// What goes wrong, which may be changed at any time, and what was seen.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Of a hundred operations, so many are refused.
    pub(crate) refuse: u32,
    /// Of a hundred writes, so many find no room.
    pub(crate) full: u32,
    /// So many places can be written, whichever they are.
    pub(crate) room: Option<usize>,
    /// Of a hundred operations, so many find the tier away.
    pub(crate) away: u32,
    /// Of a hundred reads, so many come with a bit flipped.
    pub(crate) flip: u32,
    /// Nothing ends while this is true.
    pub(crate) hold: bool,
    /// Writes that have found it away: what lies there now may be anything.
    pub(crate) unanswered: u64,
    /// Discards that find it away are done when it is back, after the first operation.
    pub(crate) late: bool,
    /// How many have found that.
    pub(crate) put_off: u64,
    /// The next call of `submit` panics.
    pub(crate) panic_in_submit: bool,
    /// The next call of `wait` panics, when something would end.
    pub(crate) panic_in_wait: bool,

    /// Places that it was to discard, and has refused to: what lies there stays.
    pub(crate) refused: HashSet<u64>,
    /// What lies where: places that were written and not discarded. A test may change it.
    pub(crate) places: HashMap<u64, Box<Block>>,
    /// Tokens in the order in which they came.
    pub(crate) submitted: Vec<u64>,
    /// More than the depth, two that change one place, a place that there is not, a token twice.
    pub(crate) rules_broken: Vec<String>,
}

/// Operations end in any order; a place that was not written reads as anything, as does one whose write or read
/// has failed.
#[derive(Debug)]
pub(crate) struct MemTier {
    places: u64,
    random: fastrand::Rng,
    faults: Arc<Mutex<Faults>>,
    under_way: Vec<(u64, Op)>,
    /// Discards that are done late.
    late: Vec<std::ops::Range<u64>>,
    has_given_up: bool,
}

impl MemTier {
    /// Most operations under way.
    pub(crate) const DEPTH: usize = 8;

    /// With so many places. What happens depends on the seed and the order of what it is asked to do.
    pub(crate) fn new(places: u64, seed: u64, faults: Arc<Mutex<Faults>>) -> Self {
        Self {
            places,
            random: fastrand::Rng::with_seed(seed),
            faults,
            under_way: Vec::new(),
            late: Vec::new(),
            has_given_up: false,
        }
    }

    fn obey(&mut self, op: &mut Op) -> Result<(), TierError> {
        let faults = Arc::clone(&self.faults);
        let faults = &mut *lock(&faults);
        let random = &mut self.random;
        let mut strikes = |percent: u32| random.u32(0..100) < percent;
        let result = match op {
            _ if strikes(faults.refuse) => Err(TierError::Refused),
            _ if strikes(faults.away) => Err(if strikes(50) { TierError::Away } else { TierError::Unasked }),
            Op::Write { .. } if strikes(faults.full) => Err(TierError::Full),
            Op::Write { place, .. }
                if faults.room.is_some_and(|room| faults.places.len() >= room)
                    && !faults.places.contains_key(place) =>
            {
                Err(TierError::Full)
            }
            _ => Ok(()),
        };
        let flips = strikes(faults.flip);
        match op {
            Op::Read { place, block } => match faults.places.get(place) {
                Some(there) if result.is_ok() => {
                    block.0 = there.0;
                    if flips {
                        block.0[random.usize(0..FRAME_SIZE)] ^= 1 << random.u32(0..8);
                    }
                }
                _ => random.fill(&mut block.0),
            },
            Op::Write { .. } if result == Err(TierError::Unasked) => {}
            // As in a file whose disk is full.
            Op::Write { place, .. }
                if result == Err(TierError::Full) && !faults.places.contains_key(place) => {}
            Op::Write { place, block } => {
                let mut new = Box::new(Block(block.0));
                faults.unanswered += u64::from(result == Err(TierError::Away));
                if result.is_err() {
                    let keeps = random.usize(0..=FRAME_SIZE);
                    random.fill(&mut new.0[keeps..]);
                }
                faults.places.insert(*place, new);
                faults.refused.remove(place);
            }
            Op::Discard { places } if result.is_ok() => {
                places.clone().for_each(|place| _ = faults.places.remove(&place));
            }
            Op::Discard { places } if faults.late => {
                faults.put_off += 1;
                self.late.push(places.clone());
            }
            Op::Discard { places } if result == Err(TierError::Refused) => {
                faults.refused.extend(places.clone())
            }
            Op::Discard { .. } => {}
        }
        if result.is_ok() {
            self.late.drain(..).flatten().for_each(|place| _ = faults.places.remove(&place));
        }
        result
    }
}

fn lock(faults: &Mutex<Faults>) -> MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}

fn places_of(op: &Op) -> std::ops::Range<u64> {
    match op {
        Op::Read { place, .. } | Op::Write { place, .. } => *place..*place + 1,
        Op::Discard { places } => places.clone(),
    }
}

impl Transport for MemTier {
    fn depth(&self) -> usize {
        Self::DEPTH
    }

    fn submit(&mut self, token: u64, op: Op) {
        let mut faults = lock(&self.faults);
        if std::mem::take(&mut faults.panic_in_submit) {
            drop(faults);
            panic!("as the test wants");
        }
        faults.submitted.push(token);
        let new = places_of(&op);
        if new.end > self.places || self.under_way.len() >= Self::DEPTH {
            faults.rules_broken.push(format!("{op:?} is too much"));
        }
        for (other_token, other) in &self.under_way {
            let old = places_of(other);
            let both_change = [&op, other].iter().all(|op| !matches!(op, Op::Read { .. }));
            if both_change && new.start.max(old.start) < new.end.min(old.end) || token == *other_token {
                faults.rules_broken.push(format!("{op:?} while {other:?} is under way"));
            }
        }
        drop(faults);
        self.under_way.push((token, op));
    }

    fn give_up(&mut self) {
        self.has_given_up = true;
    }

    fn wait(&mut self, bell: BorrowedFd<'_>, done: &mut dyn FnMut(Done)) {
        if self.has_given_up {
            let away = |(token, op)| Done { token, op, result: Err(TierError::Away) };
            return self.under_way.drain(..).map(away).for_each(done);
        }
        while self.under_way.is_empty() || lock(&self.faults).hold {
            let timeout = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            let timeout = (!self.under_way.is_empty()).then_some(&timeout);
            let mut fds = [PollFd::from_borrowed_fd(bell, PollFlags::IN)];
            let _ = poll(&mut fds, timeout);
            if fds[0].revents().contains(PollFlags::IN) {
                return;
            }
        }
        if std::mem::take(&mut lock(&self.faults).panic_in_wait) {
            panic!("as the test wants");
        }
        for _ in 0..self.random.usize(1..=self.under_way.len()) {
            let at = self.random.usize(0..self.under_way.len());
            let (token, mut op) = self.under_way.swap_remove(at);
            let result = self.obey(&mut op);
            done(Done { token, op, result });
        }
    }
}
