//! One job of a ring, and how far it has come.

use std::collections::VecDeque;
use std::io;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};
use rustix::io::Errno;

use crate::devices::virtio::blk::backend::{BlockBackend, Direction};
use crate::devices::virtio::blk::hole::{Clearing, ZEROES};
use crate::devices::virtio::blk::parts::Parts;

/// How often the kernel may say "try again" to one job before that is an error.
const ATTEMPTS: u16 = 1000;

/// Work for the kernel.
#[derive(Debug)]
pub(in crate::devices::virtio::blk) enum Task {
    /// Move all of `parts` from or to `offset` of the file.
    Move { direction: Direction, offset: u64, parts: Parts },
    /// Have all of these read as zeroes, one after another.
    Clear(VecDeque<Clearing>),
    /// Have what was written before survive a crash of the host.
    Sync,
}

pub(super) struct Job<T> {
    pub(super) of: T,
    /// Keeps the file open.
    backend: BlockBackend,
    task: Task,
    /// It is done when it is durable.
    durable: bool,
    pub(super) work: u64,
    attempts: u16,
}

impl<T> Job<T> {
    pub(super) fn new(of: T, backend: BlockBackend, task: Task, work: u64, durable: bool) -> Self {
        Self { of, backend, task, durable, work, attempts: 0 }
    }

    /// Its last step was, or is, a sync.
    pub(super) fn is_sync(&self) -> bool {
        matches!(self.task, Task::Sync)
    }

    /// The work for the kernel, or the rest of it.
    pub(super) fn entry(&self) -> squeue::Entry {
        let file = Fd(self.backend.fd());
        match &self.task {
            Task::Move { direction, offset, parts } => {
                let (parts, count) = (parts.rest().as_ptr(), parts.rest().len() as u32);
                match direction {
                    Direction::Read => opcode::Readv::new(file, parts, count).offset(*offset).build(),
                    Direction::Write => opcode::Writev::new(file, parts, count).offset(*offset).build(),
                }
            }
            Task::Clear(pieces) => match pieces.front() {
                Some(Clearing { how, offset, bytes }) => match how.mode() {
                    Some(mode) => opcode::Fallocate::new(file, *bytes).offset(*offset).mode(mode).build(),
                    None => {
                        let len = (*bytes).min(ZEROES.len() as u64) as u32;
                        opcode::Write::new(file, ZEROES.as_ptr(), len).offset(*offset).build()
                    }
                },
                None => opcode::Nop::new().build(),
            },
            Task::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    /// The kernel has done something of it, or not. `None` if it is to go on.
    pub(super) fn proceed(&mut self, result: i32) -> Option<io::Result<()>> {
        let done = match usize::try_from(result) {
            Ok(done) => done,
            Err(_) => {
                let error = Errno::from_raw_os_error(result.saturating_neg());
                return (!self.is_to_be_tried_again(error)).then(|| Err(error.into()));
            }
        };
        let has_more = match &mut self.task {
            Task::Move { .. } if done == 0 => return Some(Err(io::ErrorKind::UnexpectedEof.into())),
            Task::Move { offset, parts, .. } => {
                *offset += done as u64;
                parts.advance(done);
                !parts.rest().is_empty()
            }
            Task::Clear(pieces) => {
                if pieces.front_mut().is_some_and(|piece| piece.is_over_after(done as u64)) {
                    pieces.pop_front();
                }
                !pieces.is_empty()
            }
            Task::Sync => return Some(Ok(())),
        };
        if has_more {
            return None;
        }
        if !self.durable {
            return Some(Ok(()));
        }
        self.task = Task::Sync;
        None
    }

    fn is_to_be_tried_again(&mut self, error: Errno) -> bool {
        self.attempts += 1;
        if let (Task::Clear(pieces), Errno::OPNOTSUPP) = (&mut self.task, error) {
            return pieces.front_mut().is_some_and(Clearing::has_another_way);
        }
        matches!(error, Errno::INTR | Errno::AGAIN) && self.attempts < ATTEMPTS
    }
}
