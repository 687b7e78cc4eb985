//! Inflate and deflate buffers: arrays of 32-bit page numbers. There are at most 256 of them, because that is
//! what Linux sends (`VIRTIO_BALLOON_ARRAY_PFNS_MAX`) and a bound is needed.
//!
//! A buffer goes to the memory service as one batch, and is the least that a turn serves; nothing is allocated.

use memsvc::{Gfn, Outcome};
use virtio_queue::desc::split::Descriptor;
use vm_memory::Bytes;

use super::BalloonMetrics;
use super::turn::Served;
use crate::devices::virtio::GuestRam;

/// Page numbers in a buffer.
const MAX: usize = 256;
/// Bytes in a page number.
const WIDTH: usize = size_of::<u32>();

/// Room for one buffer.
#[derive(Debug)]
pub(super) struct PfnBuffer {
    bytes: [u8; MAX * WIDTH],
    gfns: [Gfn; MAX],
}

impl PfnBuffer {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self { bytes: [0; MAX * WIDTH], gfns: [Gfn(0); MAX] })
    }

    /// Hands a good buffer to `give`, and counts what came of it.
    pub(super) fn pass_on(
        &mut self,
        memory: &GuestRam,
        buffer: &Descriptor,
        metrics: &BalloonMetrics,
        give: impl FnOnce(&[Gfn]) -> Outcome,
    ) -> Served {
        let Some(gfns) = self.read(memory, buffer) else {
            metrics.bad_page_buffers.inc();
            return Served::whole(0);
        };
        metrics.refused_pages.add(give(gfns).refused.into());
        Served::whole(gfns.len() as u64)
    }

    fn read(&mut self, memory: &GuestRam, buffer: &Descriptor) -> Option<&[Gfn]> {
        let len = buffer.len() as usize;
        if buffer.is_write_only() || len == 0 || !len.is_multiple_of(WIDTH) {
            return None;
        }
        let bytes = self.bytes.get_mut(..len)?;
        memory.read_slice(bytes, buffer.addr()).ok()?;
        let (numbers, _) = bytes.as_chunks::<WIDTH>();
        for (gfn, number) in self.gfns.iter_mut().zip(numbers) {
            *gfn = Gfn(u32::from_le_bytes(*number).into());
        }
        self.gfns.get(..len / WIDTH)
    }
}
