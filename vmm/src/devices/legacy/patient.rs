//! A stream whose reads and writes wait, however it was opened. A named pipe is opened so that nobody need read it yet, and
//! whoever started the monitor may have told standard streams not to wait.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};

use rustix::event::{PollFd, PollFlags, poll};

/// A stream for a thread that may wait. Ends of the stream and failures are those of the file.
#[derive(Debug)]
pub struct Patient(File);

impl Patient {
    /// Takes over a file, a pipe or a terminal.
    pub fn new(file: File) -> Self {
        Self(file)
    }

    /// Makes the call again each time that this may be of use now.
    fn wait(&self, until: PollFlags, mut call: impl FnMut(&File) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match call(&self.0) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, until)], None)?;
                }
                done => return done,
            }
        }
    }
}

impl Read for Patient {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.wait(PollFlags::IN, |mut file| file.read(bytes))
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(PollFlags::OUT, |mut file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
