//! The disk device: its queue and its features.

use std::sync::Arc;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::backend::BlockBackend;
use super::request::Layout;
use super::service::{Service, Turn};
use super::{BlockMetrics, TURN, config};
use crate::devices::virtio::device::config_bytes;
use crate::devices::virtio::{ActivateError, Active, ConfigBytes, DeviceKind, VirtioDevice, Work};

/// Entries in the queue.
const QUEUE_SIZE: u16 = 256;

/// Data buffers in a request: header and status need one each.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;

/// What a flush by the guest means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheType {
    /// Nothing: the guest is told that there is no cache. Data may be lost if the host crashes.
    Unsafe,
    /// Everything written reaches the disk of the host; at once, for a driver that does not flush.
    #[default]
    Writeback,
}

/// One disk.
pub struct BlockDevice {
    service: Service,
    active: Option<Active>,
    layout: Layout,
    /// What earlier turns did of the request that is next.
    done: u64,
}

impl BlockDevice {
    /// A disk called `drive_id`, of which the guest sees the first 20 bytes as its serial number.
    pub fn new(backend: BlockBackend, drive_id: &str, cache: CacheType) -> Self {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (to, from) in id.iter_mut().zip(drive_id.bytes()) {
            *to = from;
        }
        let service = Service { backend, cache, id, metrics: Arc::default() };
        Self { service, active: None, layout: Layout::default(), done: 0 }
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<BlockMetrics> {
        &self.service.metrics
    }
}

impl VirtioDevice for BlockDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        let flush = self.service.cache == CacheType::Writeback;
        let read_only = self.service.backend.is_read_only();
        let holes = u64::from(self.service.backend.has_holes());
        1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | u64::from(flush) << VIRTIO_BLK_F_FLUSH
            | u64::from(read_only) << VIRTIO_BLK_F_RO
            | holes << VIRTIO_BLK_F_DISCARD
            | holes << VIRTIO_BLK_F_WRITE_ZEROES
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn queue_count(&self, _features: u64) -> usize {
        1
    }

    fn max_queue_size(&self) -> u16 {
        QUEUE_SIZE
    }

    fn config_space(&self) -> ConfigBytes {
        let backend = &self.service.backend;
        config_bytes(config::space(backend.sectors(), MAX_SEGMENTS, backend.has_holes()))
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        self.service.metrics.bad_config_writes.inc();
    }

    fn activate(&mut self, active: Active) -> Result<(), ActivateError> {
        self.active = Some(active);
        Ok(())
    }

    fn process_queue(&mut self, index: usize) -> Work {
        let Self { service, active: Some(active), layout, done } = self else {
            return Work::Done;
        };
        let mut turn = Turn { features: active.features, left: TURN, done };
        active.serve(index, |memory, chain| service.serve(memory, chain, layout, &mut turn))
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(active) = &mut self.active {
            active.stop_queue(index);
        }
        self.done = 0;
    }

    fn reset(&mut self) {
        self.active = None;
        self.done = 0;
    }
}
