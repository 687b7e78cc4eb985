//! From per-CPU lists back to the free lists.
//!
//! `drain_all` looks at one word, the mask of CPUs that hold anything, and goes to those only; it needs
//! no memory of its own. A list that fills again behind it is harmless: who drains wants what was there
//! when it began. Lists that are in use at the moment are not waited for: their holder finds that it is
//! wanted and drains them when it lets go, or at its next refill or drain. One that lets go just before
//! it is told keeps what it holds until the next time.

use super::alloc::{FrameAllocator, Mode};
use super::block::GROUP;
use super::buddy::Buddy;
use super::cpu::{FRONTS, any_group_of, head_of, sort_of};
use super::local::Local;
use super::page_type::PageType;
use super::sync::atomic::Ordering;
use super::sync::{lock, try_lock};
use super::units::{CpuId, FRAMES_PER_BLOCK, FrameId, Order};

/// Frames in a word of a block's bits.
const WORD: u32 = 64;
const WORDS: u32 = FRAMES_PER_BLOCK as u32 / WORD;

/// What draining all lists came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Frames that went back to the free lists.
    pub frames: u64,
    /// CPUs whose lists were visited.
    pub visited: u32,
    /// CPUs that had theirs in use, and will drain them.
    pub busy: u32,
}

impl<M: Mode> FrameAllocator<M> {
    /// Drains the per-CPU lists of all CPUs that hold anything.
    pub fn drain_all(&self) -> Drained {
        self.drain_others(None)
    }

    /// Drains those of all CPUs but one: the caller's, whose lists it holds.
    pub(super) fn drain_others(&self, own: Option<CpuId>) -> Drained {
        let mut drained = Drained::default();
        let mut mask = self.holding.load(Ordering::Acquire) & !own.map_or(0, |own| 1 << own.0);
        while mask != 0 {
            let cpu = &self.cpus[mask.trailing_zeros() as usize];
            mask &= mask - 1;
            cpu.wanted.store(true, Ordering::Release);
            match try_lock(&cpu.lists) {
                Some(lists) => {
                    drained.visited += 1;
                    drained.frames += Local::new(self, cpu, lists).drain();
                }
                None => drained.busy += 1,
            }
        }
        let mut buddy = lock(&self.buddy);
        let others = self.cpus.len() as u64 - u64::from(own.is_some());
        buddy.counters.drain_all += 1;
        buddy.counters.drain_visits += u64::from(drained.visited);
        buddy.counters.drain_busy += u64::from(drained.busy);
        buddy.counters.drain_visits_saved += others - u64::from(drained.visited + drained.busy);
        drained
    }

    /// Puts what is not in a per-CPU list into the free lists. False when it is free already.
    pub(super) fn put_back(
        &self,
        buddy: &mut Buddy,
        head: FrameId,
        order: Order,
        page_type: PageType,
    ) -> bool {
        match order {
            Order::FRAME => {
                buddy.put_frames(head.block(), head.index() / 64, 1 << (head.index() % 64), page_type)
            }
            Order::BLOCK => buddy.put_block(head.block()),
            _ => buddy.put_chunk(head, order, page_type),
        }
    }

    /// Free memory has fallen to this: wakes the reclaimer if it is low.
    pub(super) fn notice_low(&self, free: u64) {
        if self.watermarks.is_low(free)
            && let Some(reclaimer) = &self.reclaimer
            && !self.low.swap(true, Ordering::Relaxed)
        {
            lock(&self.buddy).counters.low_hits += 1;
            reclaimer();
        }
    }

    /// Free memory has risen to this: wakes those who wait for the reserve.
    pub(super) fn notice_free(&self, free: u64) {
        if free >= self.watermarks.high && self.low.load(Ordering::Relaxed) {
            self.low.store(false, Ordering::Relaxed);
        }
        if self.watermarks.reserve_is_back(free) {
            self.throttle.wake();
        }
    }
}

impl<M: Mode> Local<'_, M> {
    /// Gives all that these lists hold to the free lists, and says how many frames that was.
    pub fn drain(&mut self) -> u64 {
        self.cpu.wanted.store(false, Ordering::Relaxed);
        let mut buddy = lock(&self.alloc.buddy);
        let before = buddy.free();
        for index in 0..FRONTS {
            self.retire(&mut buddy, index);
            self.put_freed_back(&mut buddy, index);
            self.lists.fronts[index].shrink(sort_of(index));
        }
        buddy.counters.drains += 1;
        let free = buddy.free();
        drop(buddy);
        self.lists.marked = false;
        self.alloc.holding.fetch_and(!(1 << self.cpu.id.0), Ordering::AcqRel);
        self.alloc.notice_free(free);
        free - before
    }

    /// Drains one freed list.
    pub(super) fn drain_freed(&mut self, index: usize) {
        if self.cpu.wanted.load(Ordering::Relaxed) {
            self.drain();
            return;
        }
        let mut buddy = lock(&self.alloc.buddy);
        self.put_freed_back(&mut buddy, index);
        buddy.counters.drains += 1;
        let free = buddy.free();
        drop(buddy);
        self.alloc.notice_free(free);
    }

    /// Gives back what a front has ready and stacked.
    pub(super) fn retire(&mut self, buddy: &mut Buddy, index: usize) {
        let (front, order) = (&self.cpu.fronts[index], sort_of(index));
        let tag = front.tag();
        let ready = front.ready.load(Ordering::Relaxed);
        if tag.is_free() {
            return;
        }
        let page_type = if M::CHECKED { tag.page_type() } else { PageType::Buddy };
        let mut frames = 0;
        let mut next = any_group_of(ready).map(|group| (group, ready as u32));
        while let Some((group, bits)) = next {
            let mut rest = bits;
            while rest != 0 {
                let head = head_of(group * GROUP + rest.trailing_zeros(), order);
                rest &= rest - 1;
                if let Some(cell) = self.alloc.table.cell(head, order)
                    && M::CHECKED
                {
                    cell.store(tag.freed().bits(), Ordering::Relaxed);
                }
                frames += u64::from(self.alloc.put_back(buddy, head, order, page_type)) << order.get();
            }
            next = self.lists.fronts[index].stack.pop();
        }
        if M::CHECKED {
            buddy.charges.uncharge(tag.owner(), tag.page_type(), frames);
        }
        self.let_go(index);
        front.key.store(0, Ordering::Relaxed);
        front.stacked.store(0, Ordering::Relaxed);
    }

    /// Gives back what was freed.
    fn put_freed_back(&mut self, buddy: &mut Buddy, index: usize) {
        let (front, order) = (&self.cpu.fronts[index], sort_of(index));
        let len = front.freed_items() as usize;
        let Some(items) = self.lists.fronts[index].freed.get(..len) else { return };
        let tag = front.freed_tag();
        let page_type = if M::CHECKED { tag.page_type() } else { PageType::Buddy };
        let frames = if order == Order::FRAME {
            buddy.touch(items.iter().map(|&frame| FrameId(frame).block()));
            self.put_frames_back(buddy, items, page_type)
        } else {
            let blocks = items
                .iter()
                .filter(|&&block| self.alloc.put_back(buddy, head_of(block, order), order, page_type));
            (blocks.count() as u64) << order.get()
        };
        buddy.counters.free_errors += ((len as u64) << order.get()) - frames;
        if M::CHECKED {
            buddy.charges.uncharge(tag.owner(), tag.page_type(), frames);
        }
        front.freed_len.store(0, Ordering::Relaxed);
    }

    /// Puts frames into their blocks, those that follow each other in a word at once. Says how many were
    /// taken: all but those that were free already.
    fn put_frames_back(&self, buddy: &mut Buddy, mut frames: &[u32], page_type: PageType) -> u64 {
        let mut taken = 0;
        while let [first, rest @ ..] = frames {
            let (mut bits, mut run) = (1u64 << (first % WORD), 1);
            for frame in rest {
                let bit = 1 << (frame % WORD);
                if frame / WORD != first / WORD || bits & bit != 0 {
                    break;
                }
                bits |= bit;
                run += 1;
            }
            let word = (first / WORD % WORDS) as usize;
            if buddy.put_frames(FrameId(*first).block(), word, bits, page_type) {
                taken += run as u64;
            } else {
                let one =
                    |&&frame: &&u32| self.alloc.put_back(buddy, FrameId(frame), Order::FRAME, page_type);
                taken += frames[..run].iter().filter(one).count() as u64;
            }
            frames = &frames[run..];
        }
        taken
    }
}
