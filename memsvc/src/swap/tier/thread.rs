//! The thread of a tier: it keeps a transport busy, and nobody waiting.
//!
//! ```text
//!   begin ─▶ reads ─┐
//!            writes ─┼─ in this order ─▶ transport ─▶ done
//!          discards ─┘     (depth)
//! ```
//! Every operation that was begun ends with one call of `done`, on this thread, whatever happens: when the tier
//! is closed what has not been taken up is handed back, and when the transport panics everything is: a guest goes on
//! with the tiers that are left. A panic elsewhere on the thread ends the guest ([`Guard`]).

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{Block, Done, Op, TierError, Transport};
use crate::core::units::FRAME_SIZE;
use crate::guard::Guard;

/// Nothing deep, and no buffers on it.
const STACK: usize = 256 << 10;

/// A tier at work.
pub(crate) struct Tier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tier")
    }
}

impl Tier {
    /// Starts the thread. There is room for `capacity` operations that wait, of each kind: reads are not
    /// refused because there are many writes. `done` is called on the thread, for everything that was begun,
    /// with no lock held; it must not panic.
    ///
    /// # Errors
    /// No thread, or no eventfd.
    pub(crate) fn spawn(
        transport: Box<dyn Transport>,
        capacity: usize,
        guard: &Guard,
        done: impl FnMut(Done) + Send + 'static,
    ) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::new(capacity)), bell });
        let depth = transport.depth();
        let worker = Worker {
            shared: Arc::clone(&shared),
            transport,
            depth,
            under_way: Vec::with_capacity(depth),
            ended: Vec::with_capacity(depth),
            done,
        };
        let thread =
            guard.spawn("tier", STACK, "pages of swap on a tier cannot be had any more", move || {
                worker.run();
                Ok(())
            })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Begins an operation; `done` will be told of its end. Operations that wait overtake each other, reads
    /// first and discards last: only one that changes a place may be under way for it. No two may have the same token.
    /// Never waits and allocates nothing.
    ///
    /// # Errors
    /// The operation, if too many wait or the tier is closed.
    pub(crate) fn begin(&self, token: u64, op: Op) -> Result<(), Op> {
        let mut queue = self.shared.lock();
        queue.push(token, op)?;
        let has_rung = std::mem::replace(&mut queue.has_rung, true);
        drop(queue);
        if !has_rung {
            self.shared.ring();
        }
        Ok(())
    }

    /// Ends all that was begun as soon as can be, and takes no more.
    pub(crate) fn close(&self) {
        self.shared.lock().is_closing = true;
        self.shared.ring();
    }
}

impl Drop for Tier {
    /// Closes it, and waits for the calls of `done`.
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take()
            // It may be dropped by `done`.
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

struct Shared {
    queue: Mutex<Queue>,
    bell: OwnedFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    fn hear(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }
}

/// What waits for the transport.
struct Queue {
    /// Reads, writes, discards.
    kinds: [VecDeque<(u64, Op)>; 3],
    capacity: usize,
    /// Somebody has rung, or is about to, since the thread last looked here. It stops the bell before it looks.
    has_rung: bool,
    is_closing: bool,
}

impl Queue {
    fn new(capacity: usize) -> Self {
        let kinds = [(); 3].map(|()| VecDeque::with_capacity(capacity));
        Self { kinds, capacity, has_rung: false, is_closing: false }
    }

    fn push(&mut self, token: u64, op: Op) -> Result<(), Op> {
        let [reads, writes, discards] = &mut self.kinds;
        let kind = match op {
            Op::Read { .. } => reads,
            Op::Write { .. } => writes,
            Op::Discard { .. } => discards,
        };
        if self.is_closing || kind.len() >= self.capacity {
            return Err(op);
        }
        kind.push_back((token, op));
        Ok(())
    }

    fn pop(&mut self) -> Option<(u64, Op)> {
        self.kinds.iter_mut().find_map(VecDeque::pop_front)
    }
}

struct Worker<F> {
    shared: Arc<Shared>,
    transport: Box<dyn Transport>,
    depth: usize,
    /// What the transport has, by token.
    under_way: Vec<(u64, Outline)>,
    ended: Vec<Done>,
    done: F,
}

impl<F: FnMut(Done)> Worker<F> {
    fn run(mut self) {
        loop {
            let is_closing = self.take_up();
            if is_closing {
                if self.under_way.is_empty() {
                    return;
                }
                let give_up = || self.transport.give_up();
                catch_unwind(AssertUnwindSafe(give_up)).unwrap_or_else(|panic| self.give_up(panic));
            }
            let Self { transport, ended, shared, .. } = &mut self;
            let wait = || transport.wait(shared.bell.as_fd(), &mut |done| ended.push(done));
            let waited = catch_unwind(AssertUnwindSafe(wait));
            self.hand_over();
            waited.unwrap_or_else(|panic| self.give_up(panic));
        }
    }

    /// Gives the transport what waits, as much as it takes; when the tier is closing, hands that back instead.
    /// True if it is closing.
    fn take_up(&mut self) -> bool {
        self.shared.hear();
        loop {
            let mut queue = self.shared.lock();
            queue.has_rung = false;
            let is_closing = queue.is_closing;
            if !is_closing && self.under_way.len() >= self.depth {
                return false;
            }
            let Some((token, op)) = queue.pop() else { return is_closing };
            drop(queue);
            if is_closing {
                (self.done)(Done { token, op, result: Err(TierError::Away) });
                continue;
            }
            self.under_way.push((token, Outline::of(&op)));
            let submit = || self.transport.submit(token, op);
            catch_unwind(AssertUnwindSafe(submit)).unwrap_or_else(|panic| self.give_up(panic));
        }
    }

    fn hand_over(&mut self) {
        for done in self.ended.drain(..) {
            if let Some(at) = self.under_way.iter().position(|(token, _)| *token == done.token) {
                self.under_way.swap_remove(at);
                (self.done)(done);
            }
        }
    }

    /// The transport has panicked. What it had is gone; whoever lent a block gets another one.
    fn give_up(&mut self, panic: Box<dyn Any + Send>) {
        tracing::error!("a tier is away from now on (a bug; see the message before)");
        let gone = Gone(Vec::with_capacity(self.depth));
        let broken = std::mem::replace(&mut self.transport, Box::new(gone));
        // Neither is good for anything, and either may panic again.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(broken)));
        let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
        for (token, outline) in self.under_way.drain(..) {
            (self.done)(Done { token, op: outline.op(), result: Err(TierError::Away) });
        }
    }
}

/// An operation without its block.
enum Outline {
    Read(u64),
    Write(u64),
    Discard(Range<u64>),
}

impl Outline {
    fn of(op: &Op) -> Self {
        match op {
            Op::Read { place, .. } => Self::Read(*place),
            Op::Write { place, .. } => Self::Write(*place),
            Op::Discard { places } => Self::Discard(places.clone()),
        }
    }

    /// With a block of zeroes.
    fn op(self) -> Op {
        let block = || Box::new(Block([0; FRAME_SIZE]));
        match self {
            Self::Read(place) => Op::Read { place, block: block() },
            Self::Write(place) => Op::Write { place, block: block() },
            Self::Discard(places) => Op::Discard { places },
        }
    }
}

/// What takes the place of a transport that has panicked: everything comes back.
struct Gone(Vec<(u64, Op)>);

impl Transport for Gone {
    fn depth(&self) -> usize {
        self.0.capacity()
    }

    fn submit(&mut self, token: u64, op: Op) {
        self.0.push((token, op));
    }

    fn wait(&mut self, bell: BorrowedFd<'_>, done: &mut dyn FnMut(Done)) {
        if self.0.is_empty() {
            let _ = poll(&mut [PollFd::from_borrowed_fd(bell, PollFlags::IN)], None);
        }
        for (token, op) in self.0.drain(..) {
            done(Done { token, op, result: Err(TierError::Away) });
        }
    }
}

#[cfg(test)]
mod tests;
