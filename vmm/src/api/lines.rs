//! A file or named pipe that takes lines: each is there whole, or not at all.
//!
//! ```text
//!   line ─▶ what is left of the one before ─▶ all of it written? ── no ──▶ missed
//!                                                    │ yes
//!                                                    ▼
//!                                              as much as there is room for; the rest stays here
//! ```
//! A pipe of which the reader is slow takes the beginning of a long line. So the rest of that is written first, later.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    path::Path,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::vm::config::{ConfigError, open_output};

/// How long the end waits for the reader to make room for what is left of a line.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Debug)]
pub(super) struct Lines {
    file: File,
    /// The rest of a line that was begun.
    rest: Vec<u8>,
    missed: u64,
}

impl Lines {
    /// Opens a file or named pipe to append to; `what` it is for.
    pub(super) fn open(what: &'static str, path: &Path) -> Result<Self, ConfigError> {
        Ok(Self { file: open_output(what, path)?, rest: Vec::new(), missed: 0 })
    }

    /// Writes a line, with its end.
    ///
    /// # Errors
    /// There is no room for it: nothing of it was written, and it is counted as missed.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.finish().and_then(|()| self.begin(line));
        if written.is_err() {
            self.missed += 1;
        }
        written
    }

    /// Lines that were not written.
    pub(super) fn missed(&self) -> u64 {
        self.missed
    }

    fn begin(&mut self, line: &[u8]) -> io::Result<()> {
        let written = write_some(&self.file, line)?;
        self.rest.extend_from_slice(line.get(written..).unwrap_or_default());
        // A line without room comes later.
        let _ = self.finish();
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            let written = write_some(&self.file, &self.rest)?;
            self.rest.drain(..written);
        }
        Ok(())
    }
}

/// At least one byte, or an error.
fn write_some(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Ok(0) if !bytes.is_empty() => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            written => return written,
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.finish().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            let left = end.saturating_duration_since(Instant::now());
            let limit = Timespec::try_from(left).unwrap_or_default();
            if !matches!(poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&limit)), Ok(1..)) {
                return;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{fs::OpenOptions, io::Read, os::unix::fs::OpenOptionsExt, path::PathBuf, thread};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// A named pipe in `dir`, and a reader of it that does not wait.
    pub(in crate::api) fn pipe(dir: &Path) -> (PathBuf, File) {
        let path = dir.join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        let reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        (path, reader.expect("opens"))
    }

    /// All that can be read now.
    pub(in crate::api) fn read_all(mut pipe: &File) -> Vec<u8> {
        let (mut read, mut room) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = pipe.read(&mut room) {
            read.extend_from_slice(&room[..count]);
        }
        read
    }

    #[test]
    fn a_pipe_of_a_slow_reader_has_whole_lines_and_the_others_are_counted() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (path, reader) = pipe(dir.path());
        let mut lines = Lines::open("test", &path).expect("opens");
        let line = |number: usize| format!("{number} {}\n", "x".repeat(9000 + number));
        let (mut said, mut read) = (0, String::new());
        for round in 0..3 {
            for _ in 0..20 {
                let _ = lines.write(line(said).as_bytes());
                said += 1;
            }
            assert!(lines.missed() > 5 * (round + 1), "{} are missed", lines.missed());
            read += &String::from_utf8(read_all(&reader)).expect("text");
        }
        let missed = lines.missed();
        // The end waits for the reader.
        let end = thread::spawn(move || drop(lines));
        while !end.is_finished() {
            read += &String::from_utf8(read_all(&reader)).expect("text");
        }
        end.join().expect("no panic");
        read += &String::from_utf8(read_all(&reader)).expect("text");
        let numbers: Vec<usize> = read
            .lines()
            .map(|whole| {
                let number =
                    whole.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
                assert_eq!(format!("{whole}\n"), line(number));
                number
            })
            .collect();
        assert!(numbers.is_sorted() && read.ends_with('\n'));
        assert_eq!(numbers.len() as u64 + missed, said as u64);
    }
}
