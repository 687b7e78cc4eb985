//! A 16550 serial port: vm-superio's registers, with the console around them.
//!
//! Input waits in the reader thread until the driver wants it. A driver that opens the port clears
//! it by reading, which eats a byte if one is there; so bytes go into the FIFO only while the guest
//! has receive interrupts enabled, and only as many as fit.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use super::console::{ConsoleInput, ConsoleOutput, read_all};
use super::panic_watch::PanicWatch;
use super::{IrqLine, Power};
use crate::vm::bus::BusDevice;
use vm_superio::serial::NoEvents;

/// Register offsets and bits that decide when input may come.
const IER: u8 = 1;
const LCR: u8 = 3;
const MCR: u8 = 4;
const IER_RECEIVE: u8 = 1;
const LCR_DIVISOR: u8 = 1 << 7;
const MCR_LOOPBACK: u8 = 1 << 4;

/// The device; eight byte ports. Clones are the same device.
#[derive(Clone, Debug)]
pub struct Serial {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    port: Mutex<Port>,
    /// The port may take input again.
    room: Condvar,
}

#[derive(Debug)]
struct Port {
    uart: vm_superio::Serial<IrqLine, NoEvents, Transmitter>,
    ier: u8,
    lcr: u8,
    mcr: u8,
}

impl Port {
    fn takes_input(&self) -> bool {
        self.ier & IER_RECEIVE != 0 && self.mcr & MCR_LOOPBACK == 0 && self.uart.fifo_capacity() > 0
    }
}

impl Serial {
    /// A port with its line and console. `name` names the reader's thread.
    pub fn new(
        name: &str,
        irq: IrqLine,
        output: ConsoleOutput,
        input: Option<ConsoleInput>,
        power: Arc<Power>,
    ) -> io::Result<Self> {
        let transmitter = Transmitter { output, watch: PanicWatch::default(), power };
        let uart = vm_superio::Serial::new(irq, transmitter);
        let port = Mutex::new(Port { uart, ier: 0, lcr: 0, mcr: 0 });
        let shared = Arc::new(Shared { port, room: Condvar::new() });
        if let Some(input) = input {
            let weak = Arc::downgrade(&shared);
            read_all(name, input, move |bytes| deliver(&weak, bytes))?;
        }
        Ok(Self { shared })
    }

    /// Hands bytes to the guest as if they came over the line; waits until it has taken them.
    pub fn send(&self, bytes: &[u8]) {
        self.shared.deliver(bytes);
    }
}

/// For the reader thread: `false` when the port is gone.
fn deliver(shared: &Weak<Shared>, bytes: &[u8]) -> bool {
    shared.upgrade().map(|shared| shared.deliver(bytes)).is_some()
}

impl Shared {
    fn deliver(&self, mut bytes: &[u8]) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            while !port.takes_input() {
                port = self.room.wait(port).unwrap_or_else(PoisonError::into_inner);
            }
            // It fails when the interrupt cannot be raised: the bytes are in the FIFO then, and
            // when it is full, which was just checked.
            let taken = match port.uart.enqueue_raw_bytes(bytes) {
                Ok(taken) => taken,
                Err(_) => bytes.len(),
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    fn read(&self, offset: u8) -> u8 {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let value = port.uart.read(offset);
        self.signal(&port);
        value
    }

    fn write(&self, offset: u8, value: u8) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        match offset {
            IER if port.lcr & LCR_DIVISOR == 0 => port.ier = value,
            LCR => port.lcr = value,
            MCR => port.mcr = value,
            _ => {}
        }
        // It fails when an interrupt cannot be raised, which the guest would not learn either.
        let _ = port.uart.write(offset, value);
        self.signal(&port);
    }

    /// Wakes the reader once half of the FIFO is free, which saves waking it for every byte.
    fn signal(&self, port: &Port) {
        if port.takes_input() && port.uart.fifo_capacity() >= 32 {
            self.room.notify_all();
        }
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for byte in data {
            *byte = self.shared.read(offset as u8);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // More than one byte is a string instruction, which writes one register again and again.
        for byte in data {
            self.shared.write(offset as u8, *byte);
        }
    }
}

/// What the guest transmits: watched, then queued.
#[derive(Debug)]
struct Transmitter {
    output: ConsoleOutput,
    watch: PanicWatch,
    power: Arc<Power>,
}

impl Write for Transmitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.output.push(*byte);
            if let Some(message) = self.watch.next(*byte) {
                self.power.panicked(message);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::legacy::GuestEnd;
    use std::io::Cursor;
    use std::sync::mpsc;
    use std::time::Duration;
    use vmm_sys_util::eventfd::EventFd;

    const DATA: u64 = 0;
    const LSR: u64 = 5;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn serial(input: Option<ConsoleInput>, power: &Arc<Power>) -> (Serial, ConsoleOutput, Sink) {
        let sink = Sink::default();
        let output = ConsoleOutput::new("test", Box::new(sink.clone())).unwrap();
        let irq = IrqLine::new(EventFd::new(0).unwrap());
        let power = Arc::clone(power);
        let serial = Serial::new("test", irq, output.clone(), input, power).unwrap();
        (serial, output, sink)
    }

    fn get(serial: &mut Serial, offset: u64) -> u8 {
        let mut byte = [0];
        serial.read(offset, &mut byte);
        byte[0]
    }

    /// Far more than the FIFO holds comes through whole and in order, with a driver that first eats
    /// what is there, as Linux does, and masks its interrupts now and then.
    #[test]
    fn no_input_is_lost() {
        let text: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let power = Arc::new(Power::new(|_| {}));
        let (mut serial, _, _) = serial(Some(Box::new(Cursor::new(text.clone()))), &power);
        std::thread::sleep(Duration::from_millis(20));
        get(&mut serial, DATA);
        let mut got = Vec::new();
        while got.len() < text.len() {
            serial.write(IER.into(), &[IER_RECEIVE]);
            for _ in 0..100 {
                if get(&mut serial, LSR) & 1 != 0 {
                    got.push(get(&mut serial, DATA));
                } else {
                    std::thread::yield_now();
                }
            }
            serial.write(IER.into(), &[0]);
            while get(&mut serial, LSR) & 1 != 0 {
                got.push(get(&mut serial, DATA));
            }
        }
        assert!(got == text);
    }

    #[test]
    fn output_comes_out_and_a_panic_explains_the_reset() {
        let (sender, ends) = mpsc::channel();
        let power = Arc::new(Power::new(move |end| sender.send(end).unwrap()));
        let (mut serial, output, sink) = serial(None, &power);
        power.reset();
        serial.write(DATA, b"[ 1.0] Kernel panic - not syncing: no init\r\n");
        power.reset();
        output.drain(Duration::from_secs(10));
        assert_eq!(*sink.0.lock().unwrap(), b"[ 1.0] Kernel panic - not syncing: no init\r\n");
        let ends: Vec<_> = ends.try_iter().collect();
        assert_eq!(ends, [GuestEnd::Reset, GuestEnd::Panic("no init".into())]);
    }
}
