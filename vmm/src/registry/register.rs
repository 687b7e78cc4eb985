//! The way in: a process that serves its API gets a name. Without one the guest runs all the same.

use std::{fs, io, os::unix::fs::symlink, path::Path};

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
    // Locked until the socket listens: before, others would take it for a stale one.
    let directory = directories().and_then(|paths| Directory::first_of(&paths));
    serve_in(directory, id, socket, mode)
}

pub(super) fn serve_in(
    directory: io::Result<Directory>,
    id: &str,
    socket: Option<&Path>,
    mode: SocketMode,
) -> Result<Registered, SocketError> {
    let Some(path) = socket else {
        let socket = directory.map_err(|error| error.to_string()).and_then(|at| at_its_name(&at, id, mode));
        let socket = socket.inspect_err(|why| {
            tracing::warn!("The guest has no API until --api-sock names a socket for it: {why}");
        });
        return Ok(Registered { socket: socket.ok(), name: None });
    };
    let socket = ListeningSocket::bind(path, mode)?;
    let name = directory.and_then(|at| link(&at, id, path)).unwrap_or_else(|why| {
        tracing::warn!("Neither aerostat list nor --id finds this guest, but --api-sock does: {why}");
        None
    });
    Ok(Registered { socket: Some(socket), name })
}

/// Listens at the guest's name.
fn at_its_name(directory: &Directory, id: &str, mode: SocketMode) -> Result<ListeningSocket, String> {
    let name = directory.free_name(id).map_err(|error| error.to_string())?;
    ListeningSocket::bind(&name, mode).map_err(|error| sentence(&error))
}

/// Gives a socket that was just made its name, unless it was made there.
fn link(directory: &Directory, id: &str, socket: &Path) -> io::Result<Option<SocketFile>> {
    let socket = fs::canonicalize(socket)?;
    if directory.has(&socket)? {
        return Ok(None);
    }
    directory.remove_links(&socket);
    let name = directory.free_name(id)?;
    symlink(socket, &name)
        .and_then(|()| SocketFile::at(&name))
        .map(Some)
        .map_err(|error| io::Error::other(format!("its name {} cannot be made: {error}", name.display())))
}
