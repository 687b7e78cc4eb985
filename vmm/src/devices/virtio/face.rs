//! State that a device and the operator's API share.
//!
//! ```text
//!   API ── change ──▶ state ── event ──▶ event loop: the device does what was asked, under its own lock
//!   API ◀── look ──── state ◀─────────── what the device publishes
//! ```
//!
//! A device holds its own lock while it touches guest memory, and such a touch waits for memory as long as there is
//! none. So the API takes only the lock of the face. Whoever holds that one reads and assigns, and does nothing else.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::lock;

/// State behind a lock of its own, and an event that has the device look at it.
#[derive(Debug)]
pub(super) struct Face<T> {
    state: Mutex<T>,
    changed: EventFd,
}

impl<T> Face<T> {
    /// Fails where the process may open no more files.
    pub(super) fn new(state: T) -> io::Result<Self> {
        Ok(Self { state: Mutex::new(state), changed: EventFd::new(EFD_NONBLOCK)? })
    }

    /// The state, to read it or to publish something. Not to be held across a touch of guest memory.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        lock(&self.state)
    }

    /// Changes the state for the operator, and has the device look.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        // Fails only when the counter is full, and then the device is about to look anyhow.
        let _ = self.changed.write(1);
        result
    }

    /// The event that the device polls to hear of changes.
    pub(super) fn event(&self) -> RawFd {
        self.changed.as_raw_fd()
    }
}
