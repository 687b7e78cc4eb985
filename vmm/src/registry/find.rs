//! The way out: who runs, as the kernel says it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    directories,
    directory::{Directory, id_of, is_gone, is_trusted, names},
    process::{peer, runtime},
};
use crate::socket::knock;

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
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let mut guests = Vec::new();
    for directory in directories.iter().filter(|path| is_trusted(path)) {
        let mut stale = Vec::new();
        for name in names(directory) {
            let Some(id) = id_of(&name) else { continue };
            let pid = match knock(&name) {
                Ok(stream) => match peer(stream) {
                    Ok((user, pid)) if is_of(&name, user) => pid,
                    _ => continue,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) if is_gone(&name, &error) => {
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

/// Whether a name is this user's: another may have taken the path of a socket over.
fn is_of(name: &Path, user: u32) -> bool {
    fs::symlink_metadata(name).is_ok_and(|meta| meta.uid() == user)
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
