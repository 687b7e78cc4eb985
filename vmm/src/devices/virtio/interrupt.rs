//! A device's words to its driver, unasked: buffers used, configuration changed, reset needed.
//!
//! The status register, the interrupt status and the configuration's generation are where the driver reads them, in the
//! device's page of registers: atomics shared by all threads and the guest, so that a vCPU that reads or acknowledges
//! an interrupt never waits for a queue that is being served.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::ConfigBytes;
use super::seen::Seen;
use super::transport::{RegisterPage, TransportMetrics, reg};

/// Bits of the device status register (section 2.1).
pub struct Status;

impl Status {
    /// The guest has seen the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up and may use the queues.
    pub const DRIVER_OK: u32 = 4;
    /// Features are agreed upon.
    pub const FEATURES_OK: u32 = 8;
    /// The device cannot go on until it is reset.
    pub const NEEDS_RESET: u32 = 64;
    /// The guest has given up on the device.
    pub const FAILED: u32 = 128;
}

/// Interrupt status bit: the configuration changed, or the device needs a reset.
const CONFIG_CHANGE: u32 = 2;

/// The interrupt line of one device, with its status registers.
#[derive(Debug)]
pub struct Interrupt {
    irq: EventFd,
    page: Arc<RegisterPage>,
    seen: Seen,
    metrics: Arc<TransportMetrics>,
}

impl Interrupt {
    /// Interrupt status bit: a queue has used buffers (section 4.2.2, InterruptStatus).
    pub const USED_BUFFER: u32 = 1;

    /// A quiet line that counts its interrupts. Fails where the process may open no more files.
    pub fn new(metrics: Arc<TransportMetrics>) -> io::Result<Self> {
        Ok(Self { irq: EventFd::new(EFD_NONBLOCK)?, page: Arc::default(), seen: Seen::new()?, metrics })
    }

    /// The registers that the driver reads.
    pub fn page(&self) -> &Arc<RegisterPage> {
        &self.page
    }

    /// The event to register as irqfd; edge-triggered.
    pub fn irq(&self) -> &EventFd {
        &self.irq
    }

    /// How the driver acknowledges used buffers without leaving the kernel.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Tells the driver that buffers were used. The caller holds the device's lock.
    pub fn used_buffers(&self) {
        self.seen.forget();
        self.raise(Self::USED_BUFFER);
        self.seen.look_soon();
    }

    /// Clears the bit of used buffers if the driver has acknowledged them to the kernel; `false` if it is still to be
    /// acknowledged. The caller holds the device's lock.
    pub fn settle(&self) -> bool {
        if self.seen.take() {
            self.acknowledge(Self::USED_BUFFER);
        }
        let is_settled = self.register(reg::INTERRUPT_STATUS).load(Ordering::SeqCst) & Self::USED_BUFFER == 0;
        if is_settled {
            self.seen.is_settled();
        }
        is_settled
    }

    /// Tells the driver that the configuration space is now `space`. Before the driver is ready it only
    /// moves the generation on: section 3.1 allows no interrupt yet. The caller holds the device's lock.
    pub fn config_changed(&self, space: &ConfigBytes) {
        self.page.show_config(space);
        self.register(reg::CONFIG_GENERATION).fetch_add(1, Ordering::SeqCst);
        if self.status() & Status::DRIVER_OK != 0 {
            self.raise(CONFIG_CHANGE);
        }
    }

    /// Puts the device into the state that only a reset ends (section 2.1.2). The caller holds the
    /// device's lock, or the driver is not running yet, so no reset can come in between.
    pub fn needs_reset(&self) {
        let before = self.register(reg::STATUS).fetch_or(Status::NEEDS_RESET, Ordering::SeqCst);
        if before & Status::DRIVER_OK != 0 {
            self.raise(CONFIG_CHANGE);
        }
    }

    /// Whether queues may be served: the driver is ready and no reset is due.
    pub fn is_running(&self) -> bool {
        self.status() & (Status::DRIVER_OK | Status::NEEDS_RESET) == Status::DRIVER_OK
    }

    /// The status register.
    pub fn status(&self) -> u32 {
        self.register(reg::STATUS).load(Ordering::SeqCst)
    }

    /// The driver has seen these bits of the interrupt status.
    pub fn acknowledge(&self, bits: u32) {
        self.register(reg::INTERRUPT_STATUS).fetch_and(!bits, Ordering::SeqCst);
    }

    /// Adds what the driver set; what the device set stays.
    pub(super) fn add_status(&self, bits: u32) {
        self.register(reg::STATUS).fetch_or(bits, Ordering::SeqCst);
    }

    /// Back to the state after power-on. The generation goes on counting.
    pub(super) fn reset(&self) {
        self.register(reg::STATUS).store(0, Ordering::SeqCst);
        self.seen.forget();
        self.register(reg::INTERRUPT_STATUS).store(0, Ordering::SeqCst);
    }

    fn raise(&self, bit: u32) {
        self.register(reg::INTERRUPT_STATUS).fetch_or(bit, Ordering::SeqCst);
        self.metrics.interrupts.inc();
        // Fails only when the counter is full, and then the interrupt is on its way anyhow.
        let _ = self.irq.write(1);
    }

    fn register(&self, offset: u64) -> &AtomicU32 {
        self.page.register(offset)
    }
}
