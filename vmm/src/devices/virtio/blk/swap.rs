//! The guest's swap as a disk: for kernels without NBD.
//!
//! ```text
//!   ring ─▶ request ─▶ held ─▶ a step each, while the turn has work left ─▶ store
//!             │ wrong            │ waits for a tier, for room, or for memory
//!             ▼                  ▼
//!           status             stays here; others go on past it
//! ```
//! It is served by the thread that frees memory, so a request waits here, never that thread: for what the store cannot do
//! yet, until the store's waker rings, and for memory that its data or its status lack, until there is some. One of which
//! the header lacks memory stays in the ring, with all behind it: a driver that has written it has memory there.

mod data;
mod held;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use memsvc::MemoryService;
use memsvc::seldom;
use memsvc::swap::{Swap, Waker};
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::timerfd::TimerFd;

use super::request::Layout;
use super::{BlockMetrics, SECTOR, config, serial};
use crate::devices::virtio::device::config_bytes;
use crate::devices::virtio::{ActivateError, Active, ConfigBytes, DeviceKind, OwnEvent, VirtioDevice, Work};
use held::Requests;

/// Entries in the queue, and requests under way: as many as an NBD connection may have.
const QUEUE_SIZE: u16 = 128;
/// Data buffers in a request: header and status need one each.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// The guest's block, which is a page of swap.
const BLOCK: u32 = 4096;
/// What the guest sees as its serial number.
const SERIAL: &str = "aerostat-swap";
/// Requests that lack memory are looked at again after so long.
const RETRY: Duration = Duration::from_millis(10);

/// The store can go on with something.
const STORE: u16 = 0;
/// There may be memory.
const MEMORY: u16 = 1;

/// What the disk needs to know of guest RAM.
pub trait SwapMemory: Send {
    /// True when touches of all these pieces (address and bytes), which the device announces, would wait for memory.
    fn lacks_memory_for(&self, pieces: &mut dyn Iterator<Item = (u64, u64)>) -> bool;
}

impl SwapMemory for Arc<MemoryService> {
    fn lacks_memory_for(&self, pieces: &mut dyn Iterator<Item = (u64, u64)>) -> bool {
        self.as_ref().lacks_memory_for(pieces)
    }
}

/// The disk.
pub struct SwapDisk {
    swap: Swap,
    memory: Box<dyn SwapMemory>,
    /// Rings when a request that the store made wait can go on.
    waker: Arc<Waker>,
    timer: TimerFd,
    live: Option<Live>,
    layout: Layout,
    metrics: Arc<BlockMetrics>,
}

/// What there is while a driver uses it.
struct Live {
    active: Active,
    requests: Requests,
}

impl SwapDisk {
    /// A disk on `swap`, for a guest with this memory. Fails where the host has no timer or event to spare.
    pub fn new(swap: &Swap, memory: impl SwapMemory + 'static) -> io::Result<Self> {
        Ok(Self {
            swap: swap.clone(),
            memory: Box::new(memory),
            waker: Arc::new(Waker::new()?),
            timer: TimerFd::new().map_err(io::Error::from)?,
            live: None,
            layout: Layout::default(),
            metrics: Arc::default(),
        })
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<BlockMetrics> {
        &self.metrics
    }

    /// Takes requests from the ring and goes on with all that there are.
    fn turn(&mut self) -> Work {
        let Self { live: Some(live), layout, memory, metrics, .. } = self else {
            return Work::Done;
        };
        let Live { active, requests } = live;
        let features = active.features;
        if !active.interrupt.is_running() {
            return Work::Done;
        }
        let Some(mut queue) = active.queue(0) else { return Work::Done };
        let ram = memory.as_ref();
        let taken = queue.serve(|memory, chain| requests.take(memory, ram, chain, features, layout, metrics));
        let left = requests.go_on(&mut queue, ram, metrics);
        queue.announce();
        if requests.lacked_memory() {
            self.look_again();
        }
        if taken == Work::More { taken } else { left }
    }

    fn look_again(&mut self) {
        if let Err(error) = self.timer.reset(RETRY, None) {
            seldom!(error, %error, "the timer of the swap disk cannot be set");
        }
    }
}

impl VirtioDevice for SwapDisk {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    /// What is written is stored as far as it ever will be, so there is nothing to flush.
    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_DISCARD
            | 1 << VIRTIO_BLK_F_WRITE_ZEROES
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
        let sectors = self.swap.bytes() / SECTOR;
        config_bytes(config::space(sectors, MAX_SEGMENTS, BLOCK, 1))
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        self.metrics.bad_config_writes.inc();
    }

    fn activate(&mut self, active: Active) -> Result<(), ActivateError> {
        let disk = self.swap.disk(&self.waker).ok_or(io::ErrorKind::OutOfMemory).map_err(io::Error::from)?;
        let requests = Requests::new(disk, serial(SERIAL));
        self.live = Some(Live { active, requests });
        Ok(())
    }

    fn process_queue(&mut self, _index: usize) -> Work {
        self.turn()
    }

    fn own_events(&self) -> Vec<OwnEvent> {
        let store = OwnEvent { fd: self.waker.as_fd().as_raw_fd(), token: STORE };
        vec![store, OwnEvent { fd: self.timer.as_raw_fd(), token: MEMORY }]
    }

    fn process_event(&mut self, token: u16) -> Option<usize> {
        if token == STORE {
            self.waker.clear();
        }
        (self.turn() == Work::More).then_some(0)
    }

    fn stop_queue(&mut self, index: usize) {
        if let Some(Live { active, requests }) = &mut self.live {
            active.stop_queue(index);
            requests.forget();
        }
    }

    /// What was asked of tiers comes to nobody.
    fn reset(&mut self) {
        self.live = None;
    }
}
