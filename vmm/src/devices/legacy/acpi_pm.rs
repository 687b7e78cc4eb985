//! Power control of the hardware-reduced ACPI platform (ACPI 6.5, 4.8.3.7 and 4.8.3.6).
//!
//! ```text
//! +0 sleep control   bits 4:2 sleep type, bit 5 sleep enable: S5 powers off
//! +1 sleep status    bit 7 wake status: never set, as nothing wakes
//! +2 reset           the value that the FADT names resets
//! ```

use std::sync::Arc;

use super::Power;
use crate::arch::acpi::{RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_TYPE_S5};
use crate::vm::bus::BusDevice;

const SLEEP_ENABLE: u8 = 1 << 5;

/// The device; three byte ports.
#[derive(Debug)]
pub struct AcpiPm {
    power: Arc<Power>,
}

impl AcpiPm {
    /// Tells `power`.
    pub fn new(power: Arc<Power>) -> Self {
        Self { power }
    }
}

impl BusDevice for AcpiPm {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        if offset == u64::from(SLEEP_CONTROL) {
            let sleep_type = value >> 2 & 7;
            if value & SLEEP_ENABLE != 0 && sleep_type == SLEEP_TYPE_S5 {
                self.power.power_off();
            }
        } else if offset == u64::from(RESET) && value == RESET_VALUE {
            self.power.reset();
        }
    }
}
