//! The thread that frees memory for others says what it is about to touch: faults there may be served from the reserve.
//!
//! ```text
//!   thread that frees memory: announce a range ─▶ touch it ─▶ … ─▶ done: nothing is announced any more
//!                                   │
//!   fault thread: no frame above the min watermark ─▶ is the page announced? ─▶ a frame of the reserve
//! ```
//! The number of a thread does not tell who touches: KVM has its own threads fault for it (`async_pf_execute`, virt/kvm/async_pf.c), and the
//! numbers of threads that a userfaultfd reports are those of each thread's own PID namespace (`task_pid_vnr`).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::core::units::{FRAME_SIZE, GuestFrame};

/// Ranges that are remembered. The oldest is forgotten for a further one: its page waits for memory as any other.
const RANGES: usize = 256;
/// Bytes of a range: more than the largest frame. A guest may say that a buffer is as large as all of its RAM.
const LONGEST: usize = 128 << 10;

/// Announced touches of guest RAM by the thread that frees memory. One thread announces at a time, any thread asks.
#[derive(Debug)]
pub struct Reclaimer {
    base: usize,
    len: usize,
    /// Each the first frame and the number of frames, in one word, so that both are of the same range.
    ranges: [AtomicU64; RANGES],
    next: AtomicU32,
    /// Frames of the reserve that such touches leave.
    leaves: AtomicU32,
}

impl Reclaimer {
    pub(super) fn new(base: usize, len: usize) -> Self {
        let ranges = [const { AtomicU64::new(0) }; RANGES];
        Self { base, len, ranges, next: AtomicU32::new(0), leaves: AtomicU32::new(0) }
    }

    /// The calling thread is about to touch these bytes of guest RAM, by their address in this process, so as to free
    /// memory. A touch of them may come out of the reserve (`PF_MEMALLOC`, include/linux/sched.h) until [`Self::done`].
    pub fn announce(&self, address: usize, len: usize) {
        let offset = address.wrapping_sub(self.base);
        if len == 0 || offset >= self.len {
            return;
        }
        let first = offset / FRAME_SIZE;
        let last = (offset + len.min(LONGEST).min(self.len - offset) - 1) / FRAME_SIZE;
        let range = (first as u64) << 32 | (last - first + 1) as u64;
        let next = self.next.load(Ordering::Relaxed);
        if next > 0 && self.ranges[(next - 1) as usize % RANGES].load(Ordering::Relaxed) == range {
            return;
        }
        self.ranges[next as usize % RANGES].store(range, Ordering::Relaxed);
        self.next.store(next.wrapping_add(1), Ordering::Relaxed);
    }

    /// All that was announced has been touched.
    pub fn done(&self) {
        let announced = self.next.swap(0, Ordering::Relaxed) as usize;
        self.ranges.iter().take(announced).for_each(|range| range.store(0, Ordering::Relaxed));
    }

    /// True when a touch of this page may come out of the reserve.
    pub(super) fn has_announced(&self, page: GuestFrame) -> bool {
        self.ranges.iter().map(|range| range.load(Ordering::Relaxed)).any(|range| {
            let (first, frames) = (range >> 32, range & u64::from(u32::MAX));
            (first..first + frames).contains(&u64::from(page.0))
        })
    }

    /// Such touches leave so many frames of the reserve from now on.
    pub(crate) fn leave(&self, frames: u32) {
        self.leaves.store(frames, Ordering::Relaxed);
    }

    pub(super) fn leaves(&self) -> u32 {
        self.leaves.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: usize = 0x10_0000;

    fn announced(reclaimer: &Reclaimer) -> Vec<u32> {
        (0..512).filter(|&page| reclaimer.has_announced(GuestFrame(page))).collect()
    }

    #[test]
    fn pages_of_a_range_are_announced_until_it_is_done() {
        let reclaimer = Reclaimer::new(BASE, 512 * FRAME_SIZE);
        assert!(announced(&reclaimer).is_empty());
        reclaimer.announce(BASE + 3 * FRAME_SIZE - 1, 2);
        reclaimer.announce(BASE + 9 * FRAME_SIZE, FRAME_SIZE);
        assert_eq!(announced(&reclaimer), [2, 3, 9]);
        reclaimer.done();
        assert!(announced(&reclaimer).is_empty());
        // What is not guest RAM, and nothing at all; a range that goes on behind it ends with it.
        reclaimer.announce(BASE - 1, 1);
        reclaimer.announce(BASE + 512 * FRAME_SIZE, 1);
        reclaimer.announce(BASE, 0);
        assert!(announced(&reclaimer).is_empty());
        reclaimer.announce(BASE + 511 * FRAME_SIZE, usize::MAX);
        assert_eq!(announced(&reclaimer), [511]);
        reclaimer.done();
        reclaimer.announce(BASE, usize::MAX);
        assert_eq!(announced(&reclaimer).len(), LONGEST / FRAME_SIZE);
    }

    #[test]
    fn the_last_ranges_are_remembered() {
        let reclaimer = Reclaimer::new(BASE, 512 * FRAME_SIZE);
        (0..300).for_each(|page| reclaimer.announce(BASE + page * FRAME_SIZE, 8));
        assert_eq!(announced(&reclaimer), (44..300).collect::<Vec<u32>>());
        reclaimer.done();
        assert!(announced(&reclaimer).is_empty());
    }
}
