//! Sources of frames: the allocator, and others that could be used in its place.

use std::sync::{Mutex, MutexGuard, PoisonError};

use memsvc::core::alloc::{Config, FrameAllocator, Local};
use memsvc::core::page_type::PageType;
use memsvc::core::request::Request;
use memsvc::core::units::{CpuId, FRAMES_PER_BLOCK, FrameId, Order};
use memsvc::core::watermark::Watermarks;

/// Hands out chunks of one order to threads.
pub(crate) trait Pool: Sync {
    /// Name in the table.
    const NAME: &'static str;
    /// What is handed out.
    type Item: Copy + Default + Send;
    /// What one thread holds while it gets and puts.
    type Hand<'a>: Hand<Item = Self::Item>
    where
        Self: 'a;

    /// For the thread of this number, for a whole phase.
    fn hand(&self, thread: usize) -> Self::Hand<'_>;
}

/// Gets and puts.
pub(crate) trait Hand {
    type Item;
    fn get(&mut self) -> Option<Self::Item>;
    /// False when it is refused.
    fn put(&mut self, item: Self::Item) -> bool;
}

/// The frame allocator with all its checks, without reserve.
#[derive(Debug)]
pub(crate) struct Memsvc {
    alloc: FrameAllocator,
    request: Request,
    order: Order,
}

impl Memsvc {
    pub(crate) fn new(blocks: u32, order: Order, threads: usize) -> Self {
        let cpus = u8::try_from(threads).unwrap_or(u8::MAX);
        let config = Config { blocks, cpus, watermarks: Watermarks::NONE };
        Self { alloc: FrameAllocator::new(config), request: Request::new(order, PageType::Guest), order }
    }
}

impl Pool for Memsvc {
    const NAME: &'static str = "memsvc";
    type Item = u32;
    type Hand<'a> = MemsvcHand<'a>;

    fn hand(&self, thread: usize) -> MemsvcHand<'_> {
        let cpu = CpuId(u8::try_from(thread).unwrap_or(u8::MAX));
        MemsvcHand { local: self.alloc.enter(cpu), request: self.request, order: self.order }
    }
}

/// A thread that has entered its CPU.
pub(crate) struct MemsvcHand<'a> {
    local: Local<'a>,
    request: Request,
    order: Order,
}

impl Hand for MemsvcHand<'_> {
    type Item = u32;

    #[inline]
    fn get(&mut self) -> Option<u32> {
        self.local.alloc(&self.request).ok().map(|frame| frame.0)
    }

    #[inline]
    fn put(&mut self, item: u32) -> bool {
        self.local.free(FrameId(item), self.order).is_ok()
    }
}

/// The numbers of all free chunks, in one vector behind a lock: nothing merges, nothing is checked.
#[derive(Debug)]
pub(crate) struct MutexVec(Mutex<Vec<u32>>);

impl MutexVec {
    pub(crate) fn new(blocks: u32, order: Order) -> Self {
        let chunks = blocks * FRAMES_PER_BLOCK as u32 / order.frames();
        Self(Mutex::new((0..chunks).rev().map(|chunk| chunk * order.frames()).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool for MutexVec {
    const NAME: &'static str = "mutex-vec";
    type Item = u32;
    type Hand<'a> = &'a MutexVec;

    fn hand(&self, _thread: usize) -> &MutexVec {
        self
    }
}

impl Hand for &MutexVec {
    type Item = u32;

    #[inline]
    fn get(&mut self) -> Option<u32> {
        self.lock().pop()
    }

    #[inline]
    fn put(&mut self, item: u32) -> bool {
        self.lock().push(item);
        true
    }
}

/// The same vector, and a list of 64 for each thread, filled and emptied by halves.
#[derive(Debug)]
pub(crate) struct ThreadList(MutexVec);

impl ThreadList {
    pub(crate) fn new(blocks: u32, order: Order) -> Self {
        Self(MutexVec::new(blocks, order))
    }
}

impl Pool for ThreadList {
    const NAME: &'static str = "thread-list";
    type Item = u32;
    type Hand<'a> = ListHand<'a>;

    fn hand(&self, _thread: usize) -> ListHand<'_> {
        ListHand { all: &self.0, list: [0; LIST], len: 0 }
    }
}

const LIST: usize = 64;

/// The list of one thread.
pub(crate) struct ListHand<'a> {
    all: &'a MutexVec,
    list: [u32; LIST],
    len: usize,
}

impl ListHand<'_> {
    #[cold]
    fn fill(&mut self) {
        let mut all = self.all.lock();
        while self.len < LIST / 2
            && let Some(item) = all.pop()
        {
            self.list[self.len] = item;
            self.len += 1;
        }
    }

    #[cold]
    fn empty(&mut self, down_to: usize) {
        self.all.lock().extend_from_slice(&self.list[down_to..self.len]);
        self.len = down_to;
    }
}

impl Hand for ListHand<'_> {
    type Item = u32;

    #[inline]
    fn get(&mut self) -> Option<u32> {
        if self.len == 0 {
            self.fill();
        }
        self.len = self.len.checked_sub(1)?;
        Some(self.list[self.len])
    }

    #[inline]
    fn put(&mut self, item: u32) -> bool {
        if self.len == LIST {
            self.empty(LIST / 2);
        }
        self.list[self.len] = item;
        self.len += 1;
        true
    }
}

impl Drop for ListHand<'_> {
    fn drop(&mut self) {
        self.empty(0);
    }
}
