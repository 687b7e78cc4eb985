//! The way out: who runs, as the kernel says it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    directories,
    directory::{Directory, id_of, is_gone, is_trusted, is_trusted_user, names},
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
    /// The user who made the name, and who listens behind it: root, or this user.
    pub user: u32,
    /// Its process; `None` if the socket has no room for a connection, or the process is in another PID namespace.
    pub pid: Option<i32>,
}

/// All guests of root and of this user that this user can reach, in order of their names. Stale names are removed.
///
/// Others may write a directory if root lets them. What they put there is not looked at: who listens there would be told
/// what this user has to say to a guest, and could answer anything.
///
/// # Errors
/// This process cannot open sockets, or the environment names no directory that can be.
pub fn guests() -> io::Result<Vec<Guest>> {
    guests_in(&directories()?)
}

pub(super) fn guests_in(directories: &[PathBuf]) -> io::Result<Vec<Guest>> {
    let runtime = runtime()?;
    let _entered = runtime.enter();
    let mut guests = Vec::new();
    for directory in directories.iter().filter(|path| is_trusted(path)) {
        let mut stale = Vec::new();
        for name in names(directory) {
            let (Some(id), Some(user)) = (id_of(&name), owner(&name).filter(|user| is_trusted_user(*user)))
            else {
                continue;
            };
            let pid = match knock(&name) {
                Ok(stream) => match peer(stream) {
                    // Another may have taken the path of the socket over.
                    Ok((listener, pid)) if listener == user => pid,
                    _ => continue,
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) if is_gone(&name, &error) => {
                    stale.push(name);
                    continue;
                }
                // This user may not.
                Err(_) => continue,
            };
            guests.push(Guest { id: id.to_owned(), socket: name, user, pid });
        }
        remove(directory, &stale);
    }
    guests.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(guests)
}

/// The user who made a name.
fn owner(name: &Path) -> Option<u32> {
    fs::symlink_metadata(name).ok().map(|meta| meta.uid())
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
