//! States, features and queue set-up of a device, whatever registers carry them (section 3.1.1).
//!
//! ```text
//!   reset ─▶ ACKNOWLEDGE ─▶ DRIVER ─▶ FEATURES_OK ─▶ DRIVER_OK ══▶ live
//!     ▲                       │            │             │           │
//!     │              features are       queues are    a queue is     │ a ring makes
//!     │              written here      set up here   refused: ──▶ NEEDS_RESET ◀─ no sense
//!     └──────────────────────── the driver writes 0 ────────────────┘
//! ```
//!
//! A write that the state does not allow is counted and changes nothing.

use std::io;
use std::sync::{Arc, MutexGuard};

use memsvc::seldom::is_due;
use rustix::event::{PollFd, PollFlags, poll};
use tracing::warn;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::TransportMetrics;
use super::setup::{Half, QueuePart, QueueSetup};
use crate::devices::virtio::{
    ActivateError, Active, DeviceKind, GuestRam, Interrupt, SharedDevice, Status, VirtioDevice, lock,
};

/// The steps of initialization in order; each needs all those before it.
const STEPS: [u32; 4] = [Status::ACKNOWLEDGE, Status::DRIVER, Status::FEATURES_OK, Status::DRIVER_OK];

/// Every bit that a driver may write. `NEEDS_RESET` is the device's, but a driver that adds a bit
/// to what it read writes it back.
const WRITABLE: u32 = Status::ACKNOWLEDGE
    | Status::DRIVER
    | Status::FEATURES_OK
    | Status::DRIVER_OK
    | Status::NEEDS_RESET
    | Status::FAILED;

/// One device as its driver sees it.
pub struct Core {
    device: SharedDevice,
    memory: GuestRam,
    interrupt: Arc<Interrupt>,
    metrics: Arc<TransportMetrics>,
    kicks: Vec<Arc<EventFd>>,
    kind: DeviceKind,
    offered: u64,
    acknowledged: u64,
    device_features_select: u32,
    driver_features_select: u32,
    max_queue_size: u16,
    selected: usize,
    queues: Vec<QueueSetup>,
}

impl Core {
    /// Puts `device` behind a transport. Fails where the process may open no more files.
    pub fn new(device: SharedDevice, memory: GuestRam) -> io::Result<Self> {
        let (kind, offered, queue_count, max_queue_size) = {
            let device = lock(&device);
            let offered = device.features() | 1 << VIRTIO_F_VERSION_1;
            (device.kind(), offered, device.queue_count(offered), device.max_queue_size())
        };
        let kicks = (0..queue_count)
            .map(|_| EventFd::new(EFD_NONBLOCK).map(Arc::new))
            .collect::<io::Result<Vec<_>>>()?;
        let metrics = Arc::<TransportMetrics>::default();
        Ok(Self {
            device,
            memory,
            interrupt: Arc::new(Interrupt::new(Arc::clone(&metrics))?),
            metrics,
            kicks,
            kind,
            offered,
            acknowledged: 0,
            device_features_select: 0,
            driver_features_select: 0,
            max_queue_size,
            selected: 0,
            queues: vec![QueueSetup::new(max_queue_size); queue_count],
        })
    }

    /// The device's type.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// The device behind this transport.
    pub fn device(&self) -> &SharedDevice {
        &self.device
    }

    /// Its line to the driver.
    pub fn interrupt(&self) -> &Arc<Interrupt> {
        &self.interrupt
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<TransportMetrics> {
        &self.metrics
    }

    /// One event per queue, in order; writing it has the queue served.
    pub fn kicks(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    /// Which 32 feature bits [`Self::device_features`] reads.
    pub fn select_device_features(&mut self, half: u32) {
        self.device_features_select = half;
    }

    /// The selected half of the offered features; zero beyond bit 63.
    pub fn device_features(&self) -> u32 {
        match self.device_features_select {
            0 => self.offered as u32,
            1 => (self.offered >> 32) as u32,
            _ => 0,
        }
    }

    /// Which 32 feature bits [`Self::write_driver_features`] writes.
    pub fn select_driver_features(&mut self, half: u32) {
        self.driver_features_select = half;
    }

    /// The driver acknowledges features, while it is in state DRIVER.
    pub fn write_driver_features(&mut self, bits: u32) {
        if !self.is_at(Status::DRIVER) {
            return self.misused();
        }
        match self.driver_features_select {
            0 => self.acknowledged = (self.acknowledged & !0xffff_ffff) | u64::from(bits),
            1 => self.acknowledged = (self.acknowledged & 0xffff_ffff) | u64::from(bits) << 32,
            _ if bits == 0 => {}
            _ => self.misused(),
        }
    }

    /// Which queue the following calls are about.
    pub fn select_queue(&mut self, index: u32) {
        self.selected = index as usize;
    }

    /// The largest size of the selected queue; 0 where there is no such queue.
    pub fn max_queue_size(&self) -> u16 {
        if self.selected < self.queue_count() { self.max_queue_size } else { 0 }
    }

    /// Sets the size of the selected queue; checked on activation.
    pub fn set_queue_size(&mut self, size: u32) {
        match self.open_queue() {
            Some(queue) => queue.size = size,
            None => self.misused(),
        }
    }

    /// Sets half of an address of the selected queue; checked on activation.
    pub fn set_queue_address(&mut self, part: QueuePart, half: Half, value: u32) {
        match self.open_queue() {
            Some(queue) => queue.set_address(part, half, value),
            None => self.misused(),
        }
    }

    /// Whether the selected queue is in use.
    pub fn queue_ready(&self) -> bool {
        self.queues.get(self.selected).is_some_and(|queue| queue.ready)
    }

    /// Puts the selected queue into use or takes it out.
    pub fn set_queue_ready(&mut self, ready: bool) {
        if ready {
            return match self.open_queue() {
                Some(queue) => queue.ready = true,
                None => self.misused(),
            };
        }
        // Linux takes queues out of use after a reset, too: no offence, nothing to do.
        let index = self.selected;
        if let Some(queue) = self.queues.get_mut(index)
            && std::mem::take(&mut queue.ready)
        {
            drop(self.stop(|device| device.stop_queue(index)));
        }
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.interrupt.status()
    }

    /// The driver writes the status register: zero resets, other values add bits.
    pub fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let mut now = self.status();
        let cleared = now & !Status::NEEDS_RESET & !value;
        if value & !WRITABLE != 0 || cleared != 0 {
            return self.metrics.bad_status_writes.inc();
        }
        if value & Status::FAILED != 0 {
            return self.interrupt.add_status(Status::FAILED);
        }
        let mut needed = 0;
        for step in STEPS {
            if value & step != 0 && now & step == 0 {
                if now & needed != needed {
                    return self.metrics.bad_status_writes.inc();
                }
                if !self.take_step(step) {
                    return;
                }
                now |= step;
            }
            needed |= step;
        }
    }

    /// Shows the driver the device's configuration space.
    pub fn show_config(&self) {
        let device = lock(&self.device);
        self.interrupt.page().show_config(&device.config_space());
    }

    /// Writes configuration space.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        lock(&self.device).write_config(offset, data);
    }

    /// Sets one status bit with what it means; `false` if that was refused.
    fn take_step(&mut self, step: u32) -> bool {
        if step == Status::FEATURES_OK && !self.agree() {
            return false;
        }
        if step != Status::DRIVER_OK {
            self.interrupt.add_status(step);
            return true;
        }
        let activated = self.activate();
        self.interrupt.add_status(Status::DRIVER_OK);
        match activated {
            Ok(()) => {
                self.metrics.activations.inc();
                // Linux fills and kicks queues before DRIVER_OK: those kicks are gone by now.
                for kick in &self.kicks {
                    let _ = kick.write(1);
                }
            }
            Err(error) => {
                self.metrics.activations_refused.inc();
                let times = self.metrics.activations_refused.get();
                if is_due(times) {
                    warn!(times, device = ?self.kind, %error, "a device was not activated");
                }
                self.interrupt.needs_reset();
            }
        }
        true
    }

    fn agree(&self) -> bool {
        let unknown = self.acknowledged & !self.offered;
        let modern = self.acknowledged & (1 << VIRTIO_F_VERSION_1) != 0;
        if unknown == 0 && modern {
            return true;
        }
        self.metrics.features_refused.inc();
        false
    }

    fn activate(&self) -> Result<(), ActivateError> {
        let event_idx = self.acknowledged & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        let queues = self
            .queues
            .iter()
            .take(self.queue_count())
            .enumerate()
            .map(|(index, setup)| setup.build(index, self.max_queue_size, event_idx, &self.memory))
            .collect::<Result<Vec<_>, _>>()?;
        lock(&self.device).activate(Active {
            memory: self.memory.clone(),
            features: self.acknowledged,
            interrupt: Arc::clone(&self.interrupt),
            queues,
            metrics: Arc::clone(&self.metrics),
        })
    }

    fn reset(&mut self) {
        self.metrics.resets.inc();
        {
            // Under the device's lock, so that no queue of the old life reports an error into the
            // new one.
            let _device = self.stop(|device| device.reset());
            self.interrupt.reset();
        }
        self.acknowledged = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.selected = 0;
        self.queues.fill(QueueSetup::new(self.max_queue_size));
    }

    /// Has the device stop, and waits until the host does not use memory of the driver's any more. That may take as long
    /// as a disk takes: the event loop goes on meanwhile, since only the driver's CPU waits.
    fn stop(&self, stop: impl FnOnce(&mut dyn VirtioDevice)) -> MutexGuard<'_, dyn VirtioDevice + 'static> {
        let mut device = lock(&self.device);
        stop(&mut *device);
        while let Some(under_way) = device.under_way() {
            drop(device);
            // A failure here is passing: a signal, or no memory.
            let _ = poll(&mut [PollFd::new(&*under_way, PollFlags::IN)], None);
            device = lock(&self.device);
        }
        device
    }

    /// How many queues there are, as far as features are acknowledged.
    fn queue_count(&self) -> usize {
        lock(&self.device).queue_count(self.acknowledged).min(self.queues.len())
    }

    /// The selected queue, if it may be set up now: features are agreed upon, the driver is not
    /// ready yet, nor is the queue.
    fn open_queue(&mut self) -> Option<&mut QueueSetup> {
        if !self.is_at(Status::FEATURES_OK) || self.selected >= self.queue_count() {
            return None;
        }
        self.queues.get_mut(self.selected).filter(|queue| !queue.ready)
    }

    /// Whether `step` was the last one taken.
    fn is_at(&self, step: u32) -> bool {
        let reached = self.status() & (step | Status::FAILED);
        let later = STEPS.iter().rev().take_while(|&&other| other != step).sum::<u32>();
        reached == step && self.status() & later == 0
    }

    fn misused(&self) {
        self.metrics.bad_register_writes.inc();
    }
}
