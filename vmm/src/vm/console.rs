//! The streams of a guest's console: a file or named pipe, which takes output only, or the standard streams. A reader that is
//! slow, or not there yet, holds nobody up: its share waits in a bounded queue.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use memsvc::guard::Guard;

use super::config::{TokenBucket, VmConfig, open_output};
use crate::api::control::LaunchError;
use crate::devices::legacy::terminal::RawMode;
use crate::devices::legacy::{ConsoleInput, ConsoleOutput, Patient};

/// Opens output, input where there is one, and the terminal, raw while the guest has it.
pub(super) fn open(
    config: &VmConfig,
    guard: &Guard,
) -> Result<(ConsoleOutput, Option<ConsoleInput>, Option<RawMode>), LaunchError> {
    let serial = config.serial.as_ref();
    let path = serial.and_then(|serial| serial.serial_out_path.as_ref());
    let limit = serial.and_then(|serial| serial.rate_limiter).map(TokenBucket::limit);
    let (sink, input, terminal): (Patient, Option<ConsoleInput>, _) = match path {
        Some(path) => {
            let file = open_output("serial output", path).map_err(LaunchError::new)?;
            (Patient::new(file), None, None)
        }
        None => {
            let terminal = RawMode::enter().map_err(LaunchError::new)?;
            let stdout = standard(rustix::stdio::stdout()).map_err(LaunchError::new)?;
            let stdin = standard(rustix::stdio::stdin()).map_err(LaunchError::new)?;
            (stdout, Some(Box::new(stdin)), terminal)
        }
    };
    let output = ConsoleOutput::new("serial", Box::new(sink), limit, guard).map_err(LaunchError::new)?;
    Ok((output, input, terminal))
}

/// A standard stream without the library's buffer.
fn standard(fd: BorrowedFd<'_>) -> io::Result<Patient> {
    Ok(Patient::new(File::from(fd.try_clone_to_owned()?)))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::devices::legacy::{IrqLine, Power, Serial};
    use crate::vm::bus::BusDevice;

    const PATIENCE: Duration = Duration::from_secs(60);
    /// More than a pipe and the queue hold.
    const FLOOD: usize = 4 << 20;

    fn pipe(path: &Path) -> File {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).expect("opens")
    }

    /// Reads until `end` comes.
    fn read_until(mut pipe: &File, end: &[u8]) -> Vec<u8> {
        let (mut read, mut room, start) = (Vec::new(), [0; 4096], Instant::now());
        while !read.ends_with(end) {
            match pipe.read(&mut room) {
                Ok(count) => read.extend_from_slice(&room[..count]),
                Err(_) => thread::yield_now(),
            }
            assert!(start.elapsed() < PATIENCE, "{} bytes came", read.len());
        }
        read
    }

    #[test]
    fn a_named_pipe_that_was_full_gets_what_waited_and_then_what_is_said_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pipe");
        let reader = pipe(&path);
        let serial = serde_json::json!({"serial": {"serial_out_path": path}});
        let config = serde_json::from_value(serial).expect("fits");
        let guard = Guard::new(|why| panic!("{why}"));
        let (output, input, _) = open(&config, &guard).expect("opens");
        assert!(input.is_none());
        let line = IrqLine::new(EventFd::new(libc::EFD_NONBLOCK).expect("an event"));
        let power = Arc::new(Power::new(|_| ()));
        let mut serial = Serial::new("test", line, output.clone(), None, power, guard);
        let lost = || output.metrics().lost_bytes.get();

        // Of more than the pipe holds nothing is lost while the queue holds it.
        let words: Vec<u8> = (0..500_000).map(|at: u32| b'a' + (at % 23) as u8).collect();
        serial.write(0, &words);
        serial.write(0, b"\n");
        let read = read_until(&reader, b"\n");
        assert_eq!((read.len(), lost()), (words.len() + 1, 0));
        assert!(read.starts_with(&words), "in order");

        // Nobody reads: what is too much is lost and counted, and the guest goes on.
        serial.write(0, &vec![b'x'; FLOOD]);
        let before = lost();
        assert!(before > 0);
        let mut rest = FLOOD - before as usize;
        while rest > 0 {
            rest -= read_until(&reader, b"x").len();
        }
        assert_eq!(lost(), before);
        serial.write(0, b"heard again\n");
        assert_eq!(read_until(&reader, b"\n"), b"heard again\n");
    }
}
