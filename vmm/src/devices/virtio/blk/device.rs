//! The disk device: serves requests from its queue, one after another.

use std::sync::Arc;

use tracing::warn;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::Permissions;

use super::backend::{BlockBackend, Direction};
use super::request::{Layout, Malformed, Request, slices, total, write_status};
use super::{BlockMetrics, SECTOR, config};
use crate::devices::virtio::device::config_bytes;
use crate::devices::virtio::{
    ActivateError, Active, Chain, Completion, ConfigBytes, DeviceKind, GuestRam, VirtioDevice, Work,
};

/// Entries in the queue.
const QUEUE_SIZE: u16 = 256;

/// Data buffers in a request: header and status need one each.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;

/// Data bytes in a request. Far more than Linux asks for (1280 KiB, unless told otherwise); without
/// a bound, buffers that name the same memory again and again would hold up the event loop.
const MAX_BYTES: u64 = 64 << 20;

/// What a flush by the guest means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheType {
    /// Nothing: the guest is told that there is no cache. Data may be lost if the host crashes.
    Unsafe,
    /// Everything written reaches the disk of the host.
    #[default]
    Writeback,
}

/// One disk.
pub struct BlockDevice {
    service: Service,
    active: Option<Active>,
    layout: Layout,
}

/// All that it takes to serve a request.
struct Service {
    backend: BlockBackend,
    cache: CacheType,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    metrics: Arc<BlockMetrics>,
}

/// How a request ended: the status byte, and bytes written before it.
type Answer = Result<u32, u32>;

impl BlockDevice {
    /// A disk called `drive_id`, of which the guest sees the first 20 bytes as its serial number.
    pub fn new(backend: BlockBackend, drive_id: &str, cache: CacheType) -> Self {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (to, from) in id.iter_mut().zip(drive_id.bytes()) {
            *to = from;
        }
        let metrics = Arc::default();
        Self { service: Service { backend, cache, id, metrics }, active: None, layout: Layout::default() }
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
        1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | u64::from(flush) << VIRTIO_BLK_F_FLUSH
            | u64::from(read_only) << VIRTIO_BLK_F_RO
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
        config_bytes(config::space(self.service.backend.sectors(), MAX_SEGMENTS, SECTOR as u32))
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        self.service.metrics.bad_config_writes.inc();
    }

    fn activate(&mut self, active: Active) -> Result<(), ActivateError> {
        self.active = Some(active);
        Ok(())
    }

    fn process_queue(&mut self, index: usize) -> Work {
        let Self { service, active: Some(active), layout } = self else {
            return Work::Done;
        };
        active.serve(index, |memory, chain| Completion::Used(service.serve(memory, chain, layout)))
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(active) = &mut self.active {
            active.stop_queue(index);
        }
    }

    fn reset(&mut self) {
        self.active = None;
    }
}

impl Service {
    /// Serves one chain; says how many bytes were written into it.
    fn serve(&self, memory: &GuestRam, chain: Chain<'_>, layout: &mut Layout) -> u32 {
        let written = match layout.parse(memory, chain) {
            Ok(request) => {
                let (status, data) = match self.execute(memory, &request) {
                    Ok(data) => (VIRTIO_BLK_S_OK, data),
                    Err(status) => (status, 0),
                };
                request.finish(memory, status as u8).then(|| data.saturating_add(1))
            }
            Err(Malformed::NoHeader(status)) => {
                self.metrics.bad_requests.inc();
                write_status(memory, status, VIRTIO_BLK_S_IOERR as u8).then_some(1)
            }
            Err(Malformed::NoStatus) => None,
        };
        written.unwrap_or_else(|| {
            self.metrics.bad_requests.inc();
            0
        })
    }

    fn execute(&self, memory: &GuestRam, request: &Request<'_>) -> Answer {
        match request.kind {
            VIRTIO_BLK_T_IN => {
                let bytes = self.transfer(memory, request, Direction::Read)?;
                self.metrics.reads.inc();
                self.metrics.read_bytes.add(bytes);
                Ok(u32::try_from(bytes).unwrap_or(u32::MAX))
            }
            VIRTIO_BLK_T_OUT => {
                if self.backend.is_read_only() {
                    return self.refuse();
                }
                let bytes = self.transfer(memory, request, Direction::Write)?;
                self.metrics.writes.inc();
                self.metrics.written_bytes.add(bytes);
                Ok(0)
            }
            VIRTIO_BLK_T_FLUSH => self.flush(),
            VIRTIO_BLK_T_GET_ID => self.get_id(memory, request),
            _ => {
                self.metrics.unsupported.inc();
                Err(VIRTIO_BLK_S_UNSUPP)
            }
        }
    }

    /// Moves the data of a request; its length in bytes.
    fn transfer(&self, memory: &GuestRam, request: &Request<'_>, direction: Direction) -> Result<u64, u32> {
        let (spans, access) = match direction {
            Direction::Read => (request.into, Permissions::Write),
            Direction::Write => (request.out, Permissions::Read),
        };
        let bytes = total(spans);
        let end = request.sector.checked_add(bytes / SECTOR);
        let fits = end.is_some_and(|end| end <= self.backend.sectors());
        if !fits || !bytes.is_multiple_of(SECTOR) || bytes > MAX_BYTES {
            return self.refuse();
        }
        let Some(slices) = slices(memory, spans, access) else {
            self.metrics.bad_requests.inc();
            return Err(VIRTIO_BLK_S_IOERR);
        };
        let offset = request.sector * SECTOR;
        self.backend
            .transfer(direction, offset, &slices)
            .map(|()| bytes)
            .map_err(|cause| self.host_error(&cause))
    }

    fn flush(&self) -> Answer {
        if self.cache == CacheType::Writeback && !self.backend.is_read_only() {
            self.backend.flush().map_err(|cause| self.host_error(&cause))?;
        }
        self.metrics.flushes.inc();
        Ok(0)
    }

    fn get_id(&self, memory: &GuestRam, request: &Request<'_>) -> Answer {
        let Some(room) = slices(memory, request.into, Permissions::Write) else {
            self.metrics.bad_requests.inc();
            return Err(VIRTIO_BLK_S_IOERR);
        };
        let mut rest = &self.id[..];
        for slice in room {
            let (now, later) = rest.split_at(rest.len().min(slice.len()));
            slice.copy_from(now);
            rest = later;
        }
        Ok((self.id.len() - rest.len()) as u32)
    }

    fn refuse<T>(&self) -> Result<T, u32> {
        self.metrics.refused.inc();
        Err(VIRTIO_BLK_S_IOERR)
    }

    fn host_error(&self, cause: &std::io::Error) -> u32 {
        warn!(%cause, "a disk request failed on the host");
        self.metrics.host_errors.inc();
        VIRTIO_BLK_S_IOERR
    }
}
