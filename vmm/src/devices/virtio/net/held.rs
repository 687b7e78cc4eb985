//! Receive buffers that were taken from the ring and wait for frames, in order.
//!
//! ```text
//!   take ──▶ [ chain: parts … ][ chain: parts … ] ──▶ a frame fills the first n ──▶ publish
//! ```
//!
//! A chain is read and checked once. What the driver writes into its ring after that changes nothing, and
//! what was found to have room keeps it.

use std::collections::VecDeque;

use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::devices::virtio::{Chain, GuestRam, Used};

/// Most parts: the kernel takes one more in a vectored call (`UIO_MAXIOV`), and the header may be one.
const MAX_PARTS: usize = 1023;

/// A piece of guest RAM, in bytes; not empty.
type Part = (GuestAddress, usize);

#[derive(Clone, Copy, Debug)]
struct Buffer {
    head: u16,
    parts: usize,
    bytes: usize,
}

/// The buffers. Nothing is allocated after [`Held::new`].
#[derive(Debug)]
pub(super) struct Held {
    buffers: VecDeque<Buffer>,
    parts: VecDeque<Part>,
    bytes: usize,
    used: Vec<Used>,
    /// The most parts of a chain: a ring that the driver made smaller has no shorter ones.
    longest: usize,
}

impl Held {
    /// For rings of at most `size` entries.
    pub(super) fn new(size: u16) -> Self {
        Self {
            longest: size.into(),
            buffers: VecDeque::with_capacity(size.into()),
            parts: VecDeque::with_capacity(MAX_PARTS),
            bytes: 0,
            used: Vec::with_capacity(size.into()),
        }
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.buffers.clear();
        self.parts.clear();
        self.bytes = 0;
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }

    /// Whether no further chain of a ring of `size` entries can be held, or may: a driver has no more chains.
    pub(super) fn is_full(&self, size: u16) -> bool {
        self.buffers.len() >= usize::from(size) || self.parts.len() + self.longest > MAX_PARTS
    }

    /// Keeps a chain; `false` if it is no receive buffer.
    pub(super) fn add(&mut self, memory: &GuestRam, chain: Chain<'_>) -> bool {
        let before = self.parts.len();
        let mut bytes = 0;
        for buffer in chain.buffers {
            let part = (buffer.addr(), buffer.len() as usize);
            if !buffer.is_write_only() || part.1 > 0 && memory.get_slice(part.0, part.1).is_err() {
                self.parts.truncate(before);
                return false;
            }
            if part.1 > 0 {
                self.parts.push_back(part);
                bytes += part.1;
            }
        }
        if bytes == 0 {
            return false;
        }
        self.buffers.push_back(Buffer { head: chain.head, parts: self.parts.len() - before, bytes });
        self.bytes += bytes;
        true
    }

    /// Bytes that one frame can fill: with `merged` buffers all of them, else the first.
    pub(super) fn room(&self, merged: bool) -> usize {
        match merged {
            true => self.bytes,
            false => self.buffers.front().map_or(0, |buffer| buffer.bytes),
        }
    }

    /// How many buffers so many bytes fill.
    pub(super) fn count(&self, bytes: usize) -> usize {
        let mut before = 0;
        let started = |buffer: &&Buffer| {
            let is_reached = before < bytes;
            before += buffer.bytes;
            is_reached
        };
        self.buffers.iter().take_while(started).count()
    }

    /// The memory of the first `buffers` buffers, but for its first `skip` bytes.
    pub(super) fn slices<'a>(
        &'a self,
        memory: &'a GuestRam,
        mut skip: usize,
        buffers: usize,
    ) -> impl Iterator<Item = VolatileSlice<'a>> {
        let parts = self.buffers.iter().take(buffers).map(|buffer| buffer.parts).sum();
        // All of them were found before, and RAM does not go away.
        let slices = self.parts.iter().take(parts).filter_map(|&(at, len)| memory.get_slice(at, len).ok());
        slices.filter_map(move |slice| {
            let passed = skip.min(slice.len());
            skip -= passed;
            slice.offset(passed).ok().filter(|rest| !rest.is_empty())
        })
    }

    /// Writes `bytes`, `skip` bytes from the start of the first buffer.
    pub(super) fn write(&self, memory: &GuestRam, skip: usize, mut bytes: &[u8]) {
        for room in self.slices(memory, skip, self.buffers.len()) {
            let (now, later) = bytes.split_at(room.len().min(bytes.len()));
            room.copy_from(now);
            bytes = later;
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Lets go of the buffers that the first `bytes` bytes filled; what to give back.
    pub(super) fn fill(&mut self, mut bytes: usize) -> &[Used] {
        self.used.clear();
        while bytes > 0
            && let Some(buffer) = self.buffers.pop_front()
        {
            let filled = bytes.min(buffer.bytes);
            bytes -= filled;
            self.bytes -= buffer.bytes;
            self.parts.drain(..buffer.parts);
            // A frame is far below 4 GiB.
            self.used.push(Used { head: buffer.head, len: filled as u32 });
        }
        &self.used
    }
}
