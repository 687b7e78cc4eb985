//! The serial port that agent and kernel console share.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

use guest_agent::{FROM_GUEST, Reply, TO_GUEST};
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};

/// A request longer than this is dropped.
const LONGEST_LINE: usize = 64 << 10;

/// The open port and what was read of the next line.
#[derive(Debug)]
pub(crate) struct Port {
    tty: File,
    pending: Vec<u8>,
}

impl Port {
    /// Opens the port in raw mode: no echo, no translation of line ends.
    pub(crate) fn open() -> std::io::Result<Self> {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/ttyS0")?;
        let mut modes = tcgetattr(&tty)?;
        modes.make_raw();
        tcsetattr(&tty, OptionalActions::Now, &modes)?;
        Ok(Self { tty, pending: Vec::new() })
    }

    /// Waits for the next request, without its marker. `None`: the port gave nothing.
    pub(crate) fn receive(&mut self) -> Option<String> {
        loop {
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some((_, request)) = line.split_once(TO_GUEST) {
                    return Some(request.trim().to_owned());
                }
            }
            if self.pending.len() > LONGEST_LINE {
                self.pending.clear();
            }
            let mut buffer = [0_u8; 512];
            match self.tty.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.pending.extend_from_slice(buffer.get(..count)?),
            }
        }
    }

    /// Sends one reply. It starts a line of its own; an error has nobody to go to.
    pub(crate) fn send(&mut self, reply: &Reply) {
        let json = serde_json::to_string(reply).unwrap_or_default();
        let _ = self.tty.write_all(format!("\n{FROM_GUEST}{json}\n").as_bytes());
    }

    /// Waits until everything sent is out.
    pub(crate) fn drain(&self) {
        let _ = tcdrain(&self.tty);
    }
}
