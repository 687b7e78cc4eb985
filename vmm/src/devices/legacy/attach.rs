//! A second way to the serial console while the guest runs: one client at a time hears what the guest says, and types.
//!
//! ```text
//! guest ─ byte ─┬▶ [queue] ─▶ writer ─▶ standard output or file, as ever
//!               └▶ [queue] ─▶ writer ─▶ socket ─▶ client        while one is attached
//! guest ◀─ FIFO ◀┬─ reader ◀─ standard input, as ever
//!                └─ reader ◀─ socket ◀─ client                  from the first client on
//! ```
//! Each way has its own bounded queue, so a client that does not read loses output, and neither the guest nor the
//! standard output waits for it.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use memsvc::guard::Guard;

use super::console::Listening;
use super::{ConsoleOutput, Serial};

/// The console of a guest, for those who want to attach to it.
#[derive(Debug)]
pub struct Console {
    output: ConsoleOutput,
    serial: Serial,
    guard: Guard,
    /// Where clients type, once there was one: all after one another, so that bytes of one that has gone come first.
    keys: Mutex<Option<UnixStream>>,
}

/// A client's two streams; dropping this detaches it.
#[derive(Debug)]
pub struct Attached {
    /// The guest's output is read here.
    pub output: UnixStream,
    /// Bytes that are written here are typed; nothing can be read.
    pub keys: UnixStream,
    _listening: Option<Listening>,
}

impl Console {
    /// The console that `serial` transmits to by `output`.
    pub fn new(output: ConsoleOutput, serial: Serial, guard: Guard) -> Self {
        Self { output, serial, guard, keys: Mutex::new(None) }
    }

    /// Attaches a client; `None` if another one is there.
    ///
    /// # Errors
    /// The host has no sockets or threads for it.
    pub fn attach(&self) -> io::Result<Option<Attached>> {
        let (output, sink) = UnixStream::pair()?;
        let listener = ConsoleOutput::new("console", Box::new(sink), None, &self.guard)?;
        let Some(listening) = self.output.listen(listener) else { return Ok(None) };
        Ok(Some(Attached { output, keys: self.keys()?, _listening: Some(listening) }))
    }

    fn keys(&self) -> io::Result<UnixStream> {
        match &mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(keys) => keys.try_clone(),
            none => {
                let (write, read) = UnixStream::pair()?;
                self.serial.listen("console", Box::new(read), &self.guard)?;
                none.insert(write).try_clone()
            }
        }
    }
}

impl Attached {
    /// Streams that lead to no console.
    #[cfg(test)]
    pub(crate) fn to(output: UnixStream, keys: UnixStream) -> Self {
        Self { output, keys, _listening: None }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use vmm_sys_util::eventfd::EventFd;

    use super::super::{IrqLine, Power};
    use super::*;
    use crate::vm::bus::BusDevice;

    const PATIENCE: Duration = Duration::from_secs(60);
    const DATA: u64 = 0;
    const IER: u64 = 1;
    const LSR: u64 = 5;
    const RECEIVE: u8 = 1;

    fn console() -> (Console, Serial, UnixStream) {
        let guard = Guard::new(|why| panic!("{why}"));
        let (stdout, sink) = UnixStream::pair().unwrap();
        let output = ConsoleOutput::new("test", Box::new(sink), None, &guard).unwrap();
        let line = IrqLine::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let power = Arc::new(Power::new(|_| {}));
        let serial = Serial::new("test", line, output.clone(), None, power, guard.clone());
        stdout.set_read_timeout(Some(PATIENCE)).unwrap();
        (Console::new(output, serial.clone(), guard), serial, stdout)
    }

    fn attach(console: &Console) -> Attached {
        let attached = console.attach().unwrap().expect("nobody else is attached");
        attached.output.set_read_timeout(Some(PATIENCE)).unwrap();
        attached
    }

    fn read(mut stream: &UnixStream, count: usize) -> String {
        let mut bytes = vec![0; count];
        stream.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// The guest's driver reads a byte, once there is one.
    fn receive(serial: &mut Serial) -> u8 {
        let start = Instant::now();
        let mut byte = [0];
        loop {
            serial.read(LSR, &mut byte);
            if byte[0] & 1 != 0 {
                serial.read(DATA, &mut byte);
                // As a driver that finds that there is no more.
                serial.read(2, &mut [0]);
                return byte[0];
            }
            assert!(start.elapsed() < PATIENCE, "no input");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_client_hears_the_guest_and_types_and_standard_output_has_all() {
        let (console, mut serial, stdout) = console();
        serial.write(DATA, b"before ");
        assert_eq!(read(&stdout, 7), "before ");
        let attached = attach(&console);
        serial.write(DATA, b"during ");
        assert_eq!(
            (read(&attached.output, 7), read(&stdout, 7)),
            ("during ".to_owned(), "during ".to_owned())
        );
        serial.write(IER, &[RECEIVE]);
        (&attached.keys).write_all(b"k").unwrap();
        assert_eq!(receive(&mut serial), b'k');
        drop(attached);
        serial.write(DATA, b"after");
        assert_eq!(read(&stdout, 5), "after");
    }

    #[test]
    fn one_client_is_attached_at_a_time_and_the_next_hears_what_comes_then() {
        let (console, mut serial, _stdout) = console();
        let first = attach(&console);
        assert!(console.attach().unwrap().is_none());
        serial.write(DATA, b"old");
        drop(first);
        let second = attach(&console);
        serial.write(DATA, b"new");
        assert_eq!(read(&second.output, 3), "new");
        serial.write(IER, &[RECEIVE]);
        (&second.keys).write_all(b"k").unwrap();
        assert_eq!(receive(&mut serial), b'k', "the reader of the first serves the second");
    }

    #[test]
    fn a_client_that_does_not_read_holds_nobody_up_and_costs_no_more_than_its_queue() {
        let (console, mut serial, stdout) = console();
        let (unread, sink) = UnixStream::pair().unwrap();
        let listener = ConsoleOutput::new("console", Box::new(sink), None, &console.guard).unwrap();
        let listening = console.output.listen(listener.clone());
        let flood = vec![b'x'; 3 << 20];
        let reader = std::thread::spawn(move || {
            let mut heard = 0;
            let mut chunk = [0; 4096];
            while heard < 3 << 20 {
                heard += (&stdout).read(&mut chunk).unwrap();
            }
        });
        for chunk in flood.chunks(1 << 16) {
            serial.write(DATA, chunk);
            // Standard output is to keep up, which it does not promise.
            console.output.drain(PATIENCE);
        }
        reader.join().unwrap();
        assert!(listener.metrics().lost_bytes.get() >= 1 << 20, "{listener:?}");
        // One that goes and leaves a full queue is not waited for either.
        drop((unread, listening));
        attach(&console);
    }

    #[test]
    fn a_client_has_the_last_words_of_the_guest_and_hears_its_end() {
        let (console, mut serial, _stdout) = console();
        // Nobody reads standard output, whose writer waits for ever.
        serial.write(DATA, &vec![b'x'; 2 << 20]);
        let attached = attach(&console);
        serial.write(DATA, b"Power down");
        drop((console, serial));
        let mut said = String::new();
        (&attached.output).read_to_string(&mut said).unwrap();
        assert_eq!(said, "Power down");
    }

    #[test]
    fn a_client_hears_the_guest_though_nobody_reads_standard_output() {
        let (console, mut serial, stdout) = console();
        serial.write(DATA, &vec![b'x'; 2 << 20]);
        let attached = attach(&console);
        serial.write(DATA, b"heard");
        assert_eq!(read(&attached.output, 5), "heard");
        drop(stdout);
        serial.write(DATA, b"still");
        assert_eq!(read(&attached.output, 5), "still");
    }
}
