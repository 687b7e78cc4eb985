//! A 16550 serial port: vm-superio's registers, with the console around them.
//!
//! Input waits in the reader thread until the driver wants it, so that none is lost:
//!
//! ```text
//! wait ─ receive interrupts on, FIFO empty ─▶ fill FIFO, interrupt ─▶ guest reads until
//!   ▲                                                                  IIR says "nothing more"
//!   └──────────────────────────────────────────────────────────────────────┘
//! ```
//! A driver that opens the port clears it by reading, which would eat a byte that is there before it
//! wants one; so the reader thread starts with the first driver that wants input, and a guest whose
//! start fails has taken none from the terminal. A handler that finds ever more in the FIFO would not end, or fill the guest's buffers
//! before anybody gets to read from them. And as long as there is data, IIR has to say so: the line is
//! edge-triggered, so a handler that is told "nothing" too early is not called again.
//!
//! A driver without interrupts (firmware, a debugger) polls: it reads the line status again and again, with no write
//! between. Linux does so only until the transmitter is empty, which it always is, so after [`POLLS`] such reads the
//! driver wants input.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};

use memsvc::guard::Guard;

use super::console::{ConsoleInput, ConsoleMetrics, ConsoleOutput, read_all};
use super::panic_watch::PanicWatch;
use super::{IrqLine, Power};
use crate::vm::bus::BusDevice;
use vm_superio::serial::NoEvents;

/// Register offsets and bits that decide when input may come.
const DATA: u8 = 0;
const IER: u8 = 1;
const IIR: u8 = 2;
const LCR: u8 = 3;
/// Written: FIFO control.
const FCR: u8 = IIR;
const MCR: u8 = 4;
const LSR: u8 = 5;
const IER_RECEIVE: u8 = 1;
const FCR_ENABLE: u8 = 1;
const FCR_CLEAR_RECEIVER: u8 = 2;
const IIR_NOTHING: u8 = 1;
const IIR_RECEIVED: u8 = 0xC4;
/// Bytes in the FIFO of vm-superio's 16550.
const FIFO: usize = 64;
const LCR_DIVISOR: u8 = 1 << 7;
const MCR_LOOPBACK: u8 = 1 << 4;
/// Reads of the line status in a row that make a driver one that polls.
const POLLS: u8 = 16;

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

struct Port {
    uart: vm_superio::Serial<IrqLine, NoEvents, Transmitter>,
    metrics: Arc<ConsoleMetrics>,
    ier: u8,
    lcr: u8,
    mcr: u8,
    /// The guest has been interrupted for input and has not yet seen that there is no more.
    handling: bool,
    /// Reads of the line status since the last write, at most [`POLLS`].
    polls: u8,
    has_fifo: bool,
    /// Where input comes from, until a reader thread of this name has it.
    source: Option<Source>,
}

/// Input that nobody reads yet, and what its reader needs.
struct Source {
    name: String,
    input: ConsoleInput,
    guard: Guard,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.as_ref().map(|source| &source.name);
        f.debug_struct("Port").field("ier", &self.ier).field("source", &source).finish_non_exhaustive()
    }
}

impl Port {
    fn has_input(&self) -> bool {
        self.uart.fifo_capacity() < FIFO
    }

    fn takes_input(&self) -> bool {
        let wants = if self.ier & IER_RECEIVE != 0 { !self.handling } else { self.polls == POLLS };
        wants && self.mcr & MCR_LOOPBACK == 0 && !self.has_input()
    }

    /// The driver sets the FIFO up. Turning it on or off clears it, as does the bit for that while it is on.
    fn control_fifo(&mut self, value: u8) {
        let enable = value & FCR_ENABLE != 0;
        let turned = std::mem::replace(&mut self.has_fifo, enable) != enable;
        if turned || enable && value & FCR_CLEAR_RECEIVER != 0 {
            // vm-superio does not do it, and hides the FIFO behind the divisor.
            let _ = self.uart.write(LCR, self.lcr & !LCR_DIVISOR);
            for _ in 0..FIFO {
                let _ = self.uart.read(DATA);
            }
            let _ = self.uart.write(LCR, self.lcr);
            self.handling = false;
        }
    }

    /// The driver says which interrupts it wants. The line falls and, where something is pending, rises
    /// anew: a driver that has missed an edge gets another one when it next masks its interrupts for a
    /// moment, as Linux does for each message of its console.
    fn enable(&mut self, interrupts: u8) {
        self.ier = interrupts;
        // vm-superio raises an edge only for what IIR does not tell yet, and reading makes it forget.
        let _ = self.uart.read(IIR);
    }

    /// Reads IIR, which clears what it tells, except that there is input.
    fn read_iir(&mut self) -> u8 {
        let value = self.uart.read(IIR);
        if self.has_input() && self.ier & IER_RECEIVE != 0 {
            return IIR_RECEIVED;
        }
        if value & IIR_NOTHING != 0 {
            self.handling = false;
        }
        value
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
        guard: Guard,
    ) -> Self {
        let metrics = Arc::clone(output.metrics());
        let transmitter = Transmitter { output, watch: PanicWatch::default(), power };
        let uart = vm_superio::Serial::new(irq, transmitter);
        let source = input.map(|input| Source { name: name.to_owned(), input, guard });
        let port = Mutex::new(Port {
            uart,
            metrics,
            ier: 0,
            lcr: 0,
            mcr: 0,
            handling: false,
            polls: 0,
            has_fifo: false,
            source,
        });
        Self { shared: Arc::new(Shared { port, room: Condvar::new() }) }
    }

    /// Starts the reader thread if the driver wants input for the first time.
    fn read_input(&self) {
        let Some(Source { name, input, guard }) = self.shared.take_source() else { return };
        if let Err(error) = self.listen(&name, input, &guard) {
            tracing::error!(%error, "the serial console takes no input: its thread cannot be started");
        }
    }

    /// Starts a reader of this name, whose input goes to the guest as it wants it.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub(super) fn listen(&self, name: &str, input: ConsoleInput, guard: &Guard) -> io::Result<()> {
        let weak = Arc::downgrade(&self.shared);
        read_all(name, input, guard, move |bytes| deliver(&weak, bytes))
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
    fn take_source(&self) -> Option<Source> {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        if port.takes_input() { port.source.take() } else { None }
    }

    fn deliver(&self, mut bytes: &[u8]) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            while !port.takes_input() {
                port = self.room.wait(port).unwrap_or_else(PoisonError::into_inner);
            }
            let (now, later) = bytes.split_at(bytes.len().min(FIFO));
            // It fails when the interrupt cannot be raised, and the bytes are in the FIFO then.
            let _ = port.uart.enqueue_raw_bytes(now);
            port.handling = port.ier & IER_RECEIVE != 0;
            bytes = later;
        }
    }

    fn read(&self, offset: u8) -> u8 {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        if offset == LSR {
            port.polls = POLLS.min(port.polls + 1);
        }
        if offset == DATA && port.lcr & LCR_DIVISOR == 0 && port.has_input() {
            port.metrics.read_bytes.inc();
        }
        let value = if offset == IIR { port.read_iir() } else { port.uart.read(offset) };
        self.signal(&port);
        value
    }

    fn write(&self, offset: u8, value: u8) {
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        port.polls = 0;
        match offset {
            IER if port.lcr & LCR_DIVISOR == 0 => port.enable(value),
            FCR => port.control_fifo(value),
            LCR => port.lcr = value,
            MCR => port.mcr = value,
            _ => {}
        }
        // It fails when an interrupt cannot be raised, which the guest would not learn either.
        if port.uart.write(offset, value).is_err() {
            port.metrics.errors.inc();
        }
        self.signal(&port);
    }

    /// Wakes the reader if the port takes input now.
    fn signal(&self, port: &Port) {
        if port.takes_input() {
            self.room.notify_all();
        }
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for byte in data {
            *byte = self.shared.read(offset as u8);
        }
        if offset as u8 == LSR {
            self.read_input();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for byte in data {
            self.shared.write(offset as u8, *byte);
        }
        if matches!(offset as u8, IER | MCR) {
            self.read_input();
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

    const DATA: u64 = super::DATA as u64;
    const LSR: u64 = super::LSR as u64;
    const FCR: u64 = super::FCR as u64;
    const IER_TRANSMIT: u8 = 2;
    const IIR_CAUSE: u8 = 0x0F;
    const IIR_TRANSMIT: u8 = 2;

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

    fn serial(input: Option<ConsoleInput>, power: &Arc<Power>) -> (Serial, EventFd, ConsoleOutput, Sink) {
        let sink = Sink::default();
        let guard = Guard::new(|why| panic!("{why}"));
        let output = ConsoleOutput::new("test", Box::new(sink.clone()), None, &guard).unwrap();
        let irq = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let line = IrqLine::new(irq.try_clone().unwrap());
        let serial = Serial::new("test", line, output.clone(), input, Arc::clone(power), guard);
        (serial, irq, output, sink)
    }

    fn get(serial: &mut Serial, offset: u64) -> u8 {
        let mut byte = [0];
        serial.read(offset, &mut byte);
        byte[0]
    }

    /// What Linux's handler does once interrupted: 256 bytes at most, again until IIR is quiet.
    fn handle(serial: &mut Serial, got: &mut Vec<u8>) {
        while get(serial, IIR.into()) & IIR_NOTHING == 0 {
            for _ in 0..256 {
                if get(serial, LSR) & 1 == 0 {
                    break;
                }
                got.push(get(serial, DATA));
            }
        }
    }

    /// Far more than the FIFO holds comes through whole and in order, to a driver that first clears
    /// the port by reading, as Linux does, masks its interrupts for console output now and then, and
    /// reads nothing without an interrupt.
    #[test]
    fn no_input_is_lost() {
        let text: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let power = Arc::new(Power::new(|_| {}));
        let (mut serial, irq, output, _) = serial(Some(Box::new(Cursor::new(text.clone()))), &power);
        std::thread::sleep(Duration::from_millis(20));
        get(&mut serial, DATA);
        serial.write(IER.into(), &[IER_RECEIVE]);
        let mut got = Vec::new();
        let mut idle = std::time::Instant::now();
        while got.len() < text.len() {
            if irq.read().is_ok() {
                handle(&mut serial, &mut got);
                idle = std::time::Instant::now();
                if got.len() % 3 == 0 {
                    serial.write(IER.into(), &[0]);
                    serial.write(IER.into(), &[IER_RECEIVE]);
                }
            }
            assert!(idle.elapsed() < Duration::from_secs(60), "no interrupt after {} bytes", got.len());
        }
        assert!(got == text);
        assert_eq!(output.metrics().read_bytes.get(), text.len() as u64);
    }

    /// A driver that never wants an interrupt gets what it polls for.
    #[test]
    fn who_polls_gets_input() {
        let text: Vec<u8> = (0..1000u32).map(|i| (i % 251) as u8).collect();
        let power = Arc::new(Power::new(|_| {}));
        let (mut serial, irq, _, _) = serial(Some(Box::new(Cursor::new(text.clone()))), &power);
        let mut got = Vec::new();
        let start = std::time::Instant::now();
        while got.len() < text.len() {
            if get(&mut serial, LSR) & 1 != 0 {
                got.push(get(&mut serial, DATA));
            }
            assert!(start.elapsed() < Duration::from_secs(60), "no input after {} bytes", got.len());
        }
        assert!(got == text);
        assert!(irq.read().is_err(), "it wanted none");
    }

    /// A console that waits for the transmitter before each byte, and clears the port when its driver starts, takes no
    /// byte that is there before.
    #[test]
    fn who_only_writes_takes_no_input() {
        let power = Arc::new(Power::new(|_| {}));
        let (mut serial, _, _, _) = serial(Some(Box::new(Cursor::new(b"typed ahead".to_vec()))), &power);
        for _ in 0..1000 {
            get(&mut serial, LSR);
            get(&mut serial, LSR);
            serial.write(DATA, b"x");
        }
        let port = serial.shared.port.lock().unwrap();
        assert!(port.source.is_some() && !port.has_input(), "input waits for who wants it");
    }

    #[test]
    fn the_fifo_is_cleared_when_the_driver_says_so() {
        let power = Arc::new(Power::new(|_| {}));
        let (mut serial, _, _, _) = serial(None, &power);
        serial.write(IER.into(), &[IER_RECEIVE]);
        for (before, clear) in [(0, 1), (1, 3), (1, 0), (0, 1)] {
            serial.write(FCR, &[before]);
            serial.send(b"old");
            assert_eq!(get(&mut serial, LSR) & 1, 1);
            serial.write(LCR.into(), &[LCR_DIVISOR]);
            serial.write(FCR, &[clear]);
            serial.write(LCR.into(), &[0]);
            assert_eq!(get(&mut serial, LSR) & 1, 0, "{before} {clear}");
            assert_eq!(get(&mut serial, IIR.into()) & IIR_NOTHING, IIR_NOTHING);
        }
        serial.send(b"new");
        serial.write(FCR, &[1]);
        assert_eq!(get(&mut serial, DATA), b'n', "what is on already is not turned on, and clears nothing");
    }

    /// A lost edge (KVM's irqfd, or a host that emulates it, may lose one) does not stop the transmitter or
    /// the receiver for ever: each mask and unmask of the interrupts raises it again.
    #[test]
    fn a_lost_edge_comes_again_with_the_next_unmask() {
        let power = Arc::new(Power::new(|_| {}));
        let (mut serial, irq, _, _) = serial(None, &power);
        let edge = |irq: &EventFd| irq.read().is_ok();
        serial.write(IER.into(), &[IER_TRANSMIT]);
        serial.write(DATA, b"lost");
        assert!(edge(&irq));
        serial.write(IER.into(), &[0]);
        assert!(!edge(&irq), "nothing is enabled");
        serial.write(IER.into(), &[IER_TRANSMIT]);
        assert!(edge(&irq), "the transmitter is empty");
        assert_eq!(get(&mut serial, IIR.into()) & IIR_CAUSE, IIR_TRANSMIT);

        serial.write(IER.into(), &[IER_RECEIVE]);
        serial.send(b"x");
        assert!(edge(&irq));
        serial.write(IER.into(), &[0]);
        serial.write(IER.into(), &[IER_RECEIVE]);
        assert!(edge(&irq), "there is input");
        assert_eq!(get(&mut serial, DATA), b'x');
    }

    #[test]
    fn output_comes_out_and_a_panic_explains_the_reset() {
        let (sender, ends) = mpsc::channel();
        let power = Arc::new(Power::new(move |end| sender.send(end).unwrap()));
        let (mut serial, _irq, output, sink) = serial(None, &power);
        power.reset();
        serial.write(DATA, b"[ 1.0] Kernel panic - not syncing: no init\r\n");
        power.reset();
        output.drain(Duration::from_secs(10));
        assert_eq!(*sink.0.lock().unwrap(), b"[ 1.0] Kernel panic - not syncing: no init\r\n");
        assert_eq!((output.metrics().written_bytes.get(), output.metrics().errors.get()), (44, 0));
        let ends: Vec<_> = ends.try_iter().collect();
        assert_eq!(ends, [GuestEnd::Reset, GuestEnd::Panic("no init".into())]);
    }
}
