//! A frame that the guest sends, where it lies in guest RAM.
//!
//! The header is read once and kept, so that what was checked is what is used. The rest is the guest's to
//! change until the chain is given back.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::{HEADER, Header, MAX_FRAME, MIN_FRAME};
use crate::devices::virtio::{Chain, GuestRam};

/// Where the parts of a frame are; kept between frames so that none allocates.
#[derive(Debug, Default)]
pub(super) struct Layout(Vec<(GuestAddress, usize)>);

/// The frame.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    header: Header,
    len: usize,
    memory: &'a GuestRam,
    parts: &'a [(GuestAddress, usize)],
}

impl Layout {
    /// Takes a chain apart. `None`: there is no frame in it that a driver with these features may send.
    pub(super) fn parse<'a>(
        &'a mut self,
        memory: &'a GuestRam,
        chain: Chain<'_>,
        features: u64,
    ) -> Option<Outgoing<'a>> {
        self.0.clear();
        let mut header = [0; HEADER];
        let (mut read, mut len) = (0, 0);
        for buffer in chain.buffers {
            let (mut at, mut rest) = (buffer.addr(), buffer.len() as usize);
            if buffer.is_write_only() || rest > HEADER + MAX_FRAME - read - len {
                return None;
            }
            let missing = header.get_mut(read..)?;
            if !missing.is_empty() && rest > 0 {
                let now = missing.len().min(rest);
                memory.read_slice(missing.get_mut(..now)?, at).ok()?;
                (read, rest) = (read + now, rest - now);
                at.0 = at.0.checked_add(now as u64)?;
            }
            if rest > 0 {
                memory.get_slice(at, rest).ok()?;
                self.0.push((at, rest));
                len += rest;
            }
        }
        let header = Header::parse(header)?;
        let is_frame = read == HEADER && len >= MIN_FRAME && header.is_sound(features, len);
        is_frame.then_some(Outgoing { header, len, memory, parts: &self.0 })
    }
}

impl<'a> Outgoing<'a> {
    /// What stands before it.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of the frame, [`MIN_FRAME`] to [`MAX_FRAME`].
    #[allow(clippy::len_without_is_empty, reason = "no frame is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The parts of the frame, in order; none is empty.
    pub fn slices(&self) -> impl Iterator<Item = VolatileSlice<'a>> + use<'a> {
        let memory = self.memory;
        // All of them were found before, and RAM does not go away.
        self.parts.iter().filter_map(|&(at, len)| memory.get_slice(at, len).ok())
    }

    /// Copies the first bytes of the frame, as many as there are and fit; says how many.
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in self.slices() {
            let Some(room) = bytes.get_mut(done..) else { break };
            done += slice.copy_to(room);
        }
        done
    }
}
