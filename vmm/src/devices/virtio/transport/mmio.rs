//! virtio-mmio, version 2 (section 4.2): registers of 32 bits, then configuration space.
//!
//! ```text
//!   0x000 magic, version, device, vendor      0x050 QueueNotify     0x080 queue addresses
//!   0x010 features                            0x060 interrupt       0x0b0 shared memory (none)
//!   0x030 queue: select, max, size, ready     0x070 status          0x0fc ConfigGeneration
//!   0x100 configuration space of the device
//! ```
//! The driver reads them from a page ([`RegisterPage`]); only what it writes comes here.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::registers::reg;
use super::{Core, Half, QueuePart, RegisterPage, TransportMetrics};
use crate::devices::events::DeviceEvents;
use crate::devices::virtio::{GuestRam, Interrupt, SharedDevice, lock};

/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
/// Modern devices.
const VERSION: u32 = 2;
/// "AERO", little endian.
const VENDOR: u32 = 0x4f52_4541;

/// One device at its place in guest physical address space. Any vCPU thread may call it.
pub struct MmioTransport {
    core: Mutex<Core>,
    // Read and written without the lock of `core`: the paths that run often.
    interrupt: Arc<Interrupt>,
    metrics: Arc<TransportMetrics>,
    kicks: Vec<Arc<EventFd>>,
    device: SharedDevice,
}

impl MmioTransport {
    /// Where in the window a queue is kicked: register each of [`Self::queue_events`] there, with
    /// its index as 32-bit datamatch.
    pub const NOTIFY_OFFSET: u64 = reg::QUEUE_NOTIFY;

    /// Where in the window an interrupt is acknowledged, and what is written there if it was for used buffers:
    /// register [`Self::seen_event`] there.
    pub const ACK: (u64, u32) = (reg::INTERRUPT_ACK, Interrupt::USED_BUFFER);

    /// Puts `device` behind mmio registers. Fails where the process may open no more files.
    pub fn new(device: SharedDevice, memory: GuestRam) -> io::Result<Self> {
        let core = Core::new(device, memory)?;
        let page = core.interrupt().page();
        let fixed = [(reg::MAGIC, MAGIC), (reg::VERSION, VERSION), (reg::VENDOR_ID, VENDOR)];
        // A shared memory region that does not exist has length and base -1.
        let none = (reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH).step_by(4).map(|offset| (offset, u32::MAX));
        for (offset, value) in fixed.into_iter().chain(none).chain([(reg::DEVICE_ID, core.kind() as u32)]) {
            page.register(offset).store(value, Ordering::SeqCst);
        }
        show(&core);
        Ok(Self {
            interrupt: Arc::clone(core.interrupt()),
            metrics: Arc::clone(core.metrics()),
            kicks: core.kicks().to_vec(),
            device: Arc::clone(core.device()),
            core: Mutex::new(core),
        })
    }

    /// What the driver reads. The guest is to see it at the whole of the window, read-only.
    pub fn page(&self) -> &Arc<RegisterPage> {
        self.interrupt.page()
    }

    /// One event per queue that the device may ever have, in order.
    pub fn queue_events(&self) -> &[Arc<EventFd>] {
        &self.kicks
    }

    /// What the driver acknowledges through this event costs it no exit to this process. The bit in the interrupt
    /// status goes a moment later ([`Seen`](crate::devices::virtio::Seen)), and until then a driver that is interrupted
    /// for something else looks at its rings as well. Interrupts are edge-triggered: they do not come again for it.
    pub fn seen_event(&self) -> &EventFd {
        self.interrupt.seen().event()
    }

    /// The event to register as irqfd, edge-triggered.
    pub fn irq(&self) -> &EventFd {
        self.interrupt.irq()
    }

    /// What to put on the event loop for this device.
    pub fn events(&self) -> DeviceEvents {
        DeviceEvents::new(Arc::clone(&self.device), self.kicks.clone(), Arc::clone(&self.interrupt))
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<TransportMetrics> {
        &self.metrics
    }

    /// The guest reads at `offset` from the start of the window, though it has the page.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.metrics.register_reads.inc();
        self.page().read(offset, data);
    }

    /// The guest writes `data` at `offset` from the start of the window.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(reg::CONFIG) {
            match data.len() {
                1 | 2 | 4 | 8 => {
                    let mut core = lock(&self.core);
                    core.write_config(offset, data);
                    show(&core);
                }
                _ => self.metrics.bad_register_writes.inc(),
            }
            return;
        }
        match <[u8; 4]>::try_from(data) {
            Ok(bytes) => self.write_register(offset, u32::from_le_bytes(bytes)),
            Err(_) => self.metrics.bad_register_writes.inc(),
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        use {Half::*, QueuePart::*};
        match offset {
            reg::QUEUE_NOTIFY => return self.kick(value),
            reg::INTERRUPT_ACK => return self.interrupt.acknowledge(value),
            reg::SHM_SEL => return,
            _ => {}
        }
        let mut core = lock(&self.core);
        match offset {
            reg::DEVICE_FEATURES_SEL => core.select_device_features(value),
            reg::DRIVER_FEATURES => core.write_driver_features(value),
            reg::DRIVER_FEATURES_SEL => core.select_driver_features(value),
            reg::QUEUE_SEL => core.select_queue(value),
            reg::QUEUE_SIZE => core.set_queue_size(value),
            reg::QUEUE_READY => core.set_queue_ready(value & 1 != 0),
            reg::STATUS => core.write_status(value),
            reg::QUEUE_DESC_LOW => core.set_queue_address(Descriptors, Low, value),
            reg::QUEUE_DESC_HIGH => core.set_queue_address(Descriptors, High, value),
            reg::QUEUE_DRIVER_LOW => core.set_queue_address(Driver, Low, value),
            reg::QUEUE_DRIVER_HIGH => core.set_queue_address(Driver, High, value),
            reg::QUEUE_DEVICE_LOW => core.set_queue_address(Device, Low, value),
            reg::QUEUE_DEVICE_HIGH => core.set_queue_address(Device, High, value),
            _ => self.metrics.bad_register_writes.inc(),
        }
        show(&core);
    }

    /// The event loop serves the queue, as after a kick through the kernel.
    fn kick(&self, index: u32) {
        match self.kicks.get(index as usize) {
            Some(kick) => {
                self.metrics.register_kicks.inc();
                let _ = kick.write(1);
            }
            None => self.metrics.bad_kicks.inc(),
        }
    }
}

/// Shows the driver what is now behind the registers that depend on what it wrote.
fn show(core: &Core) {
    let page = core.interrupt().page();
    let selected = [
        (reg::DEVICE_FEATURES, core.device_features()),
        (reg::QUEUE_SIZE_MAX, core.max_queue_size().into()),
        (reg::QUEUE_READY, core.queue_ready().into()),
    ];
    for (offset, value) in selected {
        page.register(offset).store(value, Ordering::SeqCst);
    }
    core.show_config();
}
