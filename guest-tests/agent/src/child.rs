//! A child that uses much memory, for the OOM killer to take instead of init.

#![allow(unsafe_code, reason = "fork(2): the child is to be a process of its own for the OOM killer")]

use guest_agent::{Answer, Pages};

use crate::region::Region;

/// Exit code of a child that could not set itself up.
const SETUP_FAILED: i32 = 3;

/// Lets a child touch `mib` MiB and says whether it lived to the end.
pub(crate) fn consume(mib: u64) -> Result<Answer, String> {
    // What would allocate is done before the fork: the child has only the thread that forked.
    let mut region = Region::map(mib, Pages::Any)?;
    // SAFETY: the child uses system calls and its own mapping only, and ends by _exit.
    match unsafe { libc::fork() } {
        -1 => Err(format!("cannot fork: {}", std::io::Error::last_os_error())),
        0 => {
            let ready = prefer_for_oom();
            if ready {
                region.touch();
            }
            // SAFETY: ends the child without running what belongs to the parent.
            unsafe { libc::_exit(if ready { 0 } else { SETUP_FAILED }) }
        }
        pid => wait(pid),
    }
}

/// Tells the kernel to take this process first. No allocation, no locks.
pub(crate) fn prefer_for_oom() -> bool {
    // SAFETY: the path ends with NUL and the buffer is valid for its length.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY);
        fd >= 0 && libc::write(fd, c"1000".as_ptr().cast(), 4) == 4
    }
}

fn wait(pid: libc::pid_t) -> Result<Answer, String> {
    let mut status = 0;
    // SAFETY: `status` is writable, and the child is ours and not yet waited for.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        return Err(format!("cannot wait for the child: {}", std::io::Error::last_os_error()));
    }
    if libc::WIFSIGNALED(status) {
        return Ok(Answer::Consumed { survived: false, signal: Some(libc::WTERMSIG(status)) });
    }
    match libc::WEXITSTATUS(status) {
        0 => Ok(Answer::Consumed { survived: true, signal: None }),
        code => Err(format!("the child could not set its oom score (exit code {code})")),
    }
}
