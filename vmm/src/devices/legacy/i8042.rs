//! Keyboard controller with a keyboard that answers, and no mouse.
//!
//! A guest resets itself by 0xFE to the command port. For Ctrl-Alt-Del there has to be a keyboard
//! that Linux's driver finds; each command gets its answer at once, because the driver waits half a
//! second for one that does not come.
//!
//! ```text
//! port 0x60 (+0)  data: read answers and scan codes, write arguments or keyboard commands
//! port 0x64 (+4)  read status: bit 0 output full, bit 3 last write was a command
//!                 write command
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use vm_superio::Trigger;

use super::{IrqLine, Power};
use crate::devices::virtio::Counter;
use crate::vm::bus::BusDevice;

const DATA: u64 = 0;
const COMMAND: u64 = 4;

const STATUS_OUTPUT_FULL: u8 = 1;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
/// The keyboard's lock is open.
const STATUS_UNLOCKED: u8 = 1 << 4;

const CONTROL_KEYBOARD_IRQ: u8 = 1;
const CONTROL_SYSTEM: u8 = 1 << 2;
const CONTROL_KEYBOARD_OFF: u8 = 1 << 4;
const CONTROL_AUX_OFF: u8 = 1 << 5;

const ACK: u8 = 0xFA;
/// Answers that wait at most; scan codes beyond are dropped.
const BUFFER: usize = 32;

/// Scan codes (set 2) of Ctrl, Alt and Del going down, then up.
const CTRL_ALT_DEL: [u8; 11] = [0x14, 0x11, 0xE0, 0x71, 0xE0, 0xF0, 0x71, 0xF0, 0x11, 0xF0, 0x14];
/// The same in set 1, which the controller turns them into if the guest asks for translation.
const CTRL_ALT_DEL_SET1: [u8; 8] = [0x1D, 0x38, 0xE0, 0x53, 0xE0, 0xD3, 0xB8, 0x9D];
const CONTROL_TRANSLATE: u8 = 1 << 6;

/// The next byte at the data port is an argument of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    KeyboardCommand,
    Control,
    OutputPort,
    /// To be put into the output buffer.
    Loop,
    /// Of a keyboard command with one argument.
    KeyboardArgument,
    Ignored,
}

/// Counters of the controller.
#[derive(Debug, Default, serde::Serialize)]
pub struct I8042Metrics {
    /// Reads of its ports.
    pub reads: Counter,
    /// Writes to its ports.
    pub writes: Counter,
    /// Reads of ports between them.
    pub missed_reads: Counter,
    /// Writes to ports between them.
    pub missed_writes: Counter,
    /// Resets that the guest asked for.
    pub resets: Counter,
    /// Interrupts that could not be raised.
    pub errors: Counter,
}

/// The device; ports 0x60 and 0x64.
#[derive(Debug)]
pub struct I8042 {
    metrics: Arc<I8042Metrics>,
    power: Arc<Power>,
    irq: IrqLine,
    control: u8,
    status: u8,
    expects: Expects,
    output: VecDeque<u8>,
}

impl I8042 {
    /// Resets go to `power`, scan codes raise `irq`.
    pub fn new(power: Arc<Power>, irq: IrqLine) -> Self {
        Self {
            metrics: Arc::default(),
            power,
            irq,
            control: CONTROL_KEYBOARD_IRQ | CONTROL_SYSTEM | CONTROL_AUX_OFF | CONTROL_TRANSLATE,
            status: STATUS_SYSTEM | STATUS_UNLOCKED,
            expects: Expects::KeyboardCommand,
            output: VecDeque::new(),
        }
    }

    /// Its counters.
    pub fn metrics(&self) -> &Arc<I8042Metrics> {
        &self.metrics
    }

    fn reset(&self) {
        self.metrics.resets.inc();
        self.power.reset();
    }

    /// Presses Ctrl-Alt-Del. `false` if the guest has the keyboard off or does not read it.
    pub fn ctrl_alt_del(&mut self) -> bool {
        if self.control & CONTROL_KEYBOARD_OFF != 0 || !self.output.is_empty() {
            return false;
        }
        let translated = self.control & CONTROL_TRANSLATE != 0;
        let codes = if translated { &CTRL_ALT_DEL_SET1[..] } else { &CTRL_ALT_DEL[..] };
        self.put(codes);
        true
    }

    fn put(&mut self, bytes: &[u8]) {
        let room = BUFFER - self.output.len().min(BUFFER);
        self.output.extend(bytes.iter().take(room));
        self.interrupt();
    }

    /// Raises the line if there is something to read and the guest wants to be told.
    fn interrupt(&self) {
        if !self.output.is_empty() && self.control & CONTROL_KEYBOARD_IRQ != 0 {
            // It fails only if the line is gone, and the guest with it.
            if self.irq.trigger().is_err() {
                self.metrics.errors.inc();
            }
        }
    }

    fn command(&mut self, command: u8) {
        self.status |= STATUS_COMMAND;
        self.expects = Expects::KeyboardCommand;
        match command {
            0x20 => self.put(&[self.control]),
            0x60 => self.expects = Expects::Control,
            0xA7 => self.control |= CONTROL_AUX_OFF,
            // There is no mouse port: it cannot be turned on, and its test fails.
            0xA8 => {}
            0xA9 => self.put(&[0xFF]),
            0xAA => self.put(&[0x55]),
            0xAB => self.put(&[0x00]),
            0xAD => self.control |= CONTROL_KEYBOARD_OFF,
            0xAE => {
                self.control &= !CONTROL_KEYBOARD_OFF;
                self.interrupt();
            }
            0xD0 => self.put(&[0x03]),
            0xD1 => self.expects = Expects::OutputPort,
            0xD2 => self.expects = Expects::Loop,
            0xD3 | 0xD4 => self.expects = Expects::Ignored,
            0xFE => self.reset(),
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        self.status &= !STATUS_COMMAND;
        match std::mem::replace(&mut self.expects, Expects::KeyboardCommand) {
            Expects::Control => {
                self.control = value | CONTROL_AUX_OFF;
                self.interrupt();
            }
            // Bit 0 is the reset line, low active.
            Expects::OutputPort if value & 1 == 0 => self.reset(),
            Expects::OutputPort | Expects::Ignored => {}
            Expects::Loop => self.put(&[value]),
            Expects::KeyboardArgument => self.put(&[ACK]),
            Expects::KeyboardCommand => self.keyboard(value),
        }
    }

    /// A command to the keyboard itself.
    fn keyboard(&mut self, command: u8) {
        match command {
            // Lights, scan code set, repeat rate: an argument follows.
            0xED | 0xF0 | 0xF3 => {
                self.expects = Expects::KeyboardArgument;
                self.put(&[ACK]);
            }
            0xEE => self.put(&[0xEE]),
            // An MF2 keyboard's identity; behind translation its second byte reads as 0x41.
            0xF2 if self.control & CONTROL_TRANSLATE != 0 => self.put(&[ACK, 0xAB, 0x41]),
            0xF2 => self.put(&[ACK, 0xAB, 0x83]),
            0xFF => self.put(&[ACK, 0xAA]),
            _ => self.put(&[ACK]),
        }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let [value] = data else { return };
        match offset {
            DATA => {
                *value = self.output.pop_front().unwrap_or(0);
                self.interrupt();
            }
            COMMAND => {
                let full = if self.output.is_empty() { 0 } else { STATUS_OUTPUT_FULL };
                *value = self.status | full;
            }
            _ => {
                *value = 0xFF;
                return self.metrics.missed_reads.inc();
            }
        }
        self.metrics.reads.inc();
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        match offset {
            DATA => self.data(value),
            COMMAND => self.command(value),
            _ => return self.metrics.missed_writes.inc(),
        }
        self.metrics.writes.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::legacy::GuestEnd;
    use std::sync::mpsc;
    use vmm_sys_util::eventfd::EventFd;

    fn controller() -> (I8042, mpsc::Receiver<GuestEnd>) {
        let (sender, ends) = mpsc::channel();
        let power = Arc::new(Power::new(move |end| sender.send(end).unwrap()));
        (I8042::new(power, IrqLine::new(EventFd::new(0).unwrap())), ends)
    }

    fn drain(c: &mut I8042) -> Vec<u8> {
        let mut got = Vec::new();
        let mut byte = [0];
        loop {
            c.read(COMMAND, &mut byte);
            if byte[0] & STATUS_OUTPUT_FULL == 0 {
                return got;
            }
            c.read(DATA, &mut byte);
            got.push(byte[0]);
        }
    }

    #[test]
    fn both_ways_to_reset_work() {
        let (mut c, ends) = controller();
        c.write(COMMAND, &[0xFE]);
        c.write(COMMAND, &[0xD1]);
        c.write(DATA, &[0x02]);
        assert_eq!(ends.try_iter().count(), 2);
        c.write(1, &[0]);
        c.read(1, &mut [0]);
        c.read(COMMAND, &mut [0]);
        let counts = serde_json::to_value(&**c.metrics()).expect("JSON");
        let expected = serde_json::json!({"reads": 1, "writes": 3, "missed_reads": 1, "missed_writes": 1, "resets": 2, "errors": 0});
        assert_eq!(counts, expected);
    }

    #[test]
    fn the_driver_gets_an_answer_to_each_question() {
        let (mut c, _ends) = controller();
        for (command, answer) in [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0xFF)] {
            c.write(COMMAND, &[command]);
            assert_eq!(drain(&mut c), [answer]);
        }
        c.write(COMMAND, &[0x60]);
        c.write(DATA, &[0x05]);
        c.write(COMMAND, &[0x20]);
        assert_eq!(drain(&mut c), [0x05 | CONTROL_AUX_OFF]);
        c.write(DATA, &[0xF2]);
        assert_eq!(drain(&mut c), [ACK, 0xAB, 0x83]);
        c.write(DATA, &[0xED]);
        c.write(DATA, &[0x07]);
        assert_eq!(drain(&mut c), [ACK, ACK]);
    }

    #[test]
    fn a_guest_that_does_not_read_costs_no_memory() {
        let (mut c, _ends) = controller();
        for _ in 0..10_000 {
            c.write(DATA, &[0xFF]);
        }
        assert_eq!(drain(&mut c).len(), BUFFER);
        assert!(c.ctrl_alt_del());
        assert!(!c.ctrl_alt_del());
        assert_eq!(drain(&mut c), CTRL_ALT_DEL_SET1);
    }
}
