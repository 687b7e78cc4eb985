//! Where guests are found: a directory with one name for each API that is served.
//!
//! ```text
//! /run/aerostat/web.sock                      the socket itself, if nobody said where it is to be
//! /run/aerostat/db.sock ──▶ /tmp/vm.sock      a link to the socket that --api-sock names
//! /run/aerostat/db.4711.sock ──▶ …            a second guest of the id "db": its process is added
//! ```
//!
//! There is no record beside the name, so none can be wrong: the kernel says who listens at a socket. A name behind which
//! nobody listens is stale, and whoever sees it removes it. Names are made and removed under a lock of the directory,
//! because a name may be stale for one and made anew by another.

mod directory;
mod find;
mod process;
mod register;

pub use find::{Guest, guests};
pub use process::{Process, is_served};
pub use register::{Registered, serve};

use std::{env, ffi::OsString, io, path::PathBuf};

/// The directory of guests that root runs.
const SYSTEM: &str = "/run/aerostat";
/// The variable that names a directory instead of all others.
const ONLY: &str = "AEROSTAT_RUNTIME_DIR";
/// Ending of a name.
const ENDING: &str = ".sock";

/// Directories in which guests may be, the first choice first.
///
/// # Errors
/// The environment names one by a path that is not absolute.
pub fn directories() -> io::Result<Vec<PathBuf>> {
    directories_by(|name| env::var_os(name))
}

fn directories_by(variable: impl Fn(&str) -> Option<OsString>) -> io::Result<Vec<PathBuf>> {
    let path = |name| variable(name).map(PathBuf::from).filter(|path| !path.as_os_str().is_empty());
    match path(ONLY) {
        Some(only) if only.is_absolute() => return Ok(vec![only]),
        Some(only) => {
            return Err(io::Error::other(format!(
                "{ONLY} is {}, but has to be an absolute path",
                only.display()
            )));
        }
        None => {}
    }
    // Others set this one for all programs, which are to ignore a path that is not absolute.
    let of_user = path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()).map(|path| path.join("aerostat"));
    Ok([PathBuf::from(SYSTEM)].into_iter().chain(of_user).collect())
}

#[cfg(test)]
mod tests;
