//! A terminal of a width, on which a command prints.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// What `aerostat` prints on a terminal that is so many columns wide. Colours are left out.
pub(super) fn printed(columns: usize, args: &[&str]) -> String {
    let (ours, theirs) = pair(columns);
    let mut command = Command::new(env!("CARGO_BIN_EXE_aerostat"));
    command.args(args).stdin(Stdio::null()).stdout(theirs.try_clone().expect("a terminal")).stderr(theirs);
    let mut child = command.spawn().expect("aerostat");
    // Nobody but the child has the terminal now, so its end is ours.
    drop(command);
    let mut bytes = Vec::new();
    // A terminal that nobody has open any more is an error, not an end.
    let _ = File::from(ours).read_to_end(&mut bytes);
    child.wait().expect("its end");
    plain(&String::from_utf8_lossy(&bytes))
}

/// Its two ends: ours, and the one for a program.
pub(super) fn pair(columns: usize) -> (OwnedFd, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("granted");
    unlockpt(&ours).expect("unlocked");
    let name = ptsname(&ours, Vec::new()).expect("its name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = open(name, flags, Mode::empty()).expect("its other end");
    let ws_col = u16::try_from(columns).expect("a width");
    let size = Winsize { ws_row: 24, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&theirs, size).expect("its width");
    (ours, theirs)
}

/// Text without escape sequences and carriage returns.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => drop(chars.by_ref().find(char::is_ascii_alphabetic)),
            '\r' => {}
            c => plain.push(c),
        }
    }
    plain
}
