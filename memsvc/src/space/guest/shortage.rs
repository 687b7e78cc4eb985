//! Faults that wait for memory: those for which there was no frame above the min watermark.
//!
//! ```text
//!   fault thread ──▶ waiting ──▶ thread `short`: in the allocator's queue for the reserve
//!        ▲                             │ memory is back, or the time is over
//!        └──── they fault again ◀──────┘ all are woken
//! ```
//! When the guest ends nobody frees anything any more: who still waits is let go.
//!
//! The fault thread itself never waits for memory. Faults of the thread without which none may be freed
//! are `MEMALLOC`: they are here only when the reserve is used up, too, but for what pages of swap need to leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{GuestSpace, wanted};
use crate::core::sync::{Mutex, lock};
use crate::core::units::{FRAME_SIZE, Gfn, GuestFrame};
use crate::space::bell::Bell;

/// Those who free memory try again after so long in any case: as long as the allocator has others wait.
const LIMIT: Duration = Duration::from_millis(100);
/// All others after so many times that, while nobody frees anything: for a touch of an absent block the kernel zeroes a huge
/// page before it asks us (6.12, `__do_huge_pmd_anonymous_page`, mm/huge_memory.c).
const SELDOM: u32 = 10;
/// And not sooner than this where there is memory, but not what they need.
const RETRY: Duration = Duration::from_millis(10);

/// More frames than anybody asks for at once: so many pieces of a page as a disk's request has, each in two pages.
const PLENTY: u64 = 512;

/// Why the thread is woken.
mod reason {
    use crate::space::bell::Reasons;

    /// A page waits for memory.
    pub(super) const SHORT: Reasons = 1;
    /// It is to end.
    pub(super) const STOP: Reasons = 2;
}

/// Pages that somebody waits for, who waits for memory.
#[derive(Debug, Default)]
pub(super) struct Shortage {
    pages: Mutex<Vec<GuestFrame>>,
    bell: Bell,
    /// The guest ends.
    is_ending: AtomicBool,
}

impl Shortage {
    /// Whoever waits for this page waits for memory now.
    pub(super) fn add(&self, page: GuestFrame) {
        let mut pages = lock(&self.pages);
        // One who was interrupted comes again.
        if !pages.contains(&page) {
            pages.push(page);
        }
        drop(pages);
        self.bell.ring(reason::SHORT);
    }

    /// The guest ends: whoever waits for memory is not to wait for it.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.bell.ring(reason::SHORT);
    }

    pub(super) fn stop(&self) {
        self.bell.ring(reason::STOP);
    }

    #[cfg(test)]
    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }
}

impl GuestSpace {
    /// True when announced touches of all these pages would wait for memory: nothing is behind so many of them, and of the
    /// reserve there is only what such touches leave. Memory is wanted then. A page that comes again later counts again.
    pub(crate) fn lacks_memory_for(&self, pages: impl Iterator<Item = Gfn>) -> bool {
        let has_frames = |frames: u64| self.alloc.has_free(u64::from(self.reclaimer.leaves()) + frames);
        if has_frames(PLENTY) {
            return false;
        }
        let frames = {
            let (space, mut last) = (self.lock(), None);
            let is_absent = |page| self.regions.frame(page).is_some_and(|page| space.is_absent(page));
            pages.filter(|page| last.replace(*page) != Some(*page) && is_absent(*page)).count() as u64
        };
        debug_assert!(frames <= PLENTY, "{frames} pages");
        if frames == 0 || has_frames(frames) {
            return false;
        }
        // What lies in the lists of CPUs is free, too.
        self.alloc.drain_all();
        let is_lacking = !has_frames(frames);
        if is_lacking {
            self.compaction.ring(wanted::LOW);
        }
        is_lacking
    }

    /// The loop of the thread that waits for memory in the place of all that do. Ends at [`Self::stop`].
    pub(crate) fn attend_shortage(&self) {
        let Shortage { pages, bell, is_ending } = &self.shortage;
        bell.hear_here();
        let (mut reasons, mut in_vain) = (bell.wait(), 0_u32);
        while reasons & reason::STOP == 0 {
            if is_ending.load(Ordering::Relaxed) {
                if !std::mem::take(&mut *lock(pages)).is_empty() {
                    self.let_go();
                }
                reasons = bell.wait();
                continue;
            }
            // Holes in whole pages, and slabs that are hardly used, are what may be missing.
            self.compaction.ring(wanted::LOW);
            let since = Instant::now();
            let is_back = self.alloc.wait_for_memory(LIMIT);
            in_vain = if is_back || since.elapsed() < LIMIT { 0 } else { in_vain + 1 };
            if !is_back && in_vain == 0 {
                std::thread::sleep(RETRY);
            }
            let is_turn =
                |page: &mut GuestFrame| in_vain.is_multiple_of(SELDOM) || self.reclaimer.has_announced(*page);
            let woken: Vec<GuestFrame> = lock(pages).extract_if(.., is_turn).collect();
            for page in woken {
                let _ = self.uffd.wake(self.address(page), FRAME_SIZE);
            }
            reasons = if lock(pages).is_empty() { bell.wait() } else { bell.take() };
        }
    }
}
