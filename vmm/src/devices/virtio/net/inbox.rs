//! The guest's receive queue as a back end sees it: ask for room, put a frame.
//!
//! ```text
//!   room(n) ─▶ Enough    a frame of n bytes fits, and goes on to fit until one is put
//!           ─▶ Wait      not now: receive is called again when it may be otherwise
//!           ─▶ TooSmall  nor later, with the buffers that are next: drop it
//! ```
//!
//! Room is made of chains that were taken from the ring, so the guest cannot take it back. What is put is the
//! guest's at once, all chains of a frame in one moment; it is told at the end of the turn.

use std::io;

use vm_memory::VolatileSlice;

use super::held::Held;
use super::{HEADER, Header, MAX_FRAME, MIN_FRAME, NetMetrics, TURN};
use crate::devices::virtio::rate::RateLimiter;
use crate::devices::virtio::{ActiveQueue, Used};

/// Frames, and chains that are none, in one turn: then others on the event loop are served. And bytes of frames, or
/// a little more.
const SHARE: u32 = 128;

/// Whether a frame of some length fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It does.
    Enough,
    /// Not now: no buffers, no tokens, or too much in this turn.
    Wait,
    /// It does not fit into what the driver has given, and never will.
    TooSmall,
}

/// The receive queue, for one turn.
#[derive(Debug)]
pub struct Inbox<'a> {
    queue: ActiveQueue<'a>,
    held: &'a mut Held,
    limiter: &'a mut RateLimiter,
    metrics: &'a NetMetrics,
    merged: bool,
    share: u32,
    bytes: usize,
    is_limited: bool,
}

impl<'a> Inbox<'a> {
    pub(super) fn new(
        queue: ActiveQueue<'a>,
        held: &'a mut Held,
        limiter: &'a mut RateLimiter,
        metrics: &'a NetMetrics,
        merged: bool,
    ) -> Self {
        Self { queue, held, limiter, metrics, merged, share: SHARE, bytes: TURN, is_limited: false }
    }

    /// Tells the driver, of what it has `sent` as well; whether the share is used up, and more may be waiting.
    pub(super) fn finish(mut self, sent: &mut ActiveQueue<'_>) -> bool {
        self.queue.announce_with(sent);
        self.share == 0
    }

    /// Whether a frame of `len` bytes (without the virtio header) fits.
    pub fn room(&mut self, len: usize) -> Room {
        if len > MAX_FRAME {
            return Room::TooSmall;
        }
        if self.share == 0 || self.is_limited() {
            return Room::Wait;
        }
        while self.held.room(self.merged) < HEADER + len {
            let size = self.queue.size();
            if self.held.is_full(size) || !self.merged && !self.held.is_empty() {
                return Room::TooSmall;
            }
            if self.share == 0 || !self.take() {
                return Room::Wait;
            }
        }
        Room::Enough
    }

    /// Puts a frame; `false` if it does not fit, which never happens after [`Room::Enough`] for its length.
    #[must_use]
    pub fn put(&mut self, header: &Header, frame: &[u8]) -> bool {
        let bytes = HEADER + frame.len();
        if frame.len() > MAX_FRAME || self.held.room(self.merged) < bytes {
            return false;
        }
        let header = header.bytes(self.num_buffers(bytes));
        self.held.write(self.queue.memory(), 0, &header);
        self.held.write(self.queue.memory(), HEADER, frame);
        self.done(bytes);
        true
    }

    /// Has a frame written by `read`, straight into the buffers of the guest; it says what stands before it, and how
    /// many bytes it is long. For use after [`Room::Enough`] for the largest frame that may come.
    ///
    /// # Errors
    /// Those of `read`; and `InvalidData` if there is no whole frame. Then nothing is put.
    pub fn read_into<F>(&mut self, read: F) -> io::Result<()>
    where
        F: FnOnce(&mut dyn Iterator<Item = VolatileSlice<'_>>) -> io::Result<(Header, usize)>,
    {
        let memory = self.queue.memory();
        let buffers = if self.merged { self.held.count(HEADER + MAX_FRAME) } else { 1 };
        let (header, len) = read(&mut self.held.slices(memory, HEADER, buffers))?;
        let bytes = HEADER + len;
        if len < MIN_FRAME || self.held.room(self.merged) < bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.held.write(memory, 0, &header.bytes(self.num_buffers(bytes)));
        self.done(bytes);
        Ok(())
    }

    /// Counts a frame that does not fit.
    pub fn dropped_too_large(&self) {
        self.metrics.rx_dropped_too_large.inc();
    }

    /// Counts a frame that the host did not hand over.
    pub fn host_error(&self) {
        self.metrics.rx_host_errors.inc();
    }

    /// Whether there are no tokens; counted once a turn.
    fn is_limited(&mut self) -> bool {
        if !self.is_limited && !self.limiter.is_open() {
            self.metrics.rx_rate_limited.inc();
            self.is_limited = true;
        }
        self.is_limited
    }

    /// Takes one chain; `false` if none waits.
    fn take(&mut self) -> bool {
        let held = &mut *self.held;
        let taken = self.queue.take(|memory, chain| (chain.head, held.add(memory, chain)));
        match taken {
            Some((_, true)) => {}
            Some((head, false)) => {
                self.metrics.rx_bad_chains.inc();
                self.queue.publish(&[Used { head, len: 0 }]);
                self.share -= 1;
            }
            None if self.held.is_empty() => self.metrics.rx_no_buffers.inc(),
            None => {}
        }
        taken.is_some()
    }

    /// Section 5.1.6.4.1: one where buffers are not merged. At most a ring-full.
    fn num_buffers(&self, bytes: usize) -> u16 {
        if self.merged { u16::try_from(self.held.count(bytes)).unwrap_or(u16::MAX) } else { 1 }
    }

    fn done(&mut self, bytes: usize) {
        self.queue.publish(self.held.fill(bytes));
        let frame = (bytes - HEADER) as u64;
        self.limiter.spend(frame);
        self.metrics.rx_packets.inc();
        self.metrics.rx_bytes.add(frame);
        self.share = self.share.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.bytes == 0 {
            self.share = 0;
        }
    }
}
