//! Where the data of a request lie in guest RAM, from the page on at which the request is.

use std::mem;

use memsvc::swap::DiskData;
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use super::{BLOCK, SwapMemory};
use crate::devices::virtio::GuestRam;
use crate::devices::virtio::blk::request::Span;

/// Pieces of guest RAM, whatever their lengths.
#[derive(Debug)]
pub(super) struct Data {
    spans: Vec<Span>,
    /// The piece at which the page begins; what was before is done, of this piece, too.
    first: usize,
}

impl Data {
    /// In these pieces, of which a copy goes to `room`.
    pub(super) fn new(spans: &[Span], mut room: Vec<Span>) -> Self {
        room.clear();
        room.extend(spans.iter().filter(|(_, len)| *len > 0));
        Self { spans: room, first: 0 }
    }

    /// Room for the next.
    pub(super) fn take_room(&mut self) -> Vec<Span> {
        mem::take(&mut self.spans)
    }

    /// As a step sees it.
    pub(super) fn in_ram<'a>(&'a mut self, memory: &'a GuestRam, ram: &'a dyn SwapMemory) -> Page<'a> {
        Page { data: self, memory, ram }
    }

    /// The pieces of the page.
    fn pieces(&self) -> impl Iterator<Item = Span> {
        let mut left = u64::from(BLOCK);
        self.spans.iter().skip(self.first).map_while(move |&(at, len)| {
            let now = len.min(left);
            left -= now;
            (now > 0).then_some((at, now))
        })
    }

    fn advance(&mut self) {
        let mut left = u64::from(BLOCK);
        while let Some((at, len)) = self.spans.get_mut(self.first).filter(|_| left > 0) {
            let now = left.min(*len);
            (at.0, *len, left) = (at.0.wrapping_add(now), *len - now, left - now);
            self.first += usize::from(*len == 0);
        }
    }
}

/// Whether all these pieces are in RAM. None is touched, so none is announced.
pub(super) fn are_in_ram(memory: &GuestRam, spans: &[Span]) -> bool {
    spans.iter().filter(|(_, len)| *len > 0).all(|&(at, len)| {
        let region = memory.find_region(at);
        let room = region.and_then(|region| Some(region.len() - region.to_region_addr(at)?.0));
        room.is_some_and(|room| len <= room)
    })
}

/// The page at which a request is. All of it is asked for, then announced piece by piece, right before it is touched.
pub(super) struct Page<'a> {
    data: &'a mut Data,
    memory: &'a GuestRam,
    ram: &'a dyn SwapMemory,
}

impl DiskData for Page<'_> {
    fn is_ready(&self) -> bool {
        !self.ram.lacks_memory_for(&mut self.data.pieces().map(|(at, len)| (at.0, len)))
    }

    fn get(&self, into: &mut [u8; BLOCK as usize]) -> bool {
        let mut room = &mut into[..];
        self.data.pieces().all(|(at, len)| {
            let Some((now, later)) = mem::take(&mut room).split_at_mut_checked(len as usize) else {
                return false;
            };
            room = later;
            self.memory.read_slice(now, at).is_ok()
        })
    }

    fn put(&self, from: &[u8; BLOCK as usize]) -> bool {
        let mut rest = &from[..];
        self.data.pieces().all(|(at, len)| {
            let Some((now, later)) = rest.split_at_checked(len as usize) else { return false };
            rest = later;
            self.memory.write_slice(now, at).is_ok()
        })
    }

    fn advance(&mut self) {
        self.data.advance();
    }
}
