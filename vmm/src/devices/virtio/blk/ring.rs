//! Requests of a disk that the kernel does beside the event loop (`io_engine` `Async`), by io_uring.
//!
//! ```text
//!   start ─▶ slot ─▶ submission queue ── hand_in ─▶ a worker of the kernel ─▶ completion queue ─▶ event ─▶ ended
//!              ▲       again: short, EINTR, EAGAIN; then a sync, if it is to be durable ◀─┘
//! ```
//! A job goes to a worker from the start (`IOSQE_ASYNC`), so only the worker waits for the disk, and for guest memory that
//! is absent. It copies by address, as `preadv` does: it pins no page and remembers none, so pages may be moved or given
//! up beside it, and its next touch is a fault like any other. It must not touch memory that is no longer lent: so a
//! driver that stops the queue or resets the device waits until nothing is under way ([`Ring::drain`]).

#![allow(unsafe_code, reason = "lends guest RAM to the kernel while it reads and writes")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::backend::{BlockBackend, Direction};
use super::parts::Parts;

/// Jobs under way at the most.
const DEPTH: usize = 128;
/// Bytes under way at the most, but for a single job: what a reset may have to wait for.
const MAX_BYTES: u64 = 64 << 20;
/// How often the kernel may say "try again" to one job before that is an error.
const ATTEMPTS: u16 = 1000;
/// When the kernel is asked again to take what it had no memory for.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

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

/// Jobs for the kernel, each with a `T` that says what it is of. Dropping it waits for all of them.
pub(super) struct Ring<T> {
    ring: IoUring,
    /// The kernel writes it at every completion.
    event: EventFd,
    /// Jobs that the kernel has, or will have with the next submission: always [`DEPTH`] slots.
    slots: Box<[Option<Job<T>>]>,
    /// Indices of empty slots.
    free: Vec<usize>,
    /// Bytes under way.
    bytes: u64,
}

/// Work for the kernel.
#[derive(Debug)]
pub(super) enum Task {
    /// Move all of `parts` from or to `offset` of the file.
    Move { direction: Direction, offset: u64, parts: Parts },
    /// Have what was written before survive a crash of the host.
    Sync,
}

/// A job that has ended.
pub(super) struct Ended<T> {
    /// The request that it was of.
    pub(super) of: T,
    pub(super) result: io::Result<()>,
    /// Its last step was a sync.
    pub(super) synced: bool,
}

struct Job<T> {
    of: T,
    /// Keeps the file open.
    backend: BlockBackend,
    task: Task,
    /// It is done when it is durable.
    durable: bool,
    bytes: u64,
    attempts: u16,
}

impl<T> Ring<T> {
    /// A ring without jobs.
    pub(super) fn new() -> Result<Self, NoRing> {
        let ring = IoUring::new(DEPTH as u32).map_err(NoRing)?;
        let event = EventFd::new(EFD_NONBLOCK).map_err(NoRing)?;
        ring.submitter().register_eventfd(event.as_raw_fd()).map_err(NoRing)?;
        let slots = (0..DEPTH).map(|_| None).collect();
        Ok(Self { ring, event, slots, free: (0..DEPTH).collect(), bytes: 0 })
    }

    /// Readable when a job may have ended.
    pub(super) fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Whether a job of so many bytes may be started now; if not, then after the next one has ended.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        !self.free.is_empty() && (self.bytes == 0 || self.bytes.saturating_add(bytes) <= MAX_BYTES)
    }

    /// Starts a job on `backend` of so many bytes, for which there is room; if `durable`, it ends with a sync. The kernel
    /// has it after [`Self::hand_in`]. The memory of its parts is lent until it has ended.
    pub(super) fn start(&mut self, of: T, backend: BlockBackend, task: Task, bytes: u64, durable: bool) {
        let Some(slot) = self.free.pop() else { return };
        self.bytes += bytes;
        self.slots[slot] = Some(Job { of, backend, task, durable, bytes, attempts: 0 });
        self.push(slot);
    }

    /// Lets the kernel have all that was started. Where it does not take it now, the event comes soon.
    pub(super) fn hand_in(&mut self) {
        if !self.is_handed_in() {
            // The counter is far from its limit.
            let _ = self.event.write(1);
        }
    }

    /// The next job that has ended.
    pub(super) fn ended(&mut self) -> Option<Ended<T>> {
        loop {
            let completion = self.ring.completion().next()?;
            let slot = completion.user_data() as usize;
            let Some(Some(job)) = self.slots.get_mut(slot) else { continue };
            match job.proceed(completion.result()) {
                Some(result) => {
                    let synced = matches!(job.task, Task::Sync);
                    return self.release(slot).map(|job| Ended { of: job.of, result, synced });
                }
                None => self.push(slot),
            }
        }
    }

    /// Waits until the kernel has none of the jobs any more, and forgets them.
    pub(super) fn drain(&mut self) {
        while self.free.len() < DEPTH {
            let timeout = if self.is_handed_in() { None } else { Some(&SOON) };
            // A failure here is passing: a signal, or no memory. Both are looked at again.
            let _ = poll(&mut [PollFd::new(&self.ring, PollFlags::IN)], timeout);
            while let Some(completion) = self.next_completion() {
                self.release(completion);
            }
        }
    }

    fn next_completion(&mut self) -> Option<usize> {
        self.ring.completion().next().map(|completion| completion.user_data() as usize)
    }

    fn is_handed_in(&mut self) -> bool {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return false,
                _ => {}
            }
        }
        true
    }

    fn release(&mut self, slot: usize) -> Option<Job<T>> {
        let job = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.bytes -= job.bytes;
        Some(job)
    }

    /// Puts the job of a slot on the submission queue, which has an entry for each slot.
    fn push(&mut self, slot: usize) {
        let Some(Some(job)) = self.slots.get(slot) else { return };
        let entry = job.entry().flags(squeue::Flags::ASYNC).user_data(slot as u64);
        // SAFETY: the entry names the job's parts, which the slot keeps where they are until its completion has come, and
        // guest RAM behind them. That is mapped for longer than the device lives, whose ring is drained when it is
        // dropped; it is shared, volatile memory to which no Rust reference exists. The job keeps the file open.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        debug_assert!(pushed.is_ok(), "no more entries than slots");
    }
}

impl<T> Job<T> {
    /// The work for the kernel, or the rest of it.
    fn entry(&self) -> squeue::Entry {
        let file = Fd(self.backend.fd());
        match &self.task {
            Task::Move { direction, offset, parts } => {
                let (parts, count) = (parts.rest().as_ptr(), parts.rest().len() as u32);
                match direction {
                    Direction::Read => opcode::Readv::new(file, parts, count).offset(*offset).build(),
                    Direction::Write => opcode::Writev::new(file, parts, count).offset(*offset).build(),
                }
            }
            Task::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    /// The kernel has done something of it, or not. `None` if it is to go on.
    fn proceed(&mut self, result: i32) -> Option<io::Result<()>> {
        let moved = match usize::try_from(result) {
            Ok(moved) => moved,
            Err(_) => {
                let error = Errno::from_raw_os_error(result.saturating_neg());
                self.attempts += 1;
                let again = matches!(error, Errno::INTR | Errno::AGAIN) && self.attempts < ATTEMPTS;
                return (!again).then(|| Err(error.into()));
            }
        };
        let Task::Move { offset, parts, .. } = &mut self.task else { return Some(Ok(())) };
        if moved == 0 {
            return Some(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        *offset += moved as u64;
        parts.advance(moved);
        if !parts.rest().is_empty() {
            return None;
        }
        if !self.durable {
            return Some(Ok(()));
        }
        self.task = Task::Sync;
        None
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        self.drain();
    }
}
