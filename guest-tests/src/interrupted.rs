//! Has a system call fail in which a thread of another process waits, as if the kernel had said so. The
//! monitor needs no hook for that.
//!
//! ```text
//!   PTRACE_SEIZE ─▶ PTRACE_INTERRUPT ─▶ it stops on its way out of the call ─▶ rax = -error, no restart ─▶ PTRACE_DETACH
//! ```

#![allow(unsafe_code, reason = "ptrace(2) is called directly")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Has the system call that `thread` waits in return this error.
///
/// # Errors
/// The thread is gone, waits in no call, or this process may not trace it.
pub fn fail(thread: u32, error: i32) -> io::Result<()> {
    let thread = libc::pid_t::try_from(thread).map_err(io::Error::other)?;
    trace(libc::PTRACE_SEIZE, thread, ptr::null_mut())?;
    let failed = stopped(thread).and_then(|()| change(thread, error));
    let detached = trace(libc::PTRACE_DETACH, thread, ptr::null_mut());
    failed.and(detached)
}

fn stopped(thread: libc::pid_t) -> io::Result<()> {
    trace(libc::PTRACE_INTERRUPT, thread, ptr::null_mut())?;
    let mut status = 0;
    // SAFETY: `status` is a live integer, which the call fills.
    let waited = unsafe { libc::waitpid(thread, &mut status, libc::__WALL) };
    if waited != thread {
        return Err(io::Error::last_os_error());
    }
    if !libc::WIFSTOPPED(status) {
        return Err(io::Error::other("the thread has ended"));
    }
    Ok(())
}

/// Changes what the call returns, and keeps the kernel from making it again.
fn change(thread: libc::pid_t, error: i32) -> io::Result<()> {
    let mut registers = MaybeUninit::<libc::user_regs_struct>::uninit();
    trace(libc::PTRACE_GETREGS, thread, registers.as_mut_ptr().cast())?;
    // SAFETY: the call before has filled them.
    let mut registers = unsafe { registers.assume_init() };
    if registers.orig_rax == u64::MAX {
        return Err(io::Error::other("the thread waits in no system call"));
    }
    registers.rax = i64::from(-error).cast_unsigned();
    registers.orig_rax = u64::MAX;
    trace(libc::PTRACE_SETREGS, thread, (&raw mut registers).cast())
}

fn trace(request: libc::c_uint, thread: libc::pid_t, data: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: `data` is null or registers of the kernel's layout that live until the call returns; other requests of this
    // file read and write no memory of this process.
    match unsafe { libc::ptrace(request, thread, ptr::null_mut::<libc::c_void>(), data) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn who_sleeps_in_a_call_hears_the_error() -> io::Result<()> {
        // `cat` waits for its input, and says what it gets.
        let mut cat =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let since = Instant::now();
        let is_reading = || std::fs::read_to_string(format!("/proc/{}/syscall", cat.id()));
        while !is_reading()?.starts_with("0 ") {
            assert!(since.elapsed() < Duration::from_secs(60), "cat does not read");
        }
        fail(cat.id(), libc::EIO)?;
        assert_eq!(cat.wait()?.code(), Some(1));
        Ok(())
    }
}
