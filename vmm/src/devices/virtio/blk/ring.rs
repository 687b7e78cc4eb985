//! Requests of a disk that the kernel does beside the event loop (`io_engine` `Async`), by io_uring.
//!
//! ```text
//!   start ─▶ slot ─▶ submission queue ── hand_in ─▶ a worker of the kernel ─▶ completion queue ─▶ event ─▶ ended
//!              ▲       again: short, EINTR, EAGAIN; then a sync, if it is to be durable ◀─┘   └─ abandon ─▶ wanes
//! ```
//! A job goes to a worker from the start (`IOSQE_ASYNC`), so only the worker waits for the disk, and for guest memory that
//! is absent. It copies by address, as `preadv` does: it pins no page and remembers none, so pages may be moved or given
//! up beside it, and its next touch is a fault like any other. It must not touch memory that is no longer lent: so a
//! driver that stops the queue or resets the device waits until the kernel has none of its jobs ([`Ring::wanes`]).

#![allow(unsafe_code, reason = "lends guest RAM to the kernel while it reads and writes")]

mod job;

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, squeue};
use rustix::event::{PollFd, PollFlags, poll};
use tracing::error;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use super::backend::BlockBackend;
use job::Job;
pub(super) use job::Task;

/// Jobs under way at the most.
const DEPTH: usize = 128;
/// Work under way at the most, but for a single job: what a reset may have to wait for.
const MAX_WORK: u64 = 64 << 20;
/// When the kernel is asked again to take what it has no memory for.
const SOON: Duration = Duration::from_millis(10);
/// How often it is asked, half a minute in all.
const ATTEMPTS: u32 = 3000;

/// The kernel has no ring for us.
#[derive(Debug, thiserror::Error)]
#[error(
    "io_uring, which io_engine Async needs, cannot be had: set kernel.io_uring_disabled to 0 and let seccomp filters allow it, or take io_engine Sync"
)]
pub struct NoRing(#[source] io::Error);

/// Says whether the kernel has io_uring for this process.
pub fn check() -> Result<(), NoRing> {
    IoUring::new(1).map(drop).map_err(NoRing)
}

/// Jobs for the kernel, each with a `T` that says what it is of. Dropping it waits for all that the kernel has.
pub(super) struct Ring<T> {
    ring: IoUring,
    /// The ring, to wait for what the kernel has.
    done: Arc<OwnedFd>,
    /// The kernel writes it at every completion.
    event: EventFd,
    /// Rings when the kernel is to be asked again.
    again: TimerFd,
    /// Jobs that the kernel has, or will have with the next submission: always [`DEPTH`] slots.
    slots: Box<[Option<Job<T>>]>,
    /// Indices of empty slots.
    free: Vec<usize>,
    /// Indices of slots that the kernel has not taken, in order.
    new: VecDeque<usize>,
    /// Work under way.
    work: u64,
    /// How often in a row the kernel has not taken anything.
    refusals: u32,
    /// The kernel takes nothing any more: the number of the error.
    broken: Option<i32>,
    /// Nobody wants to hear of the jobs.
    abandoned: bool,
}

/// A job that has ended.
pub(super) struct Ended<T> {
    /// The request that it was of.
    pub(super) of: T,
    pub(super) result: io::Result<()>,
    /// Its last step was a sync.
    pub(super) synced: bool,
}

impl<T> Ring<T> {
    /// A ring without jobs.
    pub(super) fn new() -> Result<Self, NoRing> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(NoRing)?;
        let (ring, done) = made(&event).map_err(NoRing)?;
        let again = TimerFd::new().map_err(|error| NoRing(error.into()))?;
        let slots = (0..DEPTH).map(|_| None).collect();
        let (free, new) = ((0..DEPTH).collect(), VecDeque::with_capacity(DEPTH));
        Ok(Self {
            ring,
            done,
            event,
            again,
            slots,
            free,
            new,
            work: 0,
            refusals: 0,
            broken: None,
            abandoned: false,
        })
    }

    /// Readable when a job may have ended, or the kernel may take one.
    pub(super) fn events(&self) -> [RawFd; 2] {
        [self.event.as_raw_fd(), self.again.as_raw_fd()]
    }

    /// Whether there is no job.
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == DEPTH
    }

    /// Whether a job of so much work may be started now; if not, then after the next one has ended.
    pub(super) fn has_room(&self, work: u64) -> bool {
        !self.free.is_empty() && (self.work == 0 || self.work.saturating_add(work) <= MAX_WORK)
    }

    /// Starts a job on `backend` of so much work, for which there is room; if `durable`, it ends with a sync. The kernel
    /// has it after [`Self::hand_in`]. The memory of its parts is lent until it has ended.
    pub(super) fn start(&mut self, of: T, backend: BlockBackend, task: Task, work: u64, durable: bool) {
        let Some(slot) = self.free.pop() else { return };
        self.work += work;
        self.slots[slot] = Some(Job::new(of, backend, task, work, durable));
        self.push(slot);
    }

    /// Lets the kernel have all that was started. A request that it does not take now is offered again soon; where it takes
    /// nothing for good, jobs end with its error.
    pub(super) fn hand_in(&mut self) {
        while self.broken.is_none() && !self.new.is_empty() {
            let error = match self.ring.submit() {
                Ok(0) => io::ErrorKind::WouldBlock.into(),
                Ok(taken) => {
                    self.new.drain(..taken.min(self.new.len()));
                    self.refusals = 0;
                    continue;
                }
                Err(error) => error,
            };
            self.refusals += 1;
            let is_passing = matches!(
                error.kind(),
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy
            );
            if is_passing && self.refusals < ATTEMPTS && self.again.reset(SOON, None).is_ok() {
                return;
            }
            error!(%error, "io_uring takes no requests of a disk any more, so they fail: start the guest anew, or with io_engine Sync");
            self.broken = Some(error.raw_os_error().unwrap_or(libc::EIO));
        }
        if !self.new.is_empty() {
            // The counter is far from its limit.
            let _ = self.event.write(1);
        }
    }

    /// The next job that has ended.
    pub(super) fn ended(&mut self) -> Option<Ended<T>> {
        if self.abandoned {
            return None;
        }
        while let Some((slot, result)) = self.next_completion() {
            let Some(Some(job)) = self.slots.get_mut(slot) else { continue };
            match job.proceed(result) {
                Some(result) => return self.end(slot, result),
                None => self.push(slot),
            }
        }
        let error = self.broken?;
        let slot = self.new.pop_front()?;
        self.end(slot, Err(io::Error::from_raw_os_error(error)))
    }

    fn end(&mut self, slot: usize, result: io::Result<()>) -> Option<Ended<T>> {
        let job = self.release(slot)?;
        Some(Ended { synced: job.is_sync(), of: job.of, result })
    }

    /// Nobody wants to hear of the jobs any more. Those that the kernel has use memory until [`Self::wanes`] says that
    /// there is none.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// Where it was abandoned: what to poll while the kernel still has a job. `None`: it has none, and jobs may be
    /// started again.
    pub(super) fn wanes(&mut self) -> Option<Arc<OwnedFd>> {
        if !self.abandoned {
            return None;
        }
        for slot in mem::take(&mut self.new) {
            self.release(slot);
        }
        while let Some((slot, _)) = self.next_completion() {
            self.release(slot);
        }
        if !self.is_idle() {
            return Some(Arc::clone(&self.done));
        }
        self.abandoned = false;
        // Requests that the kernel was offered and did not take can only be taken back with the ring.
        if !self.ring.submission().is_empty() {
            (self.refusals, self.broken) = (0, None);
            match made(&self.event) {
                Ok((ring, done)) => (self.ring, self.done) = (ring, done),
                Err(error) => self.broken = Some(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
        None
    }

    fn next_completion(&mut self) -> Option<(usize, i32)> {
        let completion = self.ring.completion().next()?;
        Some((completion.user_data() as usize, completion.result()))
    }

    fn release(&mut self, slot: usize) -> Option<Job<T>> {
        let job = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.work -= job.work;
        Some(job)
    }

    /// Puts the job of a slot on the submission queue, which has an entry for each slot.
    fn push(&mut self, slot: usize) {
        let Some(Some(job)) = self.slots.get(slot) else { return };
        self.new.push_back(slot);
        if self.broken.is_some() {
            return;
        }
        let entry = job.entry().flags(squeue::Flags::ASYNC).user_data(slot as u64);
        // SAFETY: the entry names the job's parts, which the slot keeps where they are until its completion has come, and
        // guest RAM behind them. That is mapped for longer than the device lives, whose ring waits for the kernel when it
        // is dropped; it is shared, volatile memory to which no Rust reference exists. Zeroes are static. A job that the
        // kernel has not taken is only forgotten with the ring, or with all of its submissions. The job keeps the file open.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        debug_assert!(pushed.is_ok(), "no more entries than slots");
    }
}

/// A ring that writes `event` at every completion, and its other descriptor.
fn made(event: &EventFd) -> io::Result<(IoUring, Arc<OwnedFd>)> {
    let ring = IoUring::new(DEPTH as u32)?;
    ring.submitter().register_eventfd(event.as_raw_fd())?;
    let done = ring.as_fd().try_clone_to_owned()?;
    Ok((ring, Arc::new(done)))
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        self.abandon();
        while let Some(done) = self.wanes() {
            // A failure here is passing: a signal, or no memory.
            let _ = poll(&mut [PollFd::new(&*done, PollFlags::IN)], None);
        }
    }
}
