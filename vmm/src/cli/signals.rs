//! SIGINT, SIGTERM, SIGQUIT and SIGHUP end the process cleanly, through the [`ExitSlot`].
//!
//! They are blocked in the main thread before any other starts, so that all inherit it, and one
//! thread waits for them: no handler, hence nothing that a handler may not do. A second one ends the process at once,
//! whatever it waits for; but not one that comes along with the first, as `timeout(1)` and a terminal that is closed send them.

#![allow(unsafe_code, reason = "sigwait is not in std")]

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use vmm_sys_util::signal::{block_signal, create_sigset};

use crate::{
    devices::legacy::terminal,
    vm::exit::{Exit, ExitSlot},
};

const ENDING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT, libc::SIGHUP];
/// Signals of so short a time are one wish.
const TOGETHER: Duration = Duration::from_millis(250);
/// Stack of the thread in bytes.
const STACK: usize = 64 << 10;

/// Starts to listen for signals. Call it before any other thread is made.
pub(super) fn watch(exit: Arc<ExitSlot>) -> io::Result<()> {
    for signal in ENDING {
        block_signal(signal).map_err(|error| io::Error::other(error.to_string()))?;
    }
    let set = create_sigset(&ENDING).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    thread::Builder::new().name("signals".to_owned()).stack_size(STACK).spawn(move || {
        let Some(first) = next(&set) else { return };
        exit.set(Exit::Signal(first));
        let since = Instant::now();
        while let Some(signal) = next(&set) {
            if since.elapsed() > TOGETHER {
                terminal::restore();
                // SAFETY: ends the process, and touches nothing of it.
                unsafe { libc::_exit(128 + signal) }
            }
        }
    })?;
    Ok(())
}

/// Waits for a signal of the set.
fn next(set: &libc::sigset_t) -> Option<libc::c_int> {
    let mut signal = 0;
    // SAFETY: both pointers are to live objects of the right types; sigwait writes only `signal`.
    let waited = unsafe { libc::sigwait(set, &mut signal) };
    (waited == 0).then_some(signal)
}
