//! Raw mode for the terminal on standard input, given back on every way out.
//!
//! The guest's console wants every key. What the terminal was before is kept once for the process,
//! and [`restore`] gives it back: when the guard is dropped, on a panic, and when a signal that means a
//! crash ends the process. (Signals that ask for the end lead to the first of these.)
#![allow(unsafe_code, reason = "signal handlers are not in std")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, mem, ptr};

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
            restore_on_crash();
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

/// Signals by which a process ends itself when it can no longer trust itself. SIGBUS has a handler of its own, which gives
/// the terminal back, too (`cli/memory_failure.rs`).
const CRASHES: [libc::c_int; 5] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGILL, libc::SIGFPE, libc::SIGSYS];
/// Makes each of [`CRASHES`] give the terminal back before it ends the process.
fn restore_on_crash() {
    for signal in CRASHES {
        // SAFETY: a `sigaction` of zeros is the default action with an empty mask; it has no invalid values.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = crashed as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // On the alternate stack where a thread has one: the crash may be a stack that is full.
        action.sa_flags = libc::SA_ONSTACK | libc::SA_RESETHAND;
        // SAFETY: `action` is live; the handler calls only what may be called in a handler.
        unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    }
}

/// The handler. The signal's action is the default one by now, and comes as soon as this returns.
extern "C" fn crashed(signal: libc::c_int) {
    restore();
    // SAFETY: raise may be called in a handler.
    unsafe { libc::raise(signal) };
}
