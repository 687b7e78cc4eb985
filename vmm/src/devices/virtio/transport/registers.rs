//! Registers that a driver reads, as a page that it reads without leaving the guest.
//!
//! KVM shows the page at the device's window, read-only: a read is one of memory, a write is an exit (or an event of
//! the kernel's) as ever. A driver reads the interrupt status at each interrupt; that is the read that counts.
//!
//! So every register has its value here before the guest can ask for it: the transport writes what depends on the
//! driver's writes after each of them, [`Interrupt`](crate::devices::virtio::Interrupt) what a live device says unasked.
//! What changes while no driver is ready (a balloon's target) shows at the driver's next write, `DRIVER_OK` at the latest.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::arch::layout::MMIO_LEN;
use crate::devices::virtio::ConfigBytes;

/// Register offsets (section 4.2.2).
pub(in super::super) mod reg {
    pub(crate) const MAGIC: u64 = 0x000;
    pub(crate) const VERSION: u64 = 0x004;
    pub(crate) const DEVICE_ID: u64 = 0x008;
    pub(crate) const VENDOR_ID: u64 = 0x00c;
    pub(crate) const DEVICE_FEATURES: u64 = 0x010;
    pub(crate) const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub(crate) const DRIVER_FEATURES: u64 = 0x020;
    pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub(crate) const QUEUE_SEL: u64 = 0x030;
    pub(crate) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(crate) const QUEUE_SIZE: u64 = 0x038;
    pub(crate) const QUEUE_READY: u64 = 0x044;
    pub(crate) const QUEUE_NOTIFY: u64 = 0x050;
    pub(crate) const INTERRUPT_STATUS: u64 = 0x060;
    pub(crate) const INTERRUPT_ACK: u64 = 0x064;
    pub(crate) const STATUS: u64 = 0x070;
    pub(crate) const QUEUE_DESC_LOW: u64 = 0x080;
    pub(crate) const QUEUE_DESC_HIGH: u64 = 0x084;
    pub(crate) const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub(crate) const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub(crate) const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub(crate) const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub(crate) const SHM_SEL: u64 = 0x0ac;
    pub(crate) const SHM_LEN_LOW: u64 = 0x0b0;
    pub(crate) const SHM_BASE_HIGH: u64 = 0x0bc;
    pub(crate) const CONFIG_GENERATION: u64 = 0x0fc;
    pub(crate) const CONFIG: u64 = 0x100;
}

const WORDS: usize = MMIO_LEN as usize / size_of::<u32>();

/// The page: little-endian words, as x86 has them. Aligned and a whole page, so that nothing else is shown with it.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct RegisterPage([AtomicU32; WORDS]);

impl RegisterPage {
    /// All registers zero.
    pub fn new() -> Self {
        Self([const { AtomicU32::new(0) }; WORDS])
    }

    /// The register at `offset`, below [`MMIO_LEN`].
    ///
    /// # Panics
    /// If it is not.
    pub fn register(&self, offset: u64) -> &AtomicU32 {
        &self.0[offset as usize / size_of::<u32>()]
    }

    /// Shows a configuration space. Its words change one by one: a device whose space changes while its driver runs has
    /// fields of 32 bits.
    pub fn show_config(&self, space: &ConfigBytes) {
        for (offset, word) in (reg::CONFIG..).step_by(4).zip(space.as_chunks().0) {
            self.register(offset).store(u32::from_le_bytes(*word), Ordering::SeqCst);
        }
    }

    /// Reads as the guest does: any bytes, zero where there is no register.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (offset..MMIO_LEN).zip(data) {
            let word = self.register(at).load(Ordering::SeqCst).to_le_bytes();
            *byte = word[(at % 4) as usize];
        }
    }
}

impl Default for RegisterPage {
    fn default() -> Self {
        Self::new()
    }
}
