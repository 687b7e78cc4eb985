//! A store as a disk: requests that somebody else has taken apart, each a step at a time.
//!
//! ```text
//!   begin ─▶ DiskRequest ─▶ step ─▶ Done, or Failed
//!                            ▲ └──▶ More: the next step is for another turn
//!                            │ └──▶ Later: when the waker rings
//!                            └─┴──▶ NotReady: when its data can be touched
//! ```
//! It neither waits nor does I/O, as a [`Connection`](super::Connection), and it counts what that counts. Requests are served in
//! whatever order they are offered. A page of data goes through a buffer that is there from the start.

use std::ops::Range;
use std::time::Duration;

use zeroize::Zeroizing;

use super::export::{ExportDisk, Offer};
use super::nbd::{MAX_PAYLOAD, NbdError};
use super::session::{Disk, Exports, Fetch, Page, Stored, window_of};
use crate::core::units::FRAME_SIZE;

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCommand {
    /// Pages are wanted.
    Read,
    /// Pages are to be kept.
    Write,
    /// Pages are not needed any more: they read as zeroes.
    Erase,
}

/// A request that is under way.
#[derive(Debug)]
pub struct DiskRequest {
    command: DiskCommand,
    bytes: u64,
    /// What is left of it.
    pages: Range<u64>,
    came: Duration,
    /// It is a read that had to wait for a tier.
    waited: bool,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskStep {
    /// It is done.
    Done,
    /// It has failed; what is left of it is as it was.
    Failed,
    /// A part of it is done.
    More,
    /// It waits for a tier, or for room: offer it again when the waker has rung.
    Later,
    /// Its data cannot be touched now: offer it again when they can.
    NotReady,
}

/// The data of a request, from the page at which it is.
pub trait DiskData {
    /// False while a touch of the page might wait: the request does, instead of its thread.
    fn is_ready(&self) -> bool;

    /// Copies the page; false when it cannot be.
    fn get(&self, into: &mut [u8; FRAME_SIZE]) -> bool;

    /// Writes the page; false when it cannot be.
    fn put(&self, from: &[u8; FRAME_SIZE]) -> bool;

    /// The page is done: the next one is.
    fn advance(&mut self);
}

/// One driver's disk on a [`Swap`](super::Swap).
#[derive(Debug)]
pub struct SwapDisk {
    disk: ExportDisk,
    /// On its way between the store and the data of a request. Wiped when the disk goes.
    page: Box<Zeroizing<Page>>,
}

impl SwapDisk {
    /// `None` when there is no memory for it.
    pub(super) fn open(offer: &Offer) -> Option<Self> {
        let disk = offer.open(b"")?;
        offer.counters().connections.add(1);
        Some(Self { disk, page: Box::new(Zeroizing::new([0; FRAME_SIZE])) })
    }

    /// A request has come, for so many bytes from `offset`. `None` when it makes no sense, which is counted.
    pub fn begin(&self, command: DiskCommand, offset: u64, len: u64) -> Option<DiskRequest> {
        let page = FRAME_SIZE as u64;
        let is_aligned = offset.is_multiple_of(page) && len.is_multiple_of(page);
        let has_end = offset.checked_add(len).is_some_and(|end| end / page <= self.disk.pages());
        let is_too_long = command != DiskCommand::Erase && len > MAX_PAYLOAD.into();
        if len == 0 || !is_aligned || !has_end || is_too_long {
            self.refuse();
            return None;
        }
        let counters = self.disk.counters();
        let count = match command {
            DiskCommand::Read => &counters.reads,
            DiskCommand::Write => &counters.writes,
            DiskCommand::Erase => &counters.erasures,
        };
        count.add(1);
        let pages = offset / page..(offset + len) / page;
        Some(DiskRequest { command, bytes: len, pages, came: self.disk.now(), waited: false })
    }

    /// Bytes of the disk.
    pub fn bytes(&self) -> u64 {
        self.disk.pages() * FRAME_SIZE as u64
    }

    /// Counts a request that makes no sense.
    pub fn refuse(&self) {
        let counters = self.disk.counters();
        counters.refused.add(1);
        counters.errors.add(1);
    }

    /// Goes on with a request, for at most so many pages of data, or a piece of what is to be erased. Of reads, one that is
    /// `next` takes the place of what was fetched for others, if there is no other: be it the first that waits.
    pub fn step(
        &mut self,
        request: &mut DiskRequest,
        most: u64,
        next: bool,
        data: &mut impl DiskData,
    ) -> DiskStep {
        let step = match request.command {
            DiskCommand::Read => self.read(request, most, next, data),
            DiskCommand::Write => self.write(request, most, data),
            DiskCommand::Erase => {
                self.disk.erase_some(&mut request.pages);
                Ok(DiskStep::More)
            }
        };
        let latencies = self.disk.latencies();
        let took = || self.disk.now().saturating_sub(request.came);
        match step {
            Ok(DiskStep::More) if request.pages.is_empty() => {
                match request.command {
                    DiskCommand::Read => latencies.of_reads(request.waited).record(took()),
                    DiskCommand::Write => latencies.writes.record(took()),
                    DiskCommand::Erase => {}
                }
                DiskStep::Done
            }
            Ok(step) => step,
            Err(_) => {
                self.disk.counters().errors.add(1);
                DiskStep::Failed
            }
        }
    }

    /// What it has fetched it reads at once: only the pages that were fetched last are sure to stay.
    fn read(
        &mut self,
        request: &mut DiskRequest,
        most: u64,
        next: bool,
        data: &mut impl DiskData,
    ) -> Result<DiskStep, NbdError> {
        if !data.is_ready() {
            return Ok(DiskStep::NotReady);
        }
        let window = window_of(&first(most, &request.pages));
        match self.disk.fetch(window.clone(), next) {
            Fetch::Ready => {}
            Fetch::Later => {
                request.waited = true;
                return Ok(DiskStep::Later);
            }
            Fetch::Failed(error) => return Err(error),
        }
        for page in window {
            if !data.is_ready() {
                return Ok(DiskStep::NotReady);
            }
            self.disk.read(page, &mut self.page)?;
            if !data.put(&self.page) {
                return Err(NbdError::Invalid);
            }
            self.disk.counters().pages_read.add(1);
            data.advance();
            request.pages.start = page + 1;
        }
        Ok(DiskStep::More)
    }

    fn write(
        &mut self,
        request: &mut DiskRequest,
        most: u64,
        data: &mut impl DiskData,
    ) -> Result<DiskStep, NbdError> {
        for page in first(most, &request.pages) {
            if !data.is_ready() {
                return Ok(DiskStep::NotReady);
            }
            if !data.get(&mut self.page) {
                return Err(NbdError::Invalid);
            }
            if self.disk.write(page, &self.page)? == Stored::Later {
                return Ok(DiskStep::Later);
            }
            self.disk.counters().pages_written.add(1);
            data.advance();
            request.pages.start = page + 1;
        }
        Ok(DiskStep::More)
    }
}

impl DiskRequest {
    /// Bytes of all of it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pages that are left of it.
    pub fn pages_left(&self) -> u64 {
        self.pages.end - self.pages.start
    }

    /// What is asked.
    pub fn command(&self) -> DiskCommand {
        self.command
    }
}

/// At most so many of these pages.
fn first(most: u64, pages: &Range<u64>) -> Range<u64> {
    pages.start..pages.end.min(pages.start.saturating_add(most))
}
