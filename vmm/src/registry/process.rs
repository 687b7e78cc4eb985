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

use crate::socket::knock;

/// A process that listened.
#[derive(Debug)]
pub struct Process {
    descriptor: OwnedFd,
    number: i32,
}

impl Process {
    /// The process behind a socket.
    ///
    /// # Errors
    /// Nobody listens there, or in another PID namespace.
    pub fn behind(socket: &Path) -> io::Result<Self> {
        let stream = knock(socket)?;
        let runtime = runtime()?;
        let _entered = runtime.enter();
        let (_, pid) = peer(stream.try_clone()?)?;
        let pid = pid.and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        // If it has ended before, the number may be that of another by now; the connection is closed then.
        match (&stream).read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok(Self { descriptor: process, number: pid.as_raw_nonzero().get() })
            }
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
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
