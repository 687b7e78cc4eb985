//! The way in: a process that serves its API gets a name. Without one the guest runs all the same.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::{directories, directory::Directory};
use crate::{
    api::sentence,
    socket::{ListeningSocket, SocketError, SocketFile, SocketMode},
};

/// A socket, and its name if it is elsewhere.
#[derive(Debug, Default)]
pub struct Registered {
    /// The socket; `None` if nobody said where, and there is no place.
    pub socket: Option<ListeningSocket>,
    /// The link to it, removed when this is dropped. Drop it while the socket is served: it is stale otherwise.
    pub name: Option<SocketFile>,
}

/// Listens at `socket` for the API of the guest `id`, or at its name if `socket` is not said, and gives it the name.
///
/// # Errors
/// There can be no socket where it is said.
pub fn serve(id: &str, socket: Option<&Path>, mode: SocketMode) -> Result<Registered, SocketError> {
    serve_in(&directories(), id, socket, mode)
}

pub(super) fn serve_in(
    directories: &[PathBuf],
    id: &str,
    socket: Option<&Path>,
    mode: SocketMode,
) -> Result<Registered, SocketError> {
    // Locked until the socket listens: before, others would take it for a stale one.
    let directory = directories.iter().find_map(|path| Directory::make(path).ok());
    let Some(path) = socket else { return Ok(at_its_name(directory.as_ref(), id, mode)) };
    let socket = ListeningSocket::bind(path, mode)?;
    let linked = match &directory {
        Some(directory) => link(directory, id, path),
        None => Err(io::Error::new(io::ErrorKind::NotFound, "there is no directory for it")),
    };
    let name = linked.unwrap_or_else(|error| {
        tracing::warn!(%error, "aerostat list does not show this guest");
        None
    });
    Ok(Registered { socket: Some(socket), name })
}

/// Listens at the guest's name.
fn at_its_name(directory: Option<&Directory>, id: &str, mode: SocketMode) -> Registered {
    let bound = match directory.and_then(|directory| directory.free_name(id)) {
        Some(name) => ListeningSocket::bind(&name, mode).map_err(|error| sentence(&error)),
        None => {
            Err("No directory for guests' names can be written by this user alone: see docs/command-line.md."
                .to_owned())
        }
    };
    let socket = bound.inspect_err(|why| {
        tracing::warn!("The guest has no API: name a socket with --api-sock to have one. {why}");
    });
    Registered { socket: socket.ok(), name: None }
}

/// Gives a socket that was just made its name, unless it was made there.
fn link(directory: &Directory, id: &str, socket: &Path) -> io::Result<Option<SocketFile>> {
    let socket = fs::canonicalize(socket)?;
    if directory.has(&socket) {
        return Ok(None);
    }
    directory.remove_links(&socket);
    let name = directory.free_name(id).ok_or(io::ErrorKind::AlreadyExists)?;
    symlink(socket, &name)?;
    SocketFile::at(&name).map(Some)
}
