//! The few devices of a PC that a guest without firmware still wants.
//!
//! ```text
//! serial      16550 on a console, a file or anything that reads and writes
//! console     the console's two threads: output that never holds the guest up, bounded input
//! patient     a stream that waits, however it was opened
//! attach      a client of the console while the guest runs
//! panic_watch knows a kernel's panic message when it goes by
//! terminal    raw mode for a terminal, given back on every way out
//! i8042       keyboard controller: reset, Ctrl-Alt-Del
//! acpi_pm     power off and reset by ACPI
//! power       what these tell the monitor: how the guest ended
//! ```

mod acpi_pm;
mod attach;
mod console;
mod i8042;
mod panic_watch;
mod patient;
mod power;
mod serial;
pub mod terminal;

pub use acpi_pm::AcpiPm;
pub use attach::{Attached, Console};
pub use console::{ConsoleInput, ConsoleMetrics, ConsoleOutput};
pub use i8042::{I8042, I8042Metrics};
pub use patient::Patient;
pub use power::{GuestEnd, Power};
pub use serial::Serial;

use vmm_sys_util::eventfd::EventFd;

/// An interrupt line: an event descriptor that KVM turns into interrupts.
#[derive(Debug)]
pub struct IrqLine(EventFd);

impl IrqLine {
    /// Wraps the descriptor that was given to [`crate::vm::kvm::Vm::connect_irq`].
    pub fn new(event: EventFd) -> Self {
        Self(event)
    }
}

impl vm_superio::Trigger for IrqLine {
    type E = std::io::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.write(1)
    }
}
