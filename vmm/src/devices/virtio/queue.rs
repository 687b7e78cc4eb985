//! One ring (split virtqueue, section 2.7): chains of descriptors come out, used entries go in.
//!
//! The crate below reads rings safely but ends a chain that loops, leaves the table or cannot be
//! read without a word. Here such a chain is an error: its last descriptor still says that another
//! follows. A chain may be longer than a ring that the driver made smaller: its indirect table is not in the
//! ring, and a device's limits (a disk's segments) count from the largest ring. So no chain is longer than that
//! one. One call takes chains of a ring-full of descriptors: more an honest driver cannot have waiting, but one
//! that names the same chain in every entry can.

use std::mem;
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
    /// It stays in the ring, with all behind it: not now.
    Later,
    /// It stays in the ring, with all behind it: the work of this turn is done, the next one goes on.
    NextTurn,
}

/// A chain to give back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its number in the ring.
    pub head: u16,
    /// Bytes that were written into it.
    pub len: u32,
}

/// Bytes before the entries of an available or used ring: flags and index (sections 2.7.6 and 2.7.8).
const RING_HEADER: u64 = 4;
/// Where in these the index is.
const RING_INDEX: u64 = 2;
/// Bytes of an entry of an available ring.
const AVAIL_ENTRY: u64 = 2;
/// Bytes of an entry of a used ring.
const USED_ENTRY: u64 = 8;

/// A ring with room for one chain, so that taking one allocates nothing.
#[derive(Debug)]
pub struct VirtQueue {
    ring: Queue,
    buffers: Vec<Descriptor>,
    /// The index of the used ring when the driver was last thought of.
    announced: u16,
}

impl VirtQueue {
    /// Takes a ring whose addresses were checked.
    pub(super) fn new(ring: Queue) -> Self {
        let buffers = Vec::with_capacity(usize::from(ring.max_size()));
        let announced = ring.next_used();
        Self { ring, buffers, announced }
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
    ) -> Result<Work, QueueError> {
        let mut share = self.ring.size();
        self.ring.disable_notification(memory)?;
        loop {
            if share == 0 {
                return Ok(Work::More);
            }
            if let Some(chain) = self.next(memory)? {
                share = share.saturating_sub(u16::try_from(chain.buffers.len()).unwrap_or(share));
                let head = chain.head;
                match serve(memory, chain) {
                    Completion::Used(len) => self.publish(memory, &[Used { head, len }])?,
                    Completion::Held => {}
                    Completion::Later => {
                        self.ring.go_to_previous_position();
                        return Ok(Work::Done);
                    }
                    Completion::NextTurn => {
                        self.ring.go_to_previous_position();
                        return Ok(Work::More);
                    }
                }
            } else if !self.ring.enable_notification(memory)? {
                return Ok(Work::Done);
            } else {
                // This look costs one too: the driver could flip its index for ever.
                share -= 1;
            }
        }
    }

    /// Gives back chains that were held.
    pub(super) fn give_back(
        &mut self,
        memory: &GuestRam,
        heads: impl Iterator<Item = u16>,
    ) -> Result<(), QueueError> {
        for head in heads {
            self.publish(memory, &[Used { head, len: 0 }])?;
        }
        Ok(())
    }

    /// Takes one chain to keep it. `None`: none waits, and the driver kicks when one does.
    pub(super) fn take(&mut self, memory: &GuestRam) -> Result<Option<Chain<'_>>, QueueError> {
        // A chain may come between the look and the word that a kick is wanted: one more look. What a
        // driver does that moves its index to and fro is its own loss.
        for _ in 0..2 {
            if let Some(head) = self.fetch(memory)? {
                self.ring.disable_notification(memory)?;
                return Ok(Some(Chain { head, buffers: &self.buffers }));
            }
            if !self.ring.enable_notification(memory)? {
                break;
            }
        }
        Ok(None)
    }

    /// Gives chains back, all of them in one moment for the driver. At most a ring-full.
    pub(super) fn publish(&mut self, memory: &GuestRam, used: &[Used]) -> Result<(), QueueError> {
        let at = self.ring.used_ring();
        let mut next = self.ring.next_used();
        for &Used { head, len } in used {
            let entry = at + RING_HEADER + USED_ENTRY * u64::from(next % self.ring.size());
            let element = [u32::from(head).to_le(), len.to_le()];
            memory.write_obj(element, GuestAddress(entry)).map_err(virtio_queue::Error::GuestMemory)?;
            next = next.wrapping_add(1);
        }
        self.ring.set_next_used(next);
        memory
            .store(next.to_le(), GuestAddress(at + RING_INDEX), Ordering::Release)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(())
    }

    fn next(&mut self, memory: &GuestRam) -> Result<Option<Chain<'_>>, QueueError> {
        Ok(self.fetch(memory)?.map(|head| Chain { head, buffers: &self.buffers }))
    }

    /// Reads the buffers of the next chain; says which it is.
    fn fetch(&mut self, memory: &GuestRam) -> Result<Option<u16>, QueueError> {
        let limit = usize::from(self.ring.max_size());
        let Some(chain) = self.ring.iter(memory)?.next() else {
            return Ok(None);
        };
        let head = chain.head_index();
        self.buffers.clear();
        self.buffers.extend(chain.take(limit));
        match self.buffers.last() {
            Some(last) if !last.has_next() => Ok(Some(head)),
            _ => Err(QueueError::Chain { head }),
        }
    }

    /// Whether the driver wants an interrupt for what was published since the last time that this was asked
    /// (section 2.7.7): by event index where negotiated, else by the driver's flag.
    pub(super) fn wants_interrupt(&mut self, memory: &GuestRam) -> Result<bool, QueueError> {
        let now = self.ring.next_used();
        let before = mem::replace(&mut self.announced, now);
        if now == before {
            return Ok(false);
        }
        // The used index has to be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let avail = self.ring.avail_ring();
        let read = |at: u64| {
            let word = memory.load::<u16>(GuestAddress(at), Ordering::Relaxed);
            word.map(u16::from_le).map_err(virtio_queue::Error::GuestMemory)
        };
        if !self.ring.event_idx_enabled() {
            return Ok(u32::from(read(avail)?) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        let wanted = read(avail + RING_HEADER + AVAIL_ENTRY * u64::from(self.ring.size()))?;
        // Whether the entry that the driver waits for is among those since the last time.
        Ok(now.wrapping_sub(wanted).wrapping_sub(1) < now.wrapping_sub(before))
    }
}
