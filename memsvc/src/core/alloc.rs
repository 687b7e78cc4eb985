//! The frame allocator: the face of the stack.
//!
//! ```text
//!   Request ─▶ Local (per-CPU fronts) ──refill──▶ Buddy (free lists, charges), behind one lock
//!              │  tags of frames: FrameTable ◀──────┘        ▲
//!   free ─────▶│ ready word or freed list ──────drain────────┘
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `local` | getting and putting: the fast paths |
//! | `refill`, `put` | what they fall back to |
//! | `cpu` | the per-CPU lists themselves |
//! | `drain` | from per-CPU lists back to the free lists: one CPU, all CPUs |
//! | `buddy`, `block`, `blockset` | the free lists |
//! | `table`, `tag`, `page_type` | what is known of each frame |
//! | `charge` | who it is counted against |
//! | `retag` | changes of tag without a free |
//! | `isolate` | emptying a block, for compaction |
//! | `watermark`, `throttle` | how much stays free, and who waits |
//! | `report`, `check` | tables for operators; the invariants, for tests |
//!
//! It knows nothing of memory: where frames lie and what is in them is `space`'s. There is one way in,
//! [`Local::alloc`], and one way out, [`Local::free`].

use std::fmt;
use std::time::Duration;

use super::block::GROUP;
use super::buddy::Buddy;
use super::cpu::{Cpu, Front, sort_of};
pub use super::drain::Drained;
pub use super::local::Local;
use super::page_type::PageType;
use super::request::{AllocError, FreeError, Request};
pub use super::retag::Retagger;
use super::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use super::sync::{Mutex, lock};
use super::table::FrameTable;
use super::tag::Tag;
use super::throttle::{Throttle, Waited};
use super::units::{BlockId, CpuId, FrameId, Order, OwnerId};
use super::watermark::Watermarks;

/// How long a requester that may wait is held up at most when half the reserve is gone: a tenth of what
/// Linux waits (`throttle_direct_reclaim`, mm/vmscan.c: one second), because a vCPU waits here.
const THROTTLE_LIMIT: Duration = Duration::from_millis(100);

/// How an allocator is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Blocks of the arena; at most 8,388,607 (16 TiB).
    pub blocks: u32,
    /// Per-CPU lists, 1 to 64.
    pub cpus: u8,
    /// How much stays free.
    pub watermarks: Watermarks,
}

/// What is compiled into the stack.
pub trait Mode: fmt::Debug + Send + Sync + 'static {
    /// Tags are checked and written, charges kept, the reserve guarded.
    const CHECKED: bool;
}

/// All of it.
#[derive(Debug)]
pub struct Full;

/// Without tags, charges and reserve: what the checks cost is measured against it. Frees are believed.
#[doc(hidden)]
#[derive(Debug)]
pub struct Bare;

impl Mode for Full {
    const CHECKED: bool = true;
}

impl Mode for Bare {
    const CHECKED: bool = false;
}

/// Called when free memory falls below the low watermark, once until it has been above high again.
/// It must not wait, nor call the allocator.
pub type Reclaimer = Box<dyn Fn() + Send + Sync>;

/// Hands out the frames of one arena. Every method may be called from any thread.
pub struct FrameAllocator<M: Mode = Full> {
    pub(super) table: FrameTable,
    pub(super) buddy: Mutex<Buddy>,
    pub(super) cpus: Box<[Cpu]>,
    /// CPUs whose lists hold anything: bit by number.
    pub(super) holding: AtomicU64,
    pub(super) watermarks: Watermarks,
    pub(super) throttle: Throttle,
    pub(super) reclaimer: Option<Reclaimer>,
    /// The reclaimer has been called, and free memory has not been above high since.
    pub(super) low: AtomicBool,
    mode: std::marker::PhantomData<M>,
}

impl<M: Mode> fmt::Debug for FrameAllocator<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameAllocator").field("frames", &self.table.frames()).finish_non_exhaustive()
    }
}

impl<M: Mode> FrameAllocator<M> {
    /// An allocator of which all blocks are free. There is always at least one CPU.
    ///
    /// # Panics
    /// When there are more blocks than frames can be numbered.
    pub fn new(config: Config) -> Self {
        assert!(config.blocks < 1 << 23, "an arena has less than 16 TiB");
        let cpus = config.cpus.clamp(1, CpuId::MAX as u8);
        Self {
            table: FrameTable::new(config.blocks),
            buddy: Mutex::new(Buddy::new(config.blocks)),
            cpus: (0..cpus).map(|id| Cpu::new(CpuId(id))).collect(),
            holding: AtomicU64::new(0),
            watermarks: config.watermarks,
            throttle: Throttle::default(),
            reclaimer: None,
            low: AtomicBool::new(false),
            mode: std::marker::PhantomData,
        }
    }

    /// With somebody to wake when free memory falls below the low watermark.
    pub fn with_reclaimer(mut self, reclaimer: Reclaimer) -> Self {
        self.reclaimer = Some(reclaimer);
        self
    }

    /// Takes the lists of a CPU, for as many operations as wanted: a lock, some nanoseconds. Waits while
    /// another thread has them. A number beyond the CPUs there are means one of them.
    pub fn enter(&self, cpu: CpuId) -> Local<'_, M> {
        let cpu = &self.cpus[cpu.0 as usize % self.cpus.len()];
        Local::new(self, cpu, lock(&cpu.lists))
    }

    /// Hands out `2^order` frames. A requester that may wait does so when half the reserve is gone and
    /// there is nothing for it, or others wait already: until the reserve is back, for a tenth of a second at
    /// most. Hold no lock here that freeing memory needs.
    ///
    /// # Errors
    /// [`AllocError`] when there is nothing that the request may have.
    pub fn alloc(&self, cpu: CpuId, request: &Request) -> Result<FrameId, AllocError> {
        let may_wait = request.get_flags().may_wait();
        let others_wait = may_wait && self.throttle.is_waiting();
        if others_wait {
            self.throttle(THROTTLE_LIMIT);
        }
        let result = self.enter(cpu).alloc(request);
        let is_short = matches!(result, Err(AllocError::NoMemory { .. }));
        let waits_now = is_short && may_wait && !others_wait;
        if waits_now && self.throttle(THROTTLE_LIMIT) { self.enter(cpu).alloc(request) } else { result }
    }

    /// If half the reserve is gone, or others wait already, waits in their queue until it is back, `limit`
    /// at most. True when there is reason to ask again.
    fn throttle(&self, limit: Duration) -> bool {
        let is_half_gone = || self.watermarks.reserve_is_half_gone(lock(&self.buddy).free());
        (self.throttle.is_waiting() || is_half_gone()) && self.wait(limit)
    }

    /// Waits in the same queue until there is memory above the min watermark, `limit` at most: for who was refused
    /// and cannot do without. True when there is some now; false, at once, when there was some all the time.
    pub fn wait_for_memory(&self, limit: Duration) -> bool {
        (self.throttle.is_waiting() || !self.reserve_is_back()) && self.wait(limit)
    }

    fn wait(&self, limit: Duration) -> bool {
        matches!(self.throttle.wait(limit, || self.reserve_is_back()), Waited::Back)
    }

    fn reserve_is_back(&self) -> bool {
        // What was freed before anybody waited may be in a list yet.
        self.drain_all();
        self.watermarks.reserve_is_back(lock(&self.buddy).free())
    }

    /// True when free memory is below the min watermark.
    pub fn is_short(&self) -> bool {
        lock(&self.buddy).free() < self.watermarks.min
    }

    /// True when free memory is below the low watermark.
    pub fn is_low(&self) -> bool {
        self.watermarks.is_low(lock(&self.buddy).free())
    }

    /// True when so many frames are free, those in per-CPU lists not counted.
    pub fn has_free(&self, frames: u64) -> bool {
        lock(&self.buddy).free() >= frames
    }

    /// Takes back what [`Self::alloc`] handed out.
    ///
    /// # Errors
    /// See [`Local::free`].
    pub fn free(&self, cpu: CpuId, head: FrameId, order: Order) -> Result<(), FreeError> {
        self.enter(cpu).free(head, order)
    }

    /// Frames of the arena.
    pub fn frames(&self) -> u64 {
        self.table.frames()
    }

    /// What a frame is for.
    ///
    /// # Panics
    /// When there is no such frame; so do all that follow.
    pub fn page_type(&self, frame: FrameId) -> PageType {
        if self.is_ready(frame) { PageType::Buddy } else { self.table.page_type(frame) }
    }

    /// Who is charged for a frame; for a free one, who was.
    pub fn owner(&self, frame: FrameId) -> OwnerId {
        self.table.effective(frame).owner()
    }

    /// True when the frame was had only because of `MEMALLOC`.
    pub fn is_reserve(&self, frame: FrameId) -> bool {
        self.table.effective(frame).is_reserve()
    }

    /// The number that was set for a frame: which guest frame it is behind, or what else its user wants to
    /// find again. In a block that is handed out whole only the first frame has one.
    pub fn rmap(&self, frame: FrameId) -> u32 {
        self.table.rmap(frame)
    }

    /// Sets that number. It stays until it is set again, whatever becomes of the frame.
    pub fn set_rmap(&self, frame: FrameId, value: u32) {
        self.table.set_rmap(frame, value);
    }

    /// How much stays free.
    pub fn watermarks(&self) -> &Watermarks {
        &self.watermarks
    }

    /// True when a whole block can be taken and free memory is not low after it.
    pub fn has_block_to_spare(&self) -> bool {
        let buddy = lock(&self.buddy);
        let after = buddy.free().checked_sub(Order::BLOCK.frames().into());
        buddy.whole_free() > 0 && after.is_some_and(|free| !self.watermarks.is_low(free))
    }

    /// Limits what an owner may be charged, frames. Who has more keeps it. Per-CPU lists, in which frames
    /// are charged ahead, are drained.
    pub fn set_limit(&self, owner: OwnerId, limit: Option<u64>) {
        lock(&self.buddy).charges.owner_mut(owner).limit = limit;
        self.drain_all();
    }

    /// A whole free block that was handed out in pieces before, so that there may be memory behind it.
    /// It is tagged [`PageType::Return`]; free it when the memory is gone.
    pub fn take_emptied(&self) -> Option<BlockId> {
        let mut buddy = lock(&self.buddy);
        let block = buddy.take_emptied()?;
        self.table.set_block_tag(block, Tag::live(PageType::Return, Order::BLOCK, OwnerId::HOST));
        self.charge_beyond(buddy, OwnerId::HOST, PageType::Return);
        Some(block)
    }

    /// True when a frame is ready in a per-CPU list, alone or with its block.
    pub(super) fn is_ready(&self, frame: FrameId) -> bool {
        let block = self.table.block_tag(frame.block());
        if block.is_free() {
            self.is_ready_item(Order::FRAME, frame.0)
        } else {
            self.is_ready_item(Order::BLOCK, frame.block().0)
        }
    }

    /// The tag of a frame, or of a block that is handed out whole, is about to change: no front takes it
    /// back by a look at its own word any more.
    pub(super) fn disown(&self, order: Order, item: u32) {
        if self.table.is_claimed(order, item / GROUP) {
            self.cpus.iter().flat_map(|cpu| cpu.sort(order)).for_each(|front| front.disown(item));
        }
    }

    fn is_ready_item(&self, order: Order, item: u32) -> bool {
        let has = |cpu: &Cpu| cpu.sort(order).iter().any(|front| front.has_ready(item));
        self.table.is_claimed(order, item / GROUP) && self.cpus.iter().any(has)
    }

    /// All fronts that may hold anything, with the frames of one item.
    pub(super) fn held_fronts(&self) -> impl Iterator<Item = (&Cpu, &Front, u64)> {
        let holding = self.holding.load(Ordering::Acquire);
        let cpus = self.cpus.iter().filter(move |cpu| holding >> cpu.id.0 & 1 == 1);
        cpus.flat_map(|cpu| {
            cpu.fronts
                .iter()
                .enumerate()
                .map(move |(at, front)| (cpu, front, u64::from(sort_of(at).frames())))
        })
    }
}

#[cfg(test)]
#[cfg(not(memsvc_loom))]
mod tests;
