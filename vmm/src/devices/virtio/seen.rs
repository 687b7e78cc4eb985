//! The acknowledgement that a driver has seen an interrupt for used buffers. The kernel counts it in an event
//! and wakes nobody. So the bit in the interrupt status goes a moment later, for drivers that look until the
//! status is 0.
//!
//! ```text
//!   raise ─▶ bit set, timer set ─▶ timer: acknowledged since? ─ yes ─▶ bit gone
//!     │                                    │ no                          ▲
//!     │                                    └─▶ wait for the event, once ─┘
//!     └ before: what was acknowledged so far is forgotten, it is not for this interrupt
//! ```
//!
//! Under load that is a read of the event for each interrupt, and a timer a hundred times a second. An acknowledgement
//! between the forgetting and the bit may take the bit of the new interrupt. Its buffers were in the ring before that,
//! and a driver looks into the ring after it has acknowledged.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// How long after an interrupt it is looked whether the driver has seen it: long beside what handling one takes, short
/// for a driver that loops meanwhile.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// The event, and when it is looked at.
#[derive(Debug)]
pub struct Seen {
    event: EventFd,
    timer: OwnedFd,
    /// The timer is set, or the event is waited for.
    is_awaited: AtomicBool,
}

impl Seen {
    /// Nothing to see yet. Fails where the process may open no more files.
    pub(super) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        Ok(Self { event: EventFd::new(EFD_NONBLOCK)?, timer, is_awaited: AtomicBool::new(false) })
    }

    /// What the kernel is to write for an acknowledgement. Nobody polls it before the timer says so.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Time to look ([`Interrupt::settle`](super::Interrupt::settle)).
    pub fn timer(&self) -> &OwnedFd {
        &self.timer
    }

    /// What was acknowledged so far is not for what comes now.
    pub(super) fn forget(&self) {
        // Nothing to read is nothing to forget.
        let _ = self.event.read();
    }

    /// There is an interrupt to be acknowledged.
    pub(super) fn look_soon(&self) {
        if !self.is_awaited.swap(true, Ordering::SeqCst) {
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: MOMENT };
            // Fails only for what is no timer, or no time.
            let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        }
    }

    /// Whether something was acknowledged since.
    pub(super) fn take(&self) -> bool {
        self.event.read().is_ok()
    }

    /// Nothing is to be acknowledged.
    pub(super) fn is_settled(&self) {
        self.is_awaited.store(false, Ordering::SeqCst);
    }
}
