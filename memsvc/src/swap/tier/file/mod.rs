//! A tier on a local disk: a sparse file without a name, by io_uring, past the page cache.
//!
//! ```text
//!   submit ─▶ slot (op with its block) ─▶ submission queue ─▶ kernel
//!                 ▲ again: short, EINTR, EAGAIN ◀─┐             │
//!   done  ◀───────┴───────────────────────────────┴─ completion queue
//! ```
//! The file is gone when the process is. It takes disk only where something was written and not discarded.
#![allow(unsafe_code, reason = "lends memory to the kernel while it reads and writes")]

mod open;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{Done, Op, TierError, Transport};
use crate::core::units::FRAME_SIZE;
pub use open::TierOpenError;
pub(super) use open::check;
use open::open_unnamed;

/// Operations under way: enough to keep an NVMe disk busy.
const DEPTH: usize = 64;
/// How often the kernel may say "try again" to one operation before that is an error.
const ATTEMPTS: u16 = 1000;
/// When the kernel is asked again to take what it had no memory for.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// A file as a tier. Dropping it waits for what is under way.
pub(crate) struct FileTier {
    ring: IoUring,
    file: OwnedFd,
    places: u64,
    /// What the kernel has, or will have with the next submission. Never longer or shorter than [`DEPTH`].
    slots: Box<[Option<UnderWay>]>,
    /// Indices of empty slots.
    free: Vec<usize>,
    /// Operations that ended before the kernel saw them.
    ended: Vec<Done>,
    complaints: Complaints,
}

impl fmt::Debug for FileTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileTier").field("places", &self.places).finish_non_exhaustive()
    }
}

impl FileTier {
    /// A file of so many pages in this directory. All memory that it will ever use is allocated here.
    ///
    /// # Errors
    /// The file system or the kernel does not have what it takes.
    pub(crate) fn open(directory: &Path, places: u64) -> Result<Self, TierOpenError> {
        Self::over(open_unnamed(directory, places)?, places)
    }

    fn over(file: OwnedFd, places: u64) -> Result<Self, TierOpenError> {
        Ok(Self {
            ring: IoUring::new(DEPTH as u32).map_err(TierOpenError::NoRing)?,
            file,
            places,
            slots: (0..DEPTH).map(|_| None).collect(),
            free: (0..DEPTH).collect(),
            ended: Vec::with_capacity(DEPTH),
            complaints: Complaints::default(),
        })
    }

    /// Puts what is in a slot on the submission queue. False if it is full, which it is not: it has an entry for
    /// each slot.
    fn push(&mut self, slot: usize) -> bool {
        let file = Fd(self.file.as_raw_fd());
        let Some(Some(under_way)) = self.slots.get_mut(slot) else { return true };
        let entry = under_way.entry(file).user_data(slot as u64);
        // SAFETY: the entry has the address of a block that the slot owns, and its length from there. The slot
        // keeps the block, untouched, until the completion has come (`reap`), also when this tier is dropped;
        // and if the tier is forgotten, so is the block. The address was taken after the block had come to
        // rest in the slot. The file is closed only after that, too.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }

    /// Lets the kernel have what is on the submission queue. False if it does not take it now.
    fn hand_in(&mut self) -> bool {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Hands over what has ended, and puts what is to be tried again on the submission queue. True if something
    /// has ended.
    fn reap(&mut self, done: &mut dyn FnMut(Done)) -> bool {
        let mut any = !self.ended.is_empty();
        self.ended.drain(..).for_each(&mut *done);
        while let Some(completion) = self.next_completion() {
            let slot = completion.user_data() as usize;
            let Some(under_way) = self.slots.get_mut(slot).and_then(Option::as_mut) else { continue };
            let outcome = under_way.proceed(completion.result(), &mut self.complaints);
            let result = match outcome {
                Some(result) => result,
                None if self.push(slot) => continue,
                None => Err(TierError::Refused),
            };
            if let Some(UnderWay { token, op, .. }) = self.slots.get_mut(slot).and_then(Option::take) {
                self.free.push(slot);
                any = true;
                done(Done { token, op, result });
            }
        }
        any
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// What can be said without the kernel.
    fn verdict(&self, op: &Op) -> Option<Result<(), TierError>> {
        let is_here = match op {
            Op::Read { place, .. } | Op::Write { place, .. } => *place < self.places,
            Op::Discard { places } if places.is_empty() => return Some(Ok(())),
            Op::Discard { places } => places.end <= self.places,
        };
        (!is_here).then_some(Err(TierError::Refused))
    }
}

impl Transport for FileTier {
    fn depth(&self) -> usize {
        DEPTH
    }

    fn submit(&mut self, token: u64, op: Op) {
        if let Some(result) = self.verdict(&op) {
            return self.ended.push(Done { token, op, result });
        }
        let Some(slot) = self.free.pop() else {
            return self.ended.push(Done { token, op, result: Err(TierError::Refused) });
        };
        self.slots[slot] = Some(UnderWay { token, op, moved: 0, attempts: 0 });
        if !self.push(slot)
            && let Some(UnderWay { token, op, .. }) = self.slots[slot].take()
        {
            self.free.push(slot);
            self.ended.push(Done { token, op, result: Err(TierError::Refused) });
        }
    }

    fn wait(&mut self, bell: BorrowedFd<'_>, done: &mut dyn FnMut(Done)) {
        loop {
            let handed_in = self.hand_in();
            if self.reap(done) {
                return;
            }
            let waiting = !self.ring.submission().is_empty();
            if handed_in && waiting {
                continue;
            }
            let mut fds =
                [PollFd::new(&self.ring, PollFlags::IN), PollFd::from_borrowed_fd(bell, PollFlags::IN)];
            // What can fail here is passing: a signal, or no memory. Both are looked at again.
            let _ = poll(&mut fds, waiting.then_some(&SOON));
            if fds[1].revents().contains(PollFlags::IN) {
                self.reap(done);
                return;
            }
        }
    }
}

impl Drop for FileTier {
    fn drop(&mut self) {
        while self.free.len() < DEPTH {
            let waited = self.ring.submit_and_wait(1).map_err(|error| Errno::from_io_error(&error));
            self.reap(&mut |_| {});
            if let Err(error) = waited
                && !matches!(error, Some(Errno::INTR | Errno::AGAIN | Errno::BUSY | Errno::NOMEM))
            {
                // It is not known what the kernel still does: it keeps the blocks.
                return std::mem::forget(std::mem::take(&mut self.slots));
            }
        }
    }
}

/// An operation that the kernel has.
struct UnderWay {
    token: u64,
    op: Op,
    /// Bytes read or written.
    moved: usize,
    attempts: u16,
}

impl UnderWay {
    /// What the kernel is to do, or the rest of it.
    fn entry(&mut self, file: Fd) -> squeue::Entry {
        let moved = self.moved.min(FRAME_SIZE);
        let at = |place: u64| place * FRAME_SIZE as u64 + moved as u64;
        let len = (FRAME_SIZE - moved) as u32;
        match &mut self.op {
            Op::Read { place, block } => {
                opcode::Read::new(file, block.0[moved..].as_mut_ptr(), len).offset(at(*place)).build()
            }
            Op::Write { place, block } => {
                opcode::Write::new(file, block.0[moved..].as_ptr(), len).offset(at(*place)).build()
            }
            Op::Discard { places } => {
                let bytes = (places.end - places.start) * FRAME_SIZE as u64;
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                let start = places.start * FRAME_SIZE as u64;
                opcode::Fallocate::new(file, bytes).offset(start).mode(mode.bits() as i32).build()
            }
        }
    }

    /// The kernel has done something, or not. None if it is to go on.
    fn proceed(&mut self, result: i32, complaints: &mut Complaints) -> Option<Result<(), TierError>> {
        let is_discard = matches!(self.op, Op::Discard { .. });
        match usize::try_from(result) {
            Ok(_) if is_discard => Some(Ok(())),
            Ok(bytes) => {
                self.moved += bytes;
                match bytes {
                    _ if self.moved >= FRAME_SIZE => Some(Ok(())),
                    0 => Some(Err(TierError::Refused)),
                    _ => None,
                }
            }
            Err(_) => match Errno::from_raw_os_error(result.saturating_neg()) {
                Errno::INTR | Errno::AGAIN if self.attempts < ATTEMPTS => {
                    self.attempts += 1;
                    None
                }
                error if is_discard => {
                    complaints.cannot_punch(error);
                    Some(Ok(()))
                }
                Errno::NOSPC | Errno::DQUOT => Some(Err(TierError::Full)),
                error => {
                    complaints.refused(error);
                    Some(Err(TierError::Refused))
                }
            },
        }
    }
}

/// What the log has been told already: a disk that fails does so often.
#[derive(Default)]
struct Complaints {
    cannot_punch: bool,
    refused: bool,
}

impl Complaints {
    /// Nothing is lost but room.
    fn cannot_punch(&mut self, error: Errno) {
        if !std::mem::replace(&mut self.cannot_punch, true) {
            tracing::warn!(%error, "the file system of a tier does not take back what is discarded: its file may grow to full size");
        }
    }

    fn refused(&mut self, error: Errno) {
        if !std::mem::replace(&mut self.refused, true) {
            tracing::warn!(%error, "the disk of a tier has refused to read or write (said once)");
        }
    }
}
