//! SIGINT, SIGTERM, SIGQUIT and SIGHUP end the process cleanly, through the [`ExitSlot`]; those that it was started
//! with ignored (`nohup`, a shell's background) stay ignored.
//!
//! They are blocked in the main thread before any other starts, so that all inherit it, and one
//! thread waits for them: no handler, hence nothing that a handler may not do. A second one ends the process at once,
//! whatever it waits for; but not one that comes along with the first, as `timeout(1)` and a terminal that is closed send them.

#![allow(unsafe_code, reason = "signal masks and sigwait are not in std")]

use std::{
    io,
    mem::MaybeUninit,
    ptr,
    sync::Arc,
    time::{Duration, Instant},
};

use vmm_sys_util::signal::create_sigset;

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
    let heard: Vec<_> = ENDING.into_iter().filter(|&signal| !is_ignored(signal)).collect();
    let set = create_sigset(&heard).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
    block(&set)?;
    listen(exit, move || next(&set))
}

/// Starts the thread that waits for signals by `next`.
fn listen(
    exit: Arc<ExitSlot>,
    mut next: impl FnMut() -> io::Result<libc::c_int> + Send + 'static,
) -> io::Result<()> {
    let guard = exit.guard();
    let thread = guard.spawn("signals", STACK, "no signal could end this process any more", move || {
        exit.set(Exit::Signal(next()?));
        let since = Instant::now();
        loop {
            let signal = next()?;
            if since.elapsed() > TOGETHER {
                terminal::restore();
                // SAFETY: ends the process, and touches nothing of it.
                unsafe { libc::_exit(128 + signal) }
            }
        }
    });
    thread.map(drop)
}

/// Whether a signal is ignored.
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only writes `action`, which lives through it.
    let told = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroes are a `sigaction`, which is what is there if nothing was written.
    told == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Blocks the signals of the set, whether or not who started the process did so before.
fn block(set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is a live object, and nobody asks for the old mask.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Waits for a signal of the set.
fn next(set: &libc::sigset_t) -> io::Result<libc::c_int> {
    let mut signal = 0;
    // SAFETY: both pointers are to live objects of the right types; sigwait writes only `signal`.
    let waited = unsafe { libc::sigwait(set, &mut signal) };
    if waited == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(waited)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_hear_signals_any_more_ends_the_process() {
        let failing: [fn() -> io::Result<libc::c_int>; 2] =
            [|| Err(io::Error::from_raw_os_error(libc::EINVAL)), || panic!("on purpose")];
        for next in failing {
            let exit = Arc::new(ExitSlot::default());
            listen(Arc::clone(&exit), next).expect("a thread");
            let reason = exit.wait_timeout(Duration::from_secs(60)).expect("the end");
            assert_eq!(reason.code(), 1);
            assert!(reason.to_string().contains("\"signals\""), "{reason}");
        }
    }
}
