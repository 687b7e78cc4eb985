//! Inflate and deflate buffers: arrays of 32-bit page numbers, at most 256 of them, because that is
//! what Linux sends (`VIRTIO_BALLOON_ARRAY_PFNS_MAX`) and a bound is needed.
//!
//! A buffer goes to the memory service as one batch; nothing is allocated.

use memsvc::{Gfn, Outcome};
use virtio_queue::desc::split::Descriptor;
use vm_memory::Bytes;

use super::BalloonMetrics;
use crate::devices::virtio::{Chain, GuestRam};

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

    /// Hands each good buffer of a chain to `give` and adds up what came of it.
    pub(super) fn pass_on(
        &mut self,
        memory: &GuestRam,
        chain: Chain<'_>,
        metrics: &BalloonMetrics,
        give: impl Fn(&[Gfn]) -> Outcome,
    ) -> Outcome {
        let mut sum = Outcome::default();
        for buffer in chain.buffers {
            let Some(gfns) = self.read(memory, buffer) else {
                metrics.bad_page_buffers.inc();
                continue;
            };
            let outcome = give(gfns);
            sum.accepted = sum.accepted.saturating_add(outcome.accepted);
            sum.refused = sum.refused.saturating_add(outcome.refused);
        }
        metrics.refused_pages.add(sum.refused.into());
        sum
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
