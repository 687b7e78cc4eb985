//! One queue as the driver describes it, before anything is believed.

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use crate::devices::virtio::{ActivateError, GuestRam, VirtQueue};

/// The three parts of a split virtqueue (section 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuePart {
    /// Descriptor table.
    Descriptors,
    /// Available ring, written by the driver.
    Driver,
    /// Used ring, written by the device.
    Device,
}

/// Half of a 64-bit address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

/// What the driver wrote about one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueSetup {
    pub(super) size: u32,
    pub(super) ready: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

impl QueueSetup {
    pub(super) fn new(max_size: u16) -> Self {
        Self { size: max_size.into(), ready: false, descriptors: 0, driver: 0, device: 0 }
    }

    pub(super) fn set_address(&mut self, part: QueuePart, half: Half, value: u32) {
        let address = match part {
            QueuePart::Descriptors => &mut self.descriptors,
            QueuePart::Driver => &mut self.driver,
            QueuePart::Device => &mut self.device,
        };
        *address = match half {
            Half::Low => (*address & !0xffff_ffff) | u64::from(value),
            Half::High => (*address & 0xffff_ffff) | (u64::from(value) << 32),
        };
    }

    /// Checks everything and makes the queue. One that the driver left alone stays unused.
    pub(super) fn build(
        &self,
        index: usize,
        max_size: u16,
        event_idx: bool,
        memory: &GuestRam,
    ) -> Result<VirtQueue, ActivateError> {
        let refused = |cause| ActivateError::Queue { index, cause };
        let mut ring = Queue::new(max_size).map_err(refused)?;
        if !self.ready {
            return Ok(VirtQueue::new(ring));
        }
        let size = u16::try_from(self.size).map_err(|_| refused(virtio_queue::Error::InvalidSize))?;
        ring.try_set_size(size).map_err(refused)?;
        ring.try_set_desc_table_address(GuestAddress(self.descriptors)).map_err(refused)?;
        ring.try_set_avail_ring_address(GuestAddress(self.driver)).map_err(refused)?;
        ring.try_set_used_ring_address(GuestAddress(self.device)).map_err(refused)?;
        ring.set_event_idx(event_idx);
        ring.set_ready(true);
        // An available ring at address 0 counts as not set up in the crate below.
        if self.driver == 0 || !ring.is_valid(memory) {
            return Err(ActivateError::OutsideRam { index });
        }
        Ok(VirtQueue::new(ring))
    }
}
