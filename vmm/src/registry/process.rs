//! The process that listens at a socket, as a descriptor: its number may be another's once it has ended.

use std::{
    fs,
    io::{self, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::runtime::Runtime;

use crate::socket::{knock, nobody_listens};

/// A process that listened.
#[derive(Debug)]
pub struct Process {
    descriptor: OwnedFd,
    number: i32,
}

impl Process {
    /// The process behind a socket; `None` if it is in another PID namespace. Whose it is to be may be said.
    ///
    /// # Errors
    /// Nobody listens there, or a process of another user.
    pub fn behind(socket: &Path, user: Option<u32>) -> io::Result<Option<Self>> {
        let stream = knock(socket)?;
        let runtime = runtime()?;
        let _entered = runtime.enter();
        let (listener, pid) = peer(stream.try_clone()?)?;
        let stranger = || io::Error::other("another user's process has taken its place");
        if user.is_some_and(|user| user != listener) {
            return Err(stranger());
        }
        let Some(pid) = pid.and_then(Pid::from_raw) else { return Ok(None) };
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        // If it has ended before, the number may be that of another by now; the connection is closed then.
        match (&stream).read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return Err(io::ErrorKind::ConnectionRefused.into()),
        }
        // Unless a child has the listener still.
        if user_of(pid).is_some_and(|user| user != listener) {
            return Err(stranger());
        }
        Ok(Some(Self { descriptor: process, number: pid.as_raw_nonzero().get() }))
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.number
    }

    /// Whether it runs a program of the same name as this one, which may have been replaced since.
    #[must_use]
    pub fn is_monitor(&self) -> bool {
        let name = |link: &str| {
            let program = fs::read_link(link).ok()?;
            let name = program.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
            Some(name)
        };
        let theirs = name(&format!("/proc/{}/exe", self.number));
        // The number is its own as long as it has not ended.
        theirs.is_some()
            && theirs == name("/proc/self/exe")
            && !self.ends_within(Duration::ZERO).unwrap_or(true)
    }

    /// Sends it a signal; one that has ended has had its last.
    ///
    /// # Errors
    /// It is another user's.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Waits for its end, no longer than this; whether it has ended.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn ends_within(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        loop {
            match poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&limit)) {
                Err(rustix::io::Errno::INTR) => {}
                ready => return Ok(ready? > 0),
            }
        }
    }
}

/// Whether somebody listens at a socket.
#[must_use]
pub fn is_served(socket: &Path) -> bool {
    !knock(socket).is_err_and(|error| nobody_listens(&error))
}

/// A runtime to enter before [`peer`].
pub(super) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()
}

/// User and process of the other end: those that listened. No process if it is in another PID namespace. Std does not have
/// this yet.
pub(super) fn peer(stream: UnixStream) -> io::Result<(u32, Option<i32>)> {
    let peer = tokio::net::UnixStream::from_std(stream)?.peer_cred()?;
    Ok((peer.uid(), peer.pid().filter(|&pid| pid != 0)))
}

/// The user as whom a process acts: the second number of a line in proc_pid_status(5).
fn user_of(process: Pid) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().nth(1)?.parse().ok()
}
