//! One ring (split virtqueue, section 2.7): chains of descriptors come out, used entries go in.
//!
//! The crate below reads rings safely but ends a chain that loops, leaves the table or cannot be
//! read without a word. Here such a chain is an error: its last descriptor still says that another
//! follows. No chain is longer than the ring, and one call takes chains of a ring-full of descriptors:
//! more an honest driver cannot have waiting, but one that names the same chain in every entry can.

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{GuestRam, Work};

/// Why a ring cannot be served any more; the driver has to reset the device.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Indexes or addresses of the ring make no sense.
    #[error("the ring makes no sense; the driver has to reset the device")]
    Ring(#[from] virtio_queue::Error),
    /// A chain loops, leaves its table, is too long or cannot be read.
    #[error("the chain at descriptor {head} has no end; the driver has to reset the device")]
    Chain {
        /// Where it starts.
        head: u16,
    },
}

/// The descriptors of one request.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    /// Its number in the ring.
    pub head: u16,
    /// Its buffers, at least one, in order.
    pub buffers: &'a [Descriptor],
}

impl<'a> Chain<'a> {
    /// Buffers that the driver filled.
    pub fn readable(&self) -> impl Iterator<Item = &'a Descriptor> + use<'a> {
        self.buffers.iter().filter(|buffer| !buffer.is_write_only())
    }

    /// Buffers that the device may fill.
    pub fn writable(&self) -> impl Iterator<Item = &'a Descriptor> + use<'a> {
        self.buffers.iter().filter(|buffer| buffer.is_write_only())
    }
}

/// What became of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Give it back; so many bytes were written into it.
    Used(u32),
    /// The device keeps it and gives it back later.
    Held,
}

/// What one turn at a ring came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) work: Work,
    /// The driver wants to hear of it.
    pub(super) notify: bool,
}

/// A ring with room for one chain, so that taking one allocates nothing.
#[derive(Debug)]
pub struct VirtQueue {
    ring: Queue,
    buffers: Vec<Descriptor>,
}

impl VirtQueue {
    /// Takes a ring whose addresses were checked.
    pub(super) fn new(ring: Queue) -> Self {
        let buffers = Vec::with_capacity(usize::from(ring.size()));
        Self { ring, buffers }
    }

    /// Whether the driver uses it.
    pub fn is_ready(&self) -> bool {
        self.ring.ready()
    }

    /// Entries in the ring.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    pub(super) fn stop(&mut self) {
        self.ring.set_ready(false);
    }

    /// Serves waiting chains, until a ring-full of descriptors or a little more is used up.
    pub(super) fn drain(
        &mut self,
        memory: &GuestRam,
        mut serve: impl FnMut(&GuestRam, Chain<'_>) -> Completion,
    ) -> Result<Turn, QueueError> {
        let mut share = self.ring.size();
        let mut used = false;
        self.ring.disable_notification(memory)?;
        let work = loop {
            if share == 0 {
                break Work::More;
            }
            if let Some(chain) = self.next(memory)? {
                share = share.saturating_sub(u16::try_from(chain.buffers.len()).unwrap_or(share));
                let head = chain.head;
                if let Completion::Used(len) = serve(memory, chain) {
                    self.ring.add_used(memory, head, len)?;
                    used = true;
                }
            } else if !self.ring.enable_notification(memory)? {
                break Work::Done;
            } else {
                // This look costs one too: the driver could flip its index for ever.
                share -= 1;
            }
        };
        let notify = used && self.wants_interrupt(memory)?;
        Ok(Turn { work, notify })
    }

    /// Gives back chains that were held; says whether the driver wants to hear of it.
    pub(super) fn give_back(
        &mut self,
        memory: &GuestRam,
        heads: impl Iterator<Item = u16>,
    ) -> Result<bool, QueueError> {
        let mut used = false;
        for head in heads {
            self.ring.add_used(memory, head, 0)?;
            used = true;
        }
        Ok(used && self.wants_interrupt(memory)?)
    }

    fn next(&mut self, memory: &GuestRam) -> Result<Option<Chain<'_>>, QueueError> {
        let limit = usize::from(self.ring.size());
        let Some(chain) = self.ring.iter(memory)?.next() else {
            return Ok(None);
        };
        let head = chain.head_index();
        self.buffers.clear();
        self.buffers.extend(chain.take(limit));
        match self.buffers.last() {
            Some(last) if !last.has_next() => Ok(Some(Chain { head, buffers: &self.buffers })),
            _ => Err(QueueError::Chain { head }),
        }
    }

    /// Section 2.7.7: by event index where negotiated, else by the driver's flag.
    fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, QueueError> {
        if self.ring.event_idx_enabled() {
            return Ok(self.ring.needs_notification(memory)?);
        }
        // The used index has to be visible before the flag is read.
        fence(Ordering::SeqCst);
        let flags: u16 = memory
            .load(GuestAddress(self.ring.avail_ring()), Ordering::Relaxed)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }
}
