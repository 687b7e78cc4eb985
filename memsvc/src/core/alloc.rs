//! The frame allocator: the face of the stack.
//!
//! (Interface only: the heart is being written. Signatures are final unless said.)

use super::request::{AllocError, FreeError, Request};
use super::page_type::PageType;
use super::units::{BlockId, CpuId, FrameId, GuestFrame, Order, OwnerId};
use super::watermark::Watermarks;
use crate::stats::{BuddyInfo, TypeInfo, ZoneInfo};

/// How an allocator is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// Blocks of the arena.
    pub blocks: u32,
    /// Per-CPU lists, 1 to 64.
    pub cpus: u8,
    /// Watermarks.
    pub watermarks: Watermarks,
}

/// The mode in which the stack is compiled: [`Full`], or [`Bare`] to measure what the checks cost.
pub trait Mode: std::fmt::Debug + 'static {
    /// Tags are checked and written, charges kept, the reserve guarded.
    const CHECKED: bool;
}
/// All of it.
#[derive(Debug)]
pub struct Full;
/// Without tags, charges and reserve. For measurements only.
#[derive(Debug)]
pub struct Bare;
impl Mode for Full { const CHECKED: bool = true; }
impl Mode for Bare { const CHECKED: bool = false; }

/// Hands out the frames of one arena. Every method may be called from any thread.
#[derive(Debug)]
pub struct FrameAllocator<M: Mode = Full> { _m: std::marker::PhantomData<M> }

/// What a `drain_all` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained { /// Frames that went back to the free lists.
    pub frames: u64, /// Lists visited.
    pub visited: u32, /// Lists in use at the moment, which drain themselves.
    pub busy: u32 }

impl<M: Mode> FrameAllocator<M> {
    /// All blocks free.
    pub fn new(_config: Config) -> Self { todo!() }
    /// Takes the lists of a CPU for a batch of operations (a lock, a few ns). Waits while another thread has them.
    pub fn enter(&self, _cpu: CpuId) -> Local<'_, M> { todo!() }
    /// `enter` + `alloc`; a requester that may wait is throttled when the reserve is low. Hold no lock that freeing needs.
    pub fn alloc(&self, _cpu: CpuId, _request: &Request) -> Result<FrameId, AllocError> { todo!() }
    /// `enter` + `free`.
    pub fn free(&self, _cpu: CpuId, _head: FrameId, _order: Order) -> Result<(), FreeError> { todo!() }
    /// Drains all per-CPU lists that hold anything.
    pub fn drain_all(&self) -> Drained { todo!() }
    /// What a frame is for.
    pub fn page_type(&self, _frame: FrameId) -> PageType { todo!() }
    /// Who is charged for it.
    pub fn owner(&self, _frame: FrameId) -> OwnerId { todo!() }
    /// True when it was had only because of `MEMALLOC`.
    pub fn is_reserve(&self, _frame: FrameId) -> bool { todo!() }
    /// Changes the page type of one live frame, as [`PageType::may_become`] allows.
    pub fn retag(&self, _frame: FrameId, _page_type: PageType) { todo!() }
    /// Makes a chunk that is handed out whole one of single frames, all still in use (`split_page`).
    pub fn split(&self, _head: FrameId, _order: Order) -> Result<(), FreeError> { todo!() }
    /// A whole free block that was handed out in pieces before, so that there may be memory behind it. It is
    /// tagged [`PageType::Return`]; free it when the memory is gone.
    pub fn take_emptied(&self) -> Option<BlockId> { todo!() }
    /// Which guest frame a frame of type Guest or Balloon is behind; for other types what was put there.
    pub fn rmap(&self, _frame: FrameId) -> u32 { todo!() }
    /// Says which guest frame it is behind (or, for other types, any number its user wants to find again).
    pub fn set_rmap(&self, _frame: FrameId, _value: u32) { todo!() }
    /// Limits what an owner may have, in frames.
    pub fn set_limit(&self, _owner: OwnerId, _limit: Option<u64>) { todo!() }
    /// Frames charged to an owner, exact.
    pub fn charged(&self, _owner: OwnerId) -> u64 { todo!() }
    /// Frames of a type, exact.
    pub fn count(&self, _page_type: PageType) -> u64 { todo!() }
    /// Tables.
    pub fn buddy_info(&self) -> BuddyInfo { todo!() }
    /// Tables.
    pub fn type_info(&self) -> TypeInfo { todo!() }
    /// Tables.
    pub fn zone_info(&self) -> ZoneInfo { todo!() }
}

/// The lists of one CPU, held. No other thread gets at them meanwhile, so do not hold it while waiting.
#[derive(Debug)]
pub struct Local<'a, M: Mode = Full> { _a: &'a FrameAllocator<M> }

impl<M: Mode> Local<'_, M> {
    /// Hands out `2^order` frames. Never waits.
    #[inline]
    pub fn alloc(&mut self, _request: &Request) -> Result<FrameId, AllocError> { todo!() }
    /// Takes back what was handed out, of any type.
    #[inline]
    pub fn free(&mut self, _head: FrameId, _order: Order) -> Result<(), FreeError> { todo!() }
    /// Gives all that these lists hold to the free lists.
    pub fn drain(&mut self) { todo!() }
    /// The allocator.
    pub fn allocator(&self) -> &FrameAllocator<M> { todo!() }
}
