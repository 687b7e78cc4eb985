//! Serving a disk's requests: one after another, a turn's work at a time, or by a ring, beside each other.

use std::io;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use memsvc::seldom::is_due;
use tracing::warn;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::{GuestAddress, Permissions};

use super::backend::{BlockBackend, Direction};
use super::parts::Parts;
use super::ranges::{self, Ranges};
use super::request::{Layout, Request, cut, finish, scatter, slices, total};
use super::ring::{Ring, Task};
use super::{BlockMetrics, CacheType, SECTOR};
use crate::devices::virtio::rate::RateLimiter;
use crate::devices::virtio::{Chain, Completion, Counter, GuestRam, Used};

/// Data bytes in a request. Far more than Linux asks for (1280 KiB, unless told otherwise).
const MAX_BYTES: u64 = 64 << 20;

/// All that it takes to serve a request.
pub(super) struct Service {
    pub(super) backend: BlockBackend,
    pub(super) cache: CacheType,
    pub(super) id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    pub(super) metrics: Arc<BlockMetrics>,
}

/// What there is to know of the turn in which a request is served.
pub(super) struct Turn<'a> {
    /// Features that the driver acknowledged.
    pub(super) features: u64,
    /// Work that may still be done, in bytes.
    pub(super) left: u64,
    /// What earlier turns did of the request that is next: bytes of its data, or ranges.
    pub(super) done: &'a mut u64,
    pub(super) limiter: &'a mut RateLimiter,
    /// Bytes of a request that were read or written.
    pub(super) moved: u64,
    /// The disk had another file before, which may not have all that went there.
    pub(super) is_unsettled: &'a mut bool,
    /// The ring that does the work instead, if there is one.
    pub(super) ring: Option<&'a mut Ring<Option<UnderWay>>>,
}

/// A request that the kernel has.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnderWay {
    head: u16,
    kind: u32,
    status: GuestAddress,
    bytes: u64,
}

impl UnderWay {
    fn new(request: &Request<'_>, bytes: u64) -> Self {
        Self { head: request.head, kind: request.kind, status: request.status, bytes }
    }
}

/// Why a request is not served.
enum Unserved {
    /// It failed: the status byte.
    Failed(u32),
    /// What is left of it is for the next turn.
    NextTurn,
    /// There is no room for it now.
    Later,
    /// The kernel has it.
    UnderWay,
}

/// How a request ended: bytes written before the status byte.
type Answer = Result<u32, Unserved>;

impl Service {
    /// Serves one chain, as far as the turn goes.
    pub(super) fn serve(
        &self,
        memory: &GuestRam,
        chain: Chain<'_>,
        layout: &mut Layout,
        turn: &mut Turn<'_>,
    ) -> Completion {
        if turn.left == 0 {
            return Completion::NextTurn;
        }
        if *turn.done == 0 && !turn.limiter.is_open() {
            self.metrics.rate_limited.inc();
            return Completion::Later;
        }
        let written = match layout.parse(memory, chain) {
            Ok(request) => {
                let (status, data) = match self.execute(memory, &request, turn) {
                    Ok(data) => (VIRTIO_BLK_S_OK, data),
                    Err(Unserved::Failed(status)) => (status, 0),
                    Err(Unserved::NextTurn) => return Completion::NextTurn,
                    Err(Unserved::Later) => return Completion::Later,
                    Err(Unserved::UnderWay) => {
                        turn.limiter.spend(mem::take(&mut turn.moved));
                        return Completion::Held;
                    }
                };
                request.finish(memory, status, data, &self.metrics)
            }
            Err(malformed) => malformed.refuse(memory, &self.metrics),
        };
        *turn.done = 0;
        turn.limiter.spend(mem::take(&mut turn.moved));
        Completion::Used(written)
    }

    /// Ends a request that the kernel had; what to give back.
    pub(super) fn finish(&self, memory: &GuestRam, request: UnderWay, result: io::Result<()>) -> Used {
        let (status, data) = match result {
            Ok(()) => (VIRTIO_BLK_S_OK, self.count(request.kind, request.bytes)),
            Err(cause) => {
                self.host_error(&cause);
                (VIRTIO_BLK_S_IOERR, 0)
            }
        };
        Used { head: request.head, len: finish(memory, request.status, status, data, &self.metrics) }
    }

    /// Counts a sync, if it was one.
    pub(super) fn count_sync(&self, synced: bool) {
        if synced {
            self.metrics.syncs.inc();
        }
    }

    /// Counts a request that was served; how many bytes the driver got.
    fn count(&self, kind: u32, bytes: u64) -> u32 {
        let (requests, all) = self.counters(kind);
        requests.inc();
        all.inspect(|all| all.add(bytes));
        if kind == VIRTIO_BLK_T_IN { u32::try_from(bytes).unwrap_or(u32::MAX) } else { 0 }
    }

    /// Where requests are counted, and their bytes.
    fn counters(&self, kind: u32) -> (&Counter, Option<&Counter>) {
        let metrics = &*self.metrics;
        match kind {
            VIRTIO_BLK_T_IN => (&metrics.reads, Some(&metrics.read_bytes)),
            VIRTIO_BLK_T_OUT => (&metrics.writes, Some(&metrics.written_bytes)),
            VIRTIO_BLK_T_DISCARD => (&metrics.discards, Some(&metrics.discarded_bytes)),
            VIRTIO_BLK_T_WRITE_ZEROES => (&metrics.write_zeroes, Some(&metrics.zeroed_bytes)),
            _ => (&metrics.flushes, None),
        }
    }

    fn execute(&self, memory: &GuestRam, request: &Request<'_>, turn: &mut Turn<'_>) -> Answer {
        match request.kind {
            VIRTIO_BLK_T_IN => {
                let bytes = self.transfer(memory, request, Direction::Read, turn)?;
                Ok(self.count(request.kind, bytes))
            }
            VIRTIO_BLK_T_OUT => {
                if self.backend.is_read_only() {
                    return Err(self.refuse());
                }
                let bytes = self.transfer(memory, request, Direction::Write, turn)?;
                self.settle(turn)?;
                Ok(self.count(request.kind, bytes))
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
                if turn.features & ranges::feature(request.kind) != 0 =>
            {
                self.clear(memory, request, turn)?;
                self.settle(turn)?;
                Ok(self.count(request.kind, 0))
            }
            VIRTIO_BLK_T_FLUSH => {
                if mem::take(turn.is_unsettled) {
                    return Err(Unserved::Failed(VIRTIO_BLK_S_IOERR));
                }
                if self.has_cache() {
                    self.hand_over(turn, UnderWay::new(request, 0), Task::Sync, 0, false)?;
                    self.sync(turn)?;
                }
                Ok(self.count(request.kind, 0))
            }
            VIRTIO_BLK_T_GET_ID => self.get_id(memory, request),
            _ => Err(self.unsupported()),
        }
    }

    /// Moves the data of a request; its length in bytes.
    fn transfer(
        &self,
        memory: &GuestRam,
        request: &Request<'_>,
        direction: Direction,
        turn: &mut Turn<'_>,
    ) -> Result<u64, Unserved> {
        let (spans, access) = match direction {
            Direction::Read => (request.into, Permissions::Write),
            Direction::Write => (request.out, Permissions::Read),
        };
        let bytes = total(spans);
        let end = request.sector.checked_add(bytes / SECTOR);
        let fits = end.is_some_and(|end| end <= self.backend.sectors());
        if !fits || !bytes.is_multiple_of(SECTOR) || bytes > MAX_BYTES {
            return Err(self.refuse());
        }
        let Some(slices) = slices(memory, spans, access) else {
            self.metrics.bad_requests.inc();
            return Err(Unserved::Failed(VIRTIO_BLK_S_IOERR));
        };
        if bytes > 0 {
            let durable = direction == Direction::Write && self.is_durable_at_once(turn);
            let (offset, parts) = (request.sector * SECTOR, Parts::new(&slices));
            let task = Task::Move { direction, offset, parts };
            self.hand_over(turn, UnderWay::new(request, bytes), task, bytes, durable)?;
        }
        // The driver may have changed the request since the last turn, which is its own loss.
        let start = bytes.min(*turn.done);
        let piece: Range<u64> = start..bytes.min(start + turn.left);
        self.backend
            .transfer(direction, request.sector * SECTOR + start, &cut(&slices, &piece))
            .map_err(|cause| self.failed(&cause))?;
        turn.left -= piece.end - start;
        *turn.done = piece.end;
        if piece.end < bytes {
            return Err(Unserved::NextTurn);
        }
        turn.moved = bytes;
        Ok(bytes)
    }

    /// Has the ranges of a request read as zeroes, and counts their bytes.
    fn clear(&self, memory: &GuestRam, request: &Request<'_>, turn: &mut Turn<'_>) -> Result<(), Unserved> {
        let sectors = self.backend.sectors();
        let ranges = Ranges::read(memory, request, sectors).map_err(|status| match status {
            VIRTIO_BLK_S_UNSUPP => self.unsupported(),
            _ => self.refuse(),
        })?;
        let discard = request.kind == VIRTIO_BLK_T_DISCARD;
        // A file that came later may have no holes.
        if discard && !self.backend.has_holes() {
            return Err(self.unsupported());
        }
        let clearing =
            |range: &ranges::Range| self.backend.clearing(range.offset, range.bytes, discard || range.unmap);
        if turn.ring.is_some() {
            let bytes = ranges.iter().map(|range| range.bytes).sum();
            let task = Task::Clear(ranges.iter().filter(|range| range.bytes > 0).map(clearing).collect());
            let work = ranges.iter().map(|range| range.work).sum();
            let durable = self.is_durable_at_once(turn);
            self.hand_over(turn, UnderWay::new(request, bytes), task, work, durable)?;
        }
        let first = usize::try_from(*turn.done).unwrap_or(usize::MAX);
        for range in ranges.iter().skip(first) {
            if turn.left < range.work {
                return Err(Unserved::NextTurn);
            }
            self.backend.clear(clearing(range)).map_err(|cause| self.failed(&cause))?;
            self.counters(request.kind).1.inspect(|all| all.add(range.bytes));
            turn.left -= range.work;
            *turn.done += 1;
        }
        Ok(())
    }

    /// Hands a request of so much work to the kernel, if there is a ring.
    fn hand_over(
        &self,
        turn: &mut Turn<'_>,
        request: UnderWay,
        task: Task,
        work: u64,
        durable: bool,
    ) -> Result<(), Unserved> {
        let Some(ring) = &mut turn.ring else { return Ok(()) };
        if !ring.has_room(work) {
            return Err(Unserved::Later);
        }
        if matches!(task, Task::Move { .. }) {
            turn.moved = request.bytes;
        }
        ring.start(Some(request), self.backend.clone(), task, work, durable);
        Err(Unserved::UnderWay)
    }

    /// Makes a write durable before it is answered, for a driver that knows no other way to have it so.
    fn settle(&self, turn: &mut Turn<'_>) -> Result<(), Unserved> {
        if self.is_durable_at_once(turn) { self.sync(turn) } else { Ok(()) }
    }

    /// Section 5.2.6.2: a flush is offered, and was not acknowledged.
    fn is_durable_at_once(&self, turn: &Turn<'_>) -> bool {
        self.has_cache() && turn.features & 1 << VIRTIO_BLK_F_FLUSH == 0
    }

    /// Whether what is written may be in the host's cache alone.
    pub(super) fn has_cache(&self) -> bool {
        self.cache == CacheType::Writeback && !self.backend.is_read_only()
    }

    /// Waits for the host's disk, and that is the work of a turn.
    fn sync(&self, turn: &mut Turn<'_>) -> Result<(), Unserved> {
        turn.left = 0;
        self.metrics.syncs.inc();
        self.backend.flush().map_err(|cause| self.failed(&cause))
    }

    fn get_id(&self, memory: &GuestRam, request: &Request<'_>) -> Answer {
        scatter(memory, request.into, &self.id).ok_or_else(|| {
            self.metrics.bad_requests.inc();
            Unserved::Failed(VIRTIO_BLK_S_IOERR)
        })
    }

    fn refuse(&self) -> Unserved {
        self.metrics.refused.inc();
        Unserved::Failed(VIRTIO_BLK_S_IOERR)
    }

    fn unsupported(&self) -> Unserved {
        self.metrics.unsupported.inc();
        Unserved::Failed(VIRTIO_BLK_S_UNSUPP)
    }

    fn failed(&self, cause: &io::Error) -> Unserved {
        self.host_error(cause);
        Unserved::Failed(VIRTIO_BLK_S_IOERR)
    }

    /// Counts what the host could not do, and says so now and then.
    pub(super) fn host_error(&self, cause: &io::Error) {
        self.metrics.host_errors.inc();
        let times = self.metrics.host_errors.get();
        if is_due(times) {
            warn!(times, %cause, "a disk request failed on the host");
        }
    }
}
