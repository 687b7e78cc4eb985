//! The disk device: its queue, its features, and what the operator changes of it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::backend::BlockBackend;
use super::ranges::MAX_RANGES;
use super::request::Layout;
use super::ring::{Ended, Ring, Task};
use super::service::{Service, Turn, UnderWay};
use super::{BlockControl, BlockMetrics, SECTOR, TURN, config, serial};
use crate::devices::virtio::device::config_bytes;
use crate::devices::virtio::rate::{Limits, RateLimiter};
use crate::devices::virtio::{ActivateError, Active, ConfigBytes, DeviceKind, OwnEvent, VirtioDevice, Work};

/// Its only queue.
const REQUESTS: usize = 0;

/// There are tokens again.
const TOKENS: u16 = 0;
/// The operator asks for something.
const ASKED: u16 = 1;
/// The kernel has done something.
const COMPLETED: u16 = 2;

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

/// How requests are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The thread of the device, one request after another.
    #[default]
    Sync,
    /// The kernel, beside it, by io_uring.
    Async,
}

/// How the operator wants a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockConfig<'a> {
    /// Its name, of which the guest sees the first 20 bytes as its serial number.
    pub drive_id: &'a str,
    /// Meaning of a flush.
    pub cache: CacheType,
    /// How requests are carried out.
    pub engine: Engine,
    /// Limits on requests and what they move.
    pub limits: Limits,
}

/// One disk.
pub struct BlockDevice {
    /// Requests that the kernel has, and the sync before an exchange of the file, which is of none. The field goes first:
    /// its end waits for all that use guest memory.
    ring: Option<Ring<Option<UnderWay>>>,
    service: Service,
    active: Option<Active>,
    layout: Layout,
    /// What earlier turns did of the request that is next.
    done: u64,
    /// There is to be another file, as soon as the old one has all that went there.
    is_settling: bool,
    /// An old file may not have it, of which the next flush tells.
    is_unsettled: bool,
    limiter: RateLimiter,
    control: Arc<BlockControl>,
    /// The driver is offered discards and write zeroes, whatever file comes later.
    offers_ranges: bool,
}

impl BlockDevice {
    /// A disk on `backend`; the guest sees the first 20 bytes of its id as its serial number. Fails where the host has no timer, event or ring to spare.
    pub fn new(backend: BlockBackend, config: &BlockConfig<'_>) -> io::Result<Self> {
        let ring = match config.engine {
            Engine::Sync => None,
            Engine::Async => Some(Ring::new().map_err(io::Error::other)?),
        };
        Ok(Self {
            ring,
            active: None,
            layout: Layout::default(),
            done: 0,
            is_settling: false,
            is_unsettled: false,
            limiter: RateLimiter::new(config.limits)?,
            control: Arc::new(BlockControl::new(backend.clone())?),
            offers_ranges: backend.has_holes(),
            service: Service {
                backend,
                cache: config.cache,
                id: serial(config.drive_id),
                metrics: Arc::default(),
            },
        })
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<BlockMetrics> {
        &self.service.metrics
    }

    /// The operator's side of it.
    pub fn control(&self) -> &Arc<BlockControl> {
        &self.control
    }

    /// Ends requests that the kernel has done, and tells the driver.
    fn complete(&mut self) {
        let Self { service, active, ring: Some(ring), .. } = self else { return };
        let mut settled = None;
        while let Some(Ended { of, result, synced }) = ring.ended() {
            service.count_sync(synced);
            let Some(request) = of else {
                settled = Some(result);
                continue;
            };
            let Some(active) = active.as_mut() else { continue };
            let used = service.finish(&active.memory, request, result);
            if let Some(mut queue) = active.queue(REQUESTS) {
                queue.publish(&[used]);
            }
        }
        ring.hand_in();
        if let Some(mut queue) = active.as_mut().and_then(|active| active.queue(REQUESTS)) {
            queue.announce();
        }
        match settled {
            Some(settled) => self.exchange(settled),
            None if self.is_settling => self.settle(),
            None => {}
        }
    }

    /// Begins to put the file that the operator asks for behind the disk, if there is one. Writes to the old one are
    /// made durable first, since no later flush does that. With a ring that takes its time, and no request begins.
    fn settle(&mut self) {
        self.is_settling = self.control.asks_for_file();
        if !self.is_settling || self.ring.as_ref().is_some_and(|ring| !ring.is_idle()) {
            return;
        }
        let service = &self.service;
        match &mut self.ring {
            _ if !service.has_cache() => self.exchange(Ok(())),
            Some(ring) => {
                ring.start(None, service.backend.clone(), Task::Sync, 0, false);
                ring.hand_in();
            }
            None => {
                service.count_sync(true);
                self.exchange(service.backend.flush());
            }
        }
    }

    /// Another file is behind the disk from now on; `settled` says whether the old one has all that went there. A
    /// request that is half done begins again.
    fn exchange(&mut self, settled: io::Result<()>) {
        if let Err(cause) = settled {
            self.service.host_error(&cause);
            self.is_unsettled = true;
        }
        self.control.exchange(&mut self.service.backend);
        self.is_settling = false;
        self.service.metrics.updates.inc();
        self.done = 0;
        if let Some(active) = &self.active {
            active.interrupt.config_changed(&self.config_space());
        }
    }

    /// Nothing more is done for the driver.
    fn abandon(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.abandon();
        }
        self.done = 0;
    }
}

impl VirtioDevice for BlockDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        let flush = self.service.cache == CacheType::Writeback;
        let read_only = self.service.backend.is_read_only();
        let ranges = u64::from(self.offers_ranges);
        1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | u64::from(flush) << VIRTIO_BLK_F_FLUSH
            | u64::from(read_only) << VIRTIO_BLK_F_RO
            | ranges << VIRTIO_BLK_F_DISCARD
            | ranges << VIRTIO_BLK_F_WRITE_ZEROES
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
        let max_ranges = if self.offers_ranges { MAX_RANGES as u32 } else { 0 };
        let sectors = self.service.backend.sectors();
        config_bytes(config::space(sectors, MAX_SEGMENTS, SECTOR as u32, max_ranges))
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        self.service.metrics.bad_config_writes.inc();
    }

    fn activate(&mut self, active: Active) -> Result<(), ActivateError> {
        self.active = Some(active);
        Ok(())
    }

    fn process_queue(&mut self, index: usize) -> Work {
        let Self { service, active: Some(active), ring, layout, done, is_unsettled, limiter, .. } = self
        else {
            return Work::Done;
        };
        if self.is_settling {
            return Work::Done;
        }
        let ring = ring.as_mut();
        let mut turn =
            Turn { features: active.features, left: TURN, done, is_unsettled, limiter, moved: 0, ring };
        let work = active.serve(index, |memory, chain| service.serve(memory, chain, layout, &mut turn));
        if let Some(ring) = &mut turn.ring {
            ring.hand_in();
        }
        work
    }

    fn own_events(&self) -> Vec<OwnEvent> {
        let always = [(self.limiter.timer(), TOKENS), (self.control.event(), ASKED)];
        let ring = self.ring.iter().flat_map(Ring::events).map(|event| (event, COMPLETED));
        always.into_iter().chain(ring).map(|(fd, token)| OwnEvent { fd, token }).collect()
    }

    fn process_event(&mut self, token: u16) -> Option<usize> {
        match token {
            ASKED => {
                self.limiter.change(self.control.take_limits());
                self.settle();
            }
            COMPLETED => self.complete(),
            _ => {}
        }
        // Tokens are there again, or room in the ring, or another file, for what waited in the queue.
        (self.process_queue(REQUESTS) == Work::More).then_some(REQUESTS)
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(active) = &mut self.active {
            active.stop_queue(index);
        }
        self.abandon();
    }

    fn reset(&mut self) {
        self.active = None;
        self.abandon();
    }

    fn under_way(&mut self) -> Option<Arc<OwnedFd>> {
        let under_way = self.ring.as_mut().and_then(Ring::wanes);
        if under_way.is_none() && self.is_settling {
            // The sync was abandoned, too.
            self.settle();
        }
        under_way
    }
}
