//! Requests that are under way: each holds its chain until it is done. Those that wait are passed by others.

use std::{iter, mem};

use memsvc::swap::{DiskCommand, DiskData, DiskRequest, DiskStep, SwapDisk};
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::GuestAddress;

use super::data::{Data, are_in_ram};
use super::{MAX_SEGMENTS, QUEUE_SIZE, SwapMemory};
use crate::devices::virtio::blk::ranges::{self, Range, Ranges};
use crate::devices::virtio::blk::request::{
    Layout, Request, Span, finish, header_and_status, scatter, total,
};
use crate::devices::virtio::blk::{BlockMetrics, SECTOR};
use crate::devices::virtio::{ActiveQueue, Chain, Completion, Counter, GuestRam, Used, Work};

/// Pages that one turn moves before others on the event loop are served: 1 MiB, all of it packed.
const TURN: u64 = 256;
/// Pages that a request moves before the others have their turn.
const STEP: u64 = 64;
/// To erase a piece is the work of moving so many pages.
const ERASED: u64 = 16;

/// All requests of one driver.
pub(super) struct Requests {
    disk: SwapDisk,
    held: Vec<Held>,
    /// Room for the data of further requests, so that none allocates.
    room: Vec<Vec<Span>>,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    lack_memory: bool,
}

struct Held {
    head: u16,
    kind: u32,
    request: DiskRequest,
    data: Data,
    status: GuestAddress,
    /// It has ended so, with so many bytes written, which the driver is to be told.
    ended: Option<(u32, u32)>,
}

impl Requests {
    pub(super) fn new(disk: SwapDisk, id: [u8; VIRTIO_BLK_ID_BYTES as usize]) -> Self {
        let room = |_| Vec::with_capacity(MAX_SEGMENTS as usize);
        Self {
            disk,
            held: Vec::with_capacity(QUEUE_SIZE.into()),
            room: (0..QUEUE_SIZE).map(room).collect(),
            id,
            lack_memory: false,
        }
    }

    /// A request of the driver's, which acknowledged `features`.
    pub(super) fn take(
        &mut self,
        memory: &GuestRam,
        ram: &dyn SwapMemory,
        chain: Chain<'_>,
        features: u64,
        layout: &mut Layout,
        metrics: &BlockMetrics,
    ) -> Completion {
        if self.room.is_empty() {
            return Completion::Later;
        }
        if ram.lacks_memory_for(&mut header_and_status(chain)) {
            self.lack_memory = true;
            return Completion::Later;
        }
        let head = chain.head;
        let request = match layout.parse(memory, chain) {
            Ok(request) => request,
            Err(malformed) => {
                self.disk.refuse();
                return Completion::Used(malformed.refuse(memory, metrics));
            }
        };
        // A request that is answered at once touches its data at once; it is short.
        let touched = match request.kind {
            VIRTIO_BLK_T_GET_ID => request.into,
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => request.out,
            _ => &[],
        };
        if ram.lacks_memory_for(&mut beginning(touched).chain([(request.status.0, 1)])) {
            self.lack_memory = true;
            return Completion::Later;
        }
        let answer = |(status, written)| Completion::Used(request.finish(memory, status, written, metrics));
        if request.kind == VIRTIO_BLK_T_GET_ID {
            return answer(self.tell_id(memory, &request, metrics));
        }
        match self.begin(memory, &request, features, metrics) {
            Ok(begun) => {
                let data = if request.kind == VIRTIO_BLK_T_IN { request.into } else { request.out };
                let data = Data::new(data, self.room.pop().unwrap_or_default());
                self.held.push(Held {
                    head,
                    kind: request.kind,
                    request: begun,
                    data,
                    status: request.status,
                    ended: None,
                });
                Completion::Held
            }
            Err(status) => answer((status, 0)),
        }
    }

    fn tell_id(&self, memory: &GuestRam, request: &Request<'_>, metrics: &BlockMetrics) -> (u32, u32) {
        match scatter(memory, request.into, &self.id) {
            Some(written) => (VIRTIO_BLK_S_OK, written),
            None => (self.refuse(VIRTIO_BLK_S_IOERR, &metrics.bad_requests), 0),
        }
    }

    /// Begins a request, if it makes sense; else its status.
    fn begin(
        &self,
        memory: &GuestRam,
        request: &Request<'_>,
        features: u64,
        metrics: &BlockMetrics,
    ) -> Result<DiskRequest, u32> {
        let begin = |command, offset, bytes| {
            self.disk.begin(command, offset, bytes).ok_or_else(|| {
                metrics.refused.inc();
                VIRTIO_BLK_S_IOERR
            })
        };
        let (command, data) = match request.kind {
            VIRTIO_BLK_T_IN => (DiskCommand::Read, request.into),
            VIRTIO_BLK_T_OUT => (DiskCommand::Write, request.out),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
                if features & ranges::feature(request.kind) != 0 =>
            {
                let range = self.range(memory, request).map_err(|status| match status {
                    VIRTIO_BLK_S_UNSUPP => self.refuse(status, &metrics.unsupported),
                    _ => self.refuse(status, &metrics.refused),
                })?;
                return begin(DiskCommand::Erase, range.offset, range.bytes);
            }
            _ => return Err(self.refuse(VIRTIO_BLK_S_UNSUPP, &metrics.unsupported)),
        };
        if !are_in_ram(memory, data) {
            return Err(self.refuse(VIRTIO_BLK_S_IOERR, &metrics.bad_requests));
        }
        begin(command, request.sector.saturating_mul(SECTOR), total(data))
    }

    /// The only range of a request.
    fn range(&self, memory: &GuestRam, request: &Request<'_>) -> Result<Range, u32> {
        let ranges = Ranges::read(memory, request, self.disk.bytes() / SECTOR)?;
        let mut ranges = ranges.iter();
        match (ranges.next(), ranges.next()) {
            (Some(&range), None) => Ok(range),
            _ => Err(VIRTIO_BLK_S_IOERR),
        }
    }

    /// Counts a request that makes no sense.
    fn refuse(&self, status: u32, count: &Counter) -> u32 {
        self.disk.refuse();
        count.inc();
        status
    }

    /// Goes on with all of them, as far as the turn goes: a step each, in the order in which they came, and again.
    pub(super) fn go_on(
        &mut self,
        queue: &mut ActiveQueue<'_>,
        ram: &dyn SwapMemory,
        metrics: &BlockMetrics,
    ) -> Work {
        let memory = queue.memory();
        let was_full = self.room.is_empty();
        let Self { disk, held, room, lack_memory, .. } = self;
        let mut turn = Turn { left: TURN, first_read: true, has_room: true };
        let mut has_moved = true;
        while has_moved && turn.left > 0 {
            has_moved = false;
            held.retain_mut(|one| {
                let ended = one.ended.or_else(|| {
                    match turn.step(disk, &mut one.request, &mut one.data.in_ram(memory, ram)) {
                        DiskStep::Done => return Some((VIRTIO_BLK_S_OK, one.count(metrics))),
                        DiskStep::Failed => {
                            metrics.host_errors.inc();
                            return Some((VIRTIO_BLK_S_IOERR, 0));
                        }
                        DiskStep::More => has_moved = true,
                        DiskStep::NotReady => *lack_memory = true,
                        DiskStep::Later => {}
                    }
                    None
                });
                let Some((status, written)) = ended else { return true };
                if ram.lacks_memory_for(&mut iter::once((one.status.0, 1))) {
                    *lack_memory = true;
                    one.ended = ended;
                    return true;
                }
                let len = finish(memory, one.status, status, written, metrics);
                queue.publish(&[Used { head: one.head, len }]);
                room.push(one.data.take_room());
                false
            });
        }
        let has_more = turn.left == 0 && !held.is_empty() || was_full && !room.is_empty();
        if has_more { Work::More } else { Work::Done }
    }

    /// Whether one of them waits for memory, as far as was seen since the last time.
    pub(super) fn lacked_memory(&mut self) -> bool {
        mem::take(&mut self.lack_memory)
    }

    /// The driver wants none of them any more.
    pub(super) fn forget(&mut self) {
        self.room.extend(self.held.drain(..).map(|mut one| one.data.take_room()));
    }
}

impl Held {
    /// Counts it as done; bytes that were written into its chain.
    fn count(&self, metrics: &BlockMetrics) -> u32 {
        let bytes = self.request.bytes();
        let (requests, all) = match self.kind {
            VIRTIO_BLK_T_IN => (&metrics.reads, &metrics.read_bytes),
            VIRTIO_BLK_T_OUT => (&metrics.writes, &metrics.written_bytes),
            VIRTIO_BLK_T_DISCARD => (&metrics.discards, &metrics.discarded_bytes),
            _ => (&metrics.write_zeroes, &metrics.zeroed_bytes),
        };
        requests.inc();
        all.add(bytes);
        if self.kind == VIRTIO_BLK_T_IN { u32::try_from(bytes).unwrap_or(u32::MAX) } else { 0 }
    }
}

/// Where the first bytes of spans are: as many as are touched of a request that is answered at once.
fn beginning(spans: &[Span]) -> impl Iterator<Item = (u64, u64)> {
    let mut left = ranges::MOST_BYTES.max(VIRTIO_BLK_ID_BYTES.into());
    spans.iter().map_while(move |&(at, len)| {
        let now = len.min(left);
        left -= now;
        (now > 0 || len == 0).then_some((at.0, now))
    })
}

/// What there is to know of a turn.
struct Turn {
    /// Pages that may still be moved.
    left: u64,
    /// No read of this turn waits for a tier yet.
    first_read: bool,
    /// No write of this turn waits for room yet. Further ones would find none either.
    has_room: bool,
}

impl Turn {
    fn step(&mut self, disk: &mut SwapDisk, request: &mut DiskRequest, data: &mut impl DiskData) -> DiskStep {
        let command = request.command();
        if command == DiskCommand::Write && !self.has_room {
            return DiskStep::Later;
        }
        if self.left == 0 {
            return DiskStep::More;
        }
        let before = request.pages_left();
        let step = disk.step(request, self.left.min(STEP), self.first_read, data);
        let work = match command {
            DiskCommand::Erase => ERASED,
            DiskCommand::Read | DiskCommand::Write => before - request.pages_left(),
        };
        self.left = self.left.saturating_sub(work);
        match (step, command) {
            (DiskStep::Later, DiskCommand::Write) => self.has_room = false,
            (DiskStep::Later, _) => self.first_read = false,
            _ => {}
        }
        step
    }
}
