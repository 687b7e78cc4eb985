//! One tier as the store uses it: its places, and who waits for what it is at.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::not_negative;
use super::places::Places;
use super::reader::Reader;
use crate::core::sync::lock;
use crate::guard::Guard;
use crate::seldom::is_due;
use crate::stats::Counter;
use crate::swap::SwapError;
use crate::swap::codec::Codec;
use crate::swap::stats::TierStats;
use crate::swap::tier::{
    Block, Done, FileTier, Op, RemoteCounters, RemoteTier, Seal, Tier, TierConfig, TierError, Transport,
};

/// Connections that there may be at a time: as many as a server has.
pub(super) const READERS: usize = 64;
/// Reads that may be under way at a time: all that 32 connections can ask for. Those of connections that have gone are
/// among them until the tier has answered, so this is what their blocks can come to.
pub(super) const READS: usize = 32 * Reader::PLACES;
/// Operations that the evictor may have under way: a batch, and one to discard places.
const EVICTIONS: usize = Batch::SIZE + 1;
/// Operations that may wait for a tier.
const QUEUE: usize = READS + EVICTIONS;

/// What stays in memory of a page that is on a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Record {
    seal: [u8; Seal::SIZE],
    codec: u8,
    /// Low five bytes, the lowest first.
    place: [u8; PLACE],
}

const PLACE: usize = 5;
/// Places that there can be.
pub(super) const MOST_PLACES: u64 = 1 << (8 * PLACE);
const _: () = assert!(size_of::<Record>() == 32);

impl Record {
    pub(super) fn new(seal: Seal, codec: Codec, place: u64) -> Self {
        debug_assert!(place < MOST_PLACES);
        let [a, b, c, d, e, ..] = place.to_le_bytes();
        Self { seal: seal.to_bytes(), codec: codec as u8, place: [a, b, c, d, e] }
    }

    pub(super) fn seal(&self) -> Seal {
        Seal::from_bytes(self.seal)
    }

    pub(super) fn codec(&self) -> Codec {
        Codec::ALL.into_iter().find(|codec| *codec as u8 == self.codec).unwrap_or(Codec::None)
    }

    pub(super) fn place(&self) -> u64 {
        let [a, b, c, d, e] = self.place;
        u64::from_le_bytes([a, b, c, d, e, 0, 0, 0])
    }
}

/// Where a page may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) number: u64,
    /// Nothing lies there.
    pub(super) is_free: bool,
}

/// Who is told that an operation has ended.
#[derive(Debug)]
pub(super) enum Waits {
    /// A connection, for a page in this place of its. It may go meanwhile: nothing of it stays but the block.
    Reader(Weak<Reader>, usize),
    /// The evictor, for one of those under way.
    Evictor(Arc<Batch>, usize),
}

impl Waits {
    /// The operation has ended.
    fn end(self, op: Op, result: Result<(), TierError>) {
        match self {
            Self::Reader(reader, index) => {
                if let Some(reader) = reader.upgrade() {
                    reader.arrived(index, op, result);
                }
            }
            Self::Evictor(batch, index) => batch.end(index, op, result),
        }
    }

    /// There is no token for the operation.
    fn put_off(self, op: Op) {
        match self {
            Self::Reader(reader, index) => {
                if let Some(reader) = reader.upgrade() {
                    reader.put_off(index, op);
                }
            }
            Self::Evictor(..) => self.end(op, Err(TierError::Refused)),
        }
    }
}

/// One that has ended: its number, the operation, how it went.
type Ended = (usize, Op, Result<(), TierError>);

/// Operations that the evictor waits for together.
#[derive(Debug)]
pub(super) struct Batch {
    ended: Mutex<Vec<Ended>>,
    bell: Condvar,
}

impl Batch {
    /// Most operations.
    pub(super) const SIZE: usize = 32;

    /// None under way, and room for all that may be.
    pub(super) fn new() -> Self {
        Self { ended: Mutex::new(Vec::with_capacity(Self::SIZE)), bell: Condvar::new() }
    }

    fn end(&self, index: usize, op: Op, result: Result<(), TierError>) {
        lock(&self.ended).push((index, op, result));
        self.bell.notify_one();
    }

    /// Waits until so many have ended, and hands them over.
    pub(super) fn wait(&self, count: usize, mut each: impl FnMut(usize, Op, Result<(), TierError>)) {
        let mut ended = lock(&self.ended);
        while ended.len() < count {
            ended = self.bell.wait(ended).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        ended.drain(..).for_each(|(index, op, result)| each(index, op, result));
    }

    /// Waits until the one that is under way has ended, and says how, unless there is something better to do.
    pub(super) fn wait_one(&self, stop: impl Fn() -> bool) -> Option<Result<(), TierError>> {
        let mut ended = lock(&self.ended);
        loop {
            if let Some((.., result)) = ended.pop() {
                return Some(result);
            }
            if stop() {
                return None;
            }
            ended = self.bell.wait_timeout(ended, LOOK).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

/// How soon it is seen that there is something better to do.
const LOOK: Duration = Duration::from_millis(10);

/// Who waits, by the token of the operation.
#[derive(Debug)]
struct Waiting {
    by_token: Vec<Option<Waits>>,
    free: Vec<u32>,
    /// Connections for which there was no token.
    put_off: Vec<Weak<Reader>>,
}

impl Waiting {
    fn new() -> Self {
        let by_token = (0..QUEUE).map(|_| None).collect();
        Self { by_token, free: (0..QUEUE as u32).rev().collect(), put_off: Vec::with_capacity(READERS) }
    }

    fn add(&mut self, waits: Waits) -> Result<u64, Waits> {
        if let Waits::Reader(reader, _) = &waits
            // The evictor's are there for it, whatever connections ask for.
            && self.free.len() <= EVICTIONS
        {
            self.put_off.retain(|other| other.strong_count() > 0 && !other.ptr_eq(reader));
            self.put_off.push(Weak::clone(reader));
            return Err(waits);
        }
        let Some(token) = self.free.pop() else { return Err(waits) };
        self.by_token[token as usize] = Some(waits);
        Ok(token.into())
    }

    /// Those who were put off ask again.
    fn take(&mut self, token: u64) -> Option<Waits> {
        let waits = self.by_token.get_mut(token as usize)?.take()?;
        self.free.push(token as u32);
        let readers = self.put_off.drain(..).filter_map(|reader| reader.upgrade());
        readers.for_each(|reader| reader.waker().wake());
        Some(waits)
    }
}

/// A tier below the store.
#[derive(Debug)]
pub(crate) struct Level {
    name: String,
    tier: Tier,
    waiting: Arc<Mutex<Waiting>>,
    places: Mutex<Places>,
    /// Pages whose valid copy is on this tier. More places may be taken: by writes that were not answered, and by
    /// pages that are being written or discarded.
    stored: AtomicU64,
    rest: Mutex<Rest>,
    counts: Arc<Counts>,
    /// It has not answered for the stated time, and is not back.
    is_away: Arc<AtomicBool>,
    /// What its connection did, if it has one.
    remote: Option<Arc<RemoteCounters>>,
}

/// What is not asked of a tier for a while.
#[derive(Debug, Default)]
struct Rest {
    /// It has taken nothing a moment ago: no places are to be had before then.
    until: Option<Instant>,
    /// It had no room a moment ago: until then only places on which something lies already.
    full_until: Option<Instant>,
}

/// A tier that takes nothing, or no more, is tried again after that.
const REST: Duration = Duration::from_secs(1);

/// What a tier did.
#[derive(Debug, Default)]
struct Counts {
    read: Counter,
    written: Counter,
    discarded: Counter,
    errors: Counter,
    away: Counter,
}

impl Level {
    /// Memory that is left of each page on a tier.
    pub(crate) const RECORD_BYTES: u64 = size_of::<Record>() as u64;

    /// A tier as configured, for so many pages at the most.
    ///
    /// # Errors
    /// It cannot be had.
    pub(crate) fn open(config: &TierConfig, pages: u64, guard: &Guard) -> Result<Self, SwapError> {
        let most = pages.min(MOST_PLACES);
        let name = config.to_string();
        match config {
            TierConfig::File(directory) => {
                let tier = Box::new(FileTier::open(directory, most)?);
                Self::new(name, tier, most, guard).map_err(SwapError::Resource)
            }
            TierConfig::Nbd { server, export, timeout } => {
                let (tier, places) = RemoteTier::connect(server, export, *timeout, most)?;
                let (is_away, remote) = (tier.is_away(), Some(tier.counters()));
                let level = Self::new(name, Box::new(tier), places, guard).map_err(SwapError::Resource)?;
                Ok(Self { is_away, remote, ..level })
            }
        }
    }

    /// A tier of so many places; its name is for people.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn new(
        name: String,
        transport: Box<dyn Transport>,
        places: u64,
        guard: &Guard,
    ) -> std::io::Result<Self> {
        let waiting = Arc::new(Mutex::new(Waiting::new()));
        let counts = Arc::<Counts>::default();
        let tier = Tier::spawn(transport, QUEUE, guard, {
            let (waiting, counts, name) = (Arc::clone(&waiting), Arc::clone(&counts), name.clone());
            move |Done { token, op, result }| {
                counts.count(&name, &op, result);
                let waits = lock(&waiting).take(token);
                if let Some(waits) = waits {
                    waits.end(op, result);
                }
            }
        })?;
        let places = Mutex::new(Places::new(places.min(MOST_PLACES)));
        let (rest, is_away) = (Mutex::default(), Arc::default());
        let stored = AtomicU64::new(0);
        Ok(Self { name, tier, waiting, places, stored, rest, counts, is_away, remote: None })
    }

    /// Begins an operation, of which somebody is told that it has ended. It is refused at once when the tier is
    /// closed. While too many reads are under way none is begun: who asks is woken when one has ended.
    pub(super) fn begin(&self, waits: Waits, op: Op) {
        let token = lock(&self.waiting).add(waits);
        let token = match token {
            Ok(token) => token,
            Err(waits) => return waits.put_off(op),
        };
        if let Err(op) = self.tier.begin(token, op) {
            let waits = lock(&self.waiting).take(token);
            if let Some(waits) = waits {
                waits.end(op, Err(TierError::Refused));
            }
        }
    }

    /// Ends all operations as soon as can be; from now on they are refused.
    pub(super) fn close(&self) {
        self.tier.close();
    }

    /// A place for a page, if there is one that can be written now.
    pub(super) fn take_place(&self) -> Option<Place> {
        if self.rests() {
            return None;
        }
        let is_full = lock(&self.rest).full_until.is_some_and(|until| Instant::now() < until);
        let mut places = lock(&self.places);
        match places.take_freed_one() {
            None if is_full => None,
            None => places.take_free().map(|number| Place { number, is_free: true }),
            Some(number) => Some(Place { number, is_free: false }),
        }
    }

    /// It has taken nothing of what it was asked to write: for a while it is asked for nothing.
    pub(super) fn rest(&self) {
        lock(&self.rest).until = Some(Instant::now() + REST);
    }

    /// It has no more room: for a while nothing is written but where something lies already. True when that was so before.
    pub(super) fn fill(&self) -> bool {
        let now = Instant::now();
        let before = lock(&self.rest).full_until.replace(now + REST);
        before.is_some_and(|until| now < until)
    }

    /// True when nothing can be written to it now, whatever places it has.
    pub(super) fn rests(&self) -> bool {
        self.is_away() || lock(&self.rest).until.is_some_and(|until| Instant::now() < until)
    }

    /// True when it does not answer.
    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// What lies there is not needed any more.
    pub(super) fn free_place(&self, place: u64) {
        lock(&self.places).free(place);
    }

    /// There was no room for what was to lie there, and nothing does.
    pub(super) fn give_back(&self, place: u64) {
        lock(&self.places).give_back(place);
    }

    /// Some places that were freed and not discarded yet; see [`Self::discarded`].
    pub(super) fn take_freed(&self) -> Option<Range<u64>> {
        lock(&self.places).take_freed()
    }

    /// They can be used again, and there may be more room.
    pub(super) fn discarded(&self, places: Range<u64>) {
        lock(&self.places).discarded(places);
        lock(&self.rest).full_until = None;
    }

    /// Pages that it can have.
    pub(crate) fn pages(&self) -> u64 {
        lock(&self.places).count()
    }

    /// Places that cannot be had, whatever for.
    #[cfg(test)]
    pub(super) fn taken(&self) -> u64 {
        lock(&self.places).taken()
    }

    /// Counts a page in (1) or out (−1).
    pub(super) fn count(&self, one: u64) {
        self.stored.fetch_add(one, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> TierStats {
        TierStats {
            name: self.name.clone(),
            pages: self.pages(),
            stored_pages: not_negative(&self.stored),
            pages_read: self.counts.read.get(),
            pages_written: self.counts.written.get(),
            pages_discarded: self.counts.discarded.get(),
            errors: self.counts.errors.get(),
            timeouts: self.counts.away.get(),
            remote: self.remote.as_ref().map(|counters| counters.snapshot()),
        }
    }
}

impl Counts {
    fn count(&self, name: &str, op: &Op, result: Result<(), TierError>) {
        match (result, op) {
            (Ok(()), Op::Read { .. }) => self.read.add(1),
            (Ok(()), Op::Write { .. }) => self.written.add(1),
            (Ok(()), Op::Discard { places }) => self.discarded.add(places.end - places.start),
            (Err(error), _) if error.is_away() => self.away.add(1),
            (Err(error), _) => {
                self.errors.add(1);
                let errors = self.errors.get();
                if is_due(errors) {
                    tracing::warn!(tier = name, errors, %error, "operations of a tier have failed");
                }
            }
        }
    }
}

/// A block of zeroes.
pub(super) fn empty_block() -> Box<Block> {
    // Made in place: a block is larger than what should be on a stack.
    Box::new(Block([0; crate::core::units::FRAME_SIZE]))
}
