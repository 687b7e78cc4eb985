//! The way out: who runs, as the kernel says it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;

use super::{
    directories,
    directory::{Directory, id_of, names},
};
use crate::socket::{knock, nobody_listens};

/// A process that serves its API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its name: its id, and the process of a second guest of that id.
    pub id: String,
    /// A path of its socket.
    pub socket: PathBuf,
    /// Its process; `None` if the socket has no room for a connection, or the process is in another PID namespace.
    pub pid: Option<i32>,
}

/// All guests that this user can reach, in order of their names. Stale names are removed.
///
/// # Errors
/// This process cannot open sockets.
pub fn guests() -> io::Result<Vec<Guest>> {
    guests_in(&directories())
}

pub(super) fn guests_in(directories: &[PathBuf]) -> io::Result<Vec<Guest>> {
    // For peer_cred, which std has not yet.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    let mut guests = Vec::new();
    for directory in directories {
        let mut stale = Vec::new();
        for name in names(directory) {
            let Some(id) = id_of(&name) else { continue };
            let pid = match knock(&name) {
                Ok(stream) => match peer(&name, stream) {
                    Some(pid) => pid,
                    None => continue,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) if nobody_listens(&error) => {
                    stale.push(name);
                    continue;
                }
                // Another user's.
                Err(_) => continue,
            };
            guests.push(Guest { id: id.to_owned(), socket: name, pid });
        }
        remove(directory, &stale);
    }
    guests.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(guests)
}

/// The process that listens behind a name; nobody if another user does, who took a socket's path over.
fn peer(name: &Path, stream: std::os::unix::net::UnixStream) -> Option<Option<i32>> {
    let peer = UnixStream::from_std(stream).and_then(|stream| stream.peer_cred()).ok()?;
    let owner = fs::symlink_metadata(name).ok()?.uid();
    (peer.uid() == owner).then(|| peer.pid().filter(|&pid| pid != 0))
}

/// Removes names that are stale still; those that cannot be removed are not shown either.
fn remove(directory: &Path, stale: &[PathBuf]) {
    if stale.is_empty() {
        return;
    }
    if let Ok(directory) = Directory::lock(directory) {
        for name in stale {
            directory.is_free(name);
        }
    }
}
