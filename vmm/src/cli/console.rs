//! `aerostat console`: this terminal becomes that of the guest's serial console, until `^]`.
//!
//! ```text
//! standard input ─▶ keys, up to ^] ─▶ connection ─▶ guest
//! standard output ◀────────────────── connection ◀─ guest
//! ```

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    process::{self, ExitCode},
    sync::Arc,
};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};

use super::{Outcome, args::Target, output, signals};
use crate::{
    api::types::CONSOLE_PROTOCOL,
    devices::legacy::terminal::{self, RawMode},
    vm::exit::{Exit, ExitSlot},
};

/// `^]`, as in telnet and virsh. Only a terminal has it: what comes from a file or a pipe is all for the guest.
const ESCAPE: u8 = 0x1D;
/// Bytes that are carried at a time.
const CHUNK: usize = 4096;

/// Does it.
pub(super) fn console(target: &Target) -> Outcome {
    let (guest, first) = target.client()?.upgrade("/console", CONSOLE_PROTOCOL)?;
    // Until here the terminal is as it was, and a signal ends the process as ever.
    let exit = Arc::new(ExitSlot::default());
    signals::watch(Arc::clone(&exit)).context("Signals cannot be handled")?;
    let raw = RawMode::enter().context("The terminal cannot be used for the console")?;
    end_at_signals(&exit);
    let is_terminal = raw.is_some();
    let tell = |text| {
        if is_terminal {
            output::complain(text);
        }
    };
    tell("The guest's console is on this terminal; ^] leaves it.");
    let mut screen = io::stdout();
    screen.write_all(&first).and_then(|()| screen.flush())?;
    let keys = File::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let left = carry(keys, is_terminal, guest, screen);
    drop(raw);
    let is_left = left.context("The console broke off")?;
    tell(if is_left { "The console was left; the guest runs on." } else { "The console has ended." });
    Ok(ExitCode::SUCCESS)
}

/// A signal ends this process with the code that shells have for it, and finds the terminal as it was.
fn end_at_signals(exit: &Arc<ExitSlot>) {
    let reason = Arc::clone(exit);
    exit.at_exit(move || {
        terminal::restore();
        process::exit(match reason.get() {
            Some(Exit::Signal(signal)) => 128 + signal,
            failed => {
                failed.iter().for_each(|failed| output::complain(&failed.to_string()));
                1
            }
        });
    });
}

/// Carries bytes both ways; whether it was left by the escape, or else the guest's side ended.
fn carry(
    mut keys: impl Read + std::os::fd::AsFd,
    has_escape: bool,
    guest: UnixStream,
    mut screen: impl Write,
) -> io::Result<bool> {
    // The guest's side takes all that is typed, sooner or later: it drops what the guest does not take.
    guest.set_nonblocking(false)?;
    let (mut has_keys, mut chunk) = (true, [0; CHUNK]);
    loop {
        let mut ready = [PollFd::new(&guest, PollFlags::IN), PollFd::new(&keys, PollFlags::IN)];
        let watched = if has_keys { &mut ready[..] } else { &mut ready[..1] };
        match poll(watched, None) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled?,
        };
        let [says, typed] = ready.map(|fd| !fd.revents().is_empty());
        if says {
            let bytes = take(&mut &guest, &mut chunk)?;
            if bytes.is_empty() {
                return Ok(false);
            }
            screen.write_all(bytes)?;
            screen.flush()?;
        }
        if has_keys && typed {
            let bytes = take(&mut keys, &mut chunk)?;
            has_keys = !bytes.is_empty();
            let escape = bytes.iter().position(|&key| has_escape && key == ESCAPE);
            let wanted = bytes.get(..escape.unwrap_or(bytes.len())).unwrap_or_default();
            // A guest that has ended takes no keys, and may have said more before.
            has_keys &= (&guest).write_all(wanted).is_ok();
            if escape.is_some() {
                return Ok(true);
            }
        }
    }
}

/// Reads what is there; nothing at the end, which may have come before keys were taken.
fn take<'a>(from: &mut impl Read, chunk: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let count = match from.read(chunk) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
        read => read?,
    };
    Ok(chunk.get(..count).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A console whose guest has said this much; gives what the guest heard and what the screen shows.
    fn left_with(keys: &[u8], has_escape: bool) -> (bool, Vec<u8>, Vec<u8>) {
        let (guest, mut far) = UnixStream::pair().unwrap();
        let (typed, mut keyboard) = UnixStream::pair().unwrap();
        far.write_all(b"login: ").unwrap();
        keyboard.write_all(keys).unwrap();
        drop(keyboard);
        let other = std::thread::spawn(move || {
            let mut heard = Vec::new();
            let mut byte = [0];
            // The guest ends when it hears a "Q".
            while far.read_exact(&mut byte).is_ok() && byte != *b"Q" {
                heard.push(byte[0]);
            }
            heard
        });
        let mut screen = Vec::new();
        let left = carry(typed, has_escape, guest, &mut screen).unwrap();
        (left, other.join().unwrap(), screen)
    }

    #[test]
    fn a_console_is_left_by_its_escape_and_ends_with_its_guest() {
        assert_eq!(left_with(b"root\r\x1D-lost", true), (true, b"root\r".to_vec(), b"login: ".to_vec()));
        assert_eq!(left_with(b"a\x1DbQ", false), (false, b"a\x1Db".to_vec(), b"login: ".to_vec()));
    }

    #[test]
    fn a_guest_that_has_ended_is_heard_to_its_end() {
        let (guest, mut far) = UnixStream::pair().unwrap();
        let (typed, mut keyboard) = UnixStream::pair().unwrap();
        let words = [b'x'; 3 * CHUNK];
        far.write_all(&words).unwrap();
        // Taken by nobody.
        (&guest).write_all(b"a").unwrap();
        keyboard.write_all(b"b").unwrap();
        drop(far);
        let mut screen = Vec::new();
        assert!(!carry(typed, true, guest, &mut screen).unwrap());
        assert!(screen == words, "{} bytes", screen.len());
    }
}
