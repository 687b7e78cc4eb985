//! Pages on their way from a tier to a connection that has asked for them.
//!
//! ```text
//!   fetch ─▶ Free ──▶ Coming ──▶ Here ──▶ read, wiped ─▶ Free
//!                       │└─────▶ Failed ─▶ said once ──▶ Free
//!                       └─▶ Dropped ──▶ Here, or Free if it fails
//! ```
//! A request fails once one of its pages does. What it has asked for besides is dropped: a failure of that is nobody
//! else's, who may ask when the tier is right again.
//!
//! A connection has places for two windows, by page number: those of one window never get in each other's way.
//! They are there from the start, so that a page-in takes no memory, and go with it, but for the blocks that tiers
//! have. What is here may be stale by the time it is asked for: it is that page as long as the record is the same.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use zerocopy::FromZeros;

use super::level::{Level, Record, Waits, empty_block};
use crate::core::sync::lock;
use crate::core::units::FRAME_SIZE;
use crate::seldom::is_due;
use crate::stats::Counter;
use crate::swap::session::WINDOW;
use crate::swap::tier::{Block, Op, Sealer, TierError};
use crate::swap::waker::Waker;

/// What one connection has asked tiers for.
#[derive(Debug)]
pub(crate) struct Reader {
    places: Mutex<Box<[Place]>>,
    /// Pages that stay where they are: they have been promised.
    pinned: Mutex<Range<u64>>,
    sealer: Arc<Sealer>,
    waker: Arc<Waker>,
    corrupt: Arc<Counter>,
}

#[derive(Debug)]
struct Place {
    state: State,
    page: u64,
    record: Record,
    /// The tier has it while it is coming.
    block: Option<Box<Block>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Coming,
    /// It is coming, and who has asked for it does not wait any more.
    Dropped,
    Here,
    Failed,
    /// It came, and is not what was sealed.
    Corrupt,
}

/// Whether a page has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Come {
    /// It is here.
    Here,
    /// It is on its way, or there is no place for it yet.
    NotYet,
    /// It will not come.
    Failed,
}

impl Reader {
    /// Places of one connection.
    pub(super) const PLACES: usize = 2 * WINDOW as usize;

    pub(super) fn new(sealer: Arc<Sealer>, waker: Arc<Waker>, corrupt: Arc<Counter>) -> Self {
        let places = (0..Self::PLACES).map(|_| Place::new()).collect();
        Self { places: Mutex::new(places), pinned: Mutex::new(0..0), sealer, waker, corrupt }
    }

    /// These pages are to stay where they are, and no others any more.
    pub(super) fn pin(&self, pages: Range<u64>) {
        *lock(&self.pinned) = pages;
    }

    /// The first of them has been read: it may go.
    pub(super) fn unpin(&self, page: u64) {
        let mut pinned = lock(&self.pinned);
        if pinned.start == page && !pinned.is_empty() {
            pinned.start += 1;
        }
    }

    pub(super) fn has_pinned(&self, page: u64) -> bool {
        lock(&self.pinned).contains(&page)
    }

    /// Who is told when a page has come.
    pub(super) fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    /// Asks for a page that is on a tier. One that is `next` takes the place of another that is here.
    pub(super) fn ask(self: &Arc<Self>, level: &Level, page: u64, record: Record, next: bool) -> Come {
        let index = page as usize % Self::PLACES;
        let mut places = lock(&self.places);
        let place = &mut places[index];
        let is_it = (place.page, place.record) == (page, record);
        match place.state {
            State::Coming | State::Dropped => return Come::NotYet,
            State::Here if is_it => return Come::Here,
            State::Here if !next && place.page != page => return Come::NotYet,
            State::Failed | State::Corrupt if is_it => {
                if place.state == State::Corrupt {
                    self.count_corrupt();
                }
                place.clear();
                return Come::Failed;
            }
            State::Here | State::Failed | State::Corrupt => place.clear(),
            State::Free => {}
        }
        let Some(block) = place.block.take() else { return Come::NotYet };
        (place.state, place.page, place.record) = (State::Coming, page, record);
        drop(places);
        level.begin(Waits::Reader(Arc::downgrade(self), index), Op::Read { place: record.place(), block });
        Come::NotYet
    }

    /// Who has asked for a page does not wait any more: that it fails is not said to others.
    pub(super) fn drop_failure(&self, page: u64, record: &Record) {
        let mut places = lock(&self.places);
        let place = &mut places[page as usize % Self::PLACES];
        if (place.page, &place.record) != (page, record) {
            return;
        }
        match place.state {
            State::Coming => place.state = State::Dropped,
            State::Failed => place.clear(),
            State::Corrupt => {
                self.count_corrupt();
                place.clear();
            }
            State::Free | State::Dropped | State::Here => {}
        }
    }

    /// What was asked for was not begun: it is to be asked for again.
    pub(super) fn put_off(&self, index: usize, op: Op) {
        let (Op::Read { block, .. } | Op::Write { block, .. }) = op else { return };
        if let Some(place) = lock(&self.places).get_mut(index) {
            (place.state, place.block) = (State::Free, Some(block));
        }
    }

    fn count_corrupt(&self) {
        self.corrupt.add(1);
        let pages = self.corrupt.get();
        if is_due(pages) {
            tracing::warn!(pages, "pages came back from a tier other than they went there");
        }
    }

    /// A page has come, or will not.
    pub(super) fn arrived(&self, index: usize, op: Op, result: Result<(), TierError>) {
        let (Op::Read { mut block, .. } | Op::Write { mut block, .. }) = op else { return };
        let mut places = lock(&self.places);
        let Some(place) = places.get_mut(index) else { return };
        // A place that was freed and written again meanwhile does not open either; nobody asks for that page
        // by this record any more.
        let state = match result {
            Ok(()) => match self.sealer.open(place.page, &place.record.seal(), &mut block) {
                Ok(_) => State::Here,
                Err(_) => State::Corrupt,
            },
            Err(_) => State::Failed,
        };
        place.block = Some(block);
        if place.state == State::Dropped && state != State::Here {
            place.clear();
        } else {
            place.state = state;
        }
        drop(places);
        self.waker.wake();
    }

    /// Shows a page that is here, packed; it is forgotten then.
    pub(super) fn take<T>(&self, page: u64, record: &Record, see: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let mut places = lock(&self.places);
        let place = &mut places[page as usize % Self::PLACES];
        if place.state != State::Here || (place.page, &place.record) != (page, record) {
            return None;
        }
        let packed = place.block.as_ref()?.0.get(..record.seal().len())?;
        let seen = see(packed);
        place.clear();
        Some(seen)
    }
}

impl Place {
    fn new() -> Self {
        Self { state: State::Free, page: 0, record: Record::new_zeroed(), block: Some(empty_block()) }
    }

    /// Nothing is there any more.
    fn clear(&mut self) {
        self.state = State::Free;
        if let Some(block) = &mut self.block {
            block.0 = [0; FRAME_SIZE];
        }
    }
}
