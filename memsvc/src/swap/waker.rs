//! The bell by which a connection's driver hears that it is worth asking again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// Wakes who drives connections: its descriptor can be read from when one of them, which had to wait for a
/// page or for room, can go on. May be shared by connections that one thread drives.
#[derive(Debug)]
pub struct Waker {
    event: OwnedFd,
    /// Rung and not yet heard: ringing again costs nothing.
    is_rung: AtomicBool,
}

impl Waker {
    /// One that has not rung.
    ///
    /// # Errors
    /// There is no descriptor to be had.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, is_rung: AtomicBool::new(false) })
    }

    /// Makes the descriptor readable.
    pub(crate) fn wake(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // The counter cannot be full: it is one at the most.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Before connections are asked again: from now on it rings anew.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        // Sees all that was done before it rang.
        self.is_rung.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn has_rung(waker: &Waker) -> bool {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(waker, PollFlags::IN)], Some(&at_once)) == Ok(1)
    }

    #[test]
    fn rings_until_it_is_heard() {
        let waker = Waker::new().expect("a descriptor");
        assert!(!has_rung(&waker));
        for _ in 0..3 {
            waker.wake();
            waker.wake();
            assert!(has_rung(&waker));
            waker.clear();
            assert!(!has_rung(&waker));
        }
    }
}
