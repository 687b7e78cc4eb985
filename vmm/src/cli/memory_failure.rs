//! SIGBUS for memory of the host that has failed (hwpoison; Documentation/mm/hwpoison.rst). A CPU of the
//! guest, a device or a page on the move that touches it cannot go on. The process ends with a sentence
//! instead of a core dump.
//!
//! The thread that touched the page may hold any lock, so the end is at once: the terminal is given back, and the API's
//! socket is removed.

#![allow(unsafe_code, reason = "signal handlers are not in std")]

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::{io, mem, ptr};

use crate::devices::legacy::terminal;

/// `BUS_MCEERR_AR`: a touch of memory that has failed (asm-generic/siginfo.h).
const TOUCHED: libc::c_int = 4;
/// `BUS_MCEERR_AO`: memory has failed that nobody has touched since.
const NOT_TOUCHED: libc::c_int = 5;
/// Exit code of the process: an error.
const CODE: libc::c_int = 1;
const SENTENCE: &[u8] = b"Memory of the host failed (a hardware error that its kernel reports), and a page of the guest is lost: \
    the guest is ended. Look at the host's kernel log, and replace the memory module.\n";

static SOCKET: OnceLock<CString> = OnceLock::new();

/// Installs the handler; `socket` is what is removed at the end.
pub(super) fn watch(socket: Option<&Path>) -> io::Result<()> {
    if let Some(path) = socket.and_then(|path| CString::new(path.as_os_str().as_bytes()).ok()) {
        let _ = SOCKET.set(path);
    }
    // SAFETY: a `sigaction` of zeroes is the default action with an empty mask; it has no invalid values.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = failed as extern "C" fn(_, *mut libc::siginfo_t, _) as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the action is a live object, and nobody asks for the old one.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Only calls that a signal handler may make.
extern "C" fn failed(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid `siginfo_t` to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    if code == NOT_TOUCHED {
        return;
    }
    terminal::restore();
    if code != TOUCHED {
        // Something else, as a bug of ours would do it: as without a handler.
        // SAFETY: restores the default action of this signal; the instruction is tried again and ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: writes a constant, unlinks a path that is never changed, and ends the process.
    unsafe {
        let _ = libc::write(libc::STDERR_FILENO, SENTENCE.as_ptr().cast(), SENTENCE.len());
        if let Some(path) = SOCKET.get() {
            libc::unlink(path.as_ptr());
        }
        libc::_exit(CODE)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsRawFd, FromRawFd};

    use super::*;

    /// The words and the end of a process that gets a SIGBUS with this code, as the kernel sends it.
    fn ends(code: libc::c_int, socket: &Path) -> (String, libc::c_int) {
        let (mut fds, mut status) = ([0; 2], 0);
        let mut said = String::new();
        let path = CString::new(socket.as_os_str().as_bytes()).unwrap();
        // SAFETY: the child calls nothing but system calls and the handler; a process may send itself such a signal.
        unsafe {
            assert_eq!(libc::pipe(fds.as_mut_ptr()), 0);
            let child = libc::fork();
            if child == 0 {
                let _ = SOCKET.set(path);
                libc::dup2(fds[1], libc::STDERR_FILENO);
                let _ = watch(None);
                let mut info: libc::siginfo_t = mem::zeroed();
                (info.si_signo, info.si_code) = (libc::SIGBUS, code);
                libc::syscall(
                    libc::SYS_rt_tgsigqueueinfo,
                    libc::getpid(),
                    libc::gettid(),
                    libc::SIGBUS,
                    &raw const info,
                );
                libc::_exit(77);
            }
            libc::close(fds[1]);
            let mut pipe = std::fs::File::from_raw_fd(fds[0]);
            assert!(pipe.as_raw_fd() >= 0);
            pipe.read_to_string(&mut said).unwrap();
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        }
        (said, if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) })
    }

    #[test]
    fn memory_that_failed_ends_the_process_with_a_sentence_and_without_its_socket() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        std::fs::write(&socket, "").unwrap();
        let (said, code) = ends(TOUCHED, &socket);
        assert!(said.starts_with("Memory of the host failed") && said.ends_with(".\n"), "{said}");
        assert_eq!((code, socket.exists()), (CODE, false));
    }

    #[test]
    fn what_nobody_touches_is_nobodys_end() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        std::fs::write(&socket, "").unwrap();
        let (said, code) = ends(NOT_TOUCHED, &socket);
        assert_eq!((said.as_str(), code, socket.exists()), ("", 77, true));
    }
}
