//! Raw mode for the terminal on standard input, given back on every way out.
//!
//! The guest's console wants every key. What the terminal was before is kept once for the process,
//! and [`restore`] gives it back: when the guard is dropped, on a panic, and from wherever the process
//! leaves in another way. It may be called at any time, any number of times, even in a signal handler.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{InputModes, LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

static ORIGINAL: OnceLock<Termios> = OnceLock::new();
static RAW: AtomicBool = AtomicBool::new(false);

/// The terminal is raw while this lives.
#[derive(Debug)]
#[must_use]
pub struct RawMode(());

impl RawMode {
    /// Makes the terminal on standard input raw; `None` if standard input is no terminal.
    ///
    /// Output processing stays on, so that the monitor's own lines still look right.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let now = tcgetattr(&stdin)?;
        let mut raw = ORIGINAL.get_or_init(|| now).clone();
        raw.input_modes -= InputModes::BRKINT
            | InputModes::ICRNL
            | InputModes::IGNCR
            | InputModes::INLCR
            | InputModes::ISTRIP
            | InputModes::IXON;
        raw.local_modes -= LocalModes::ECHO
            | LocalModes::ECHONL
            | LocalModes::ICANON
            | LocalModes::IEXTEN
            | LocalModes::ISIG;
        static HOOK: OnceLock<()> = OnceLock::new();
        HOOK.get_or_init(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                before(info);
            }));
        });
        RAW.store(true, Ordering::SeqCst);
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was, if it is raw. Safe in a signal handler: an atomic and one
/// system call.
pub fn restore() {
    if RAW.swap(false, Ordering::SeqCst)
        && let Some(original) = ORIGINAL.get()
    {
        // Nothing can be done if the terminal is gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, original);
    }
}
