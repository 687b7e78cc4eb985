//! One directory of names, while its lock is held.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, Metadata, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Access, AtFlags, CWD, FlockOperation, accessat, flock},
    io::Errno,
    process::geteuid,
};

use super::ENDING;
use crate::socket::{MAX_PATH, knock, nobody_listens};

/// Only the owner sees what is in it.
const MODE: u32 = 0o700;
/// Others have the lock for a moment only: one that has it longer was stopped meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to get it.
const INTERVAL: Duration = Duration::from_millis(5);

/// The directory; its lock goes when this is dropped, or the process ends.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// The first of these that can be used.
    ///
    /// # Errors
    /// None can be, each for its reason.
    pub(super) fn first_of(paths: &[PathBuf]) -> io::Result<Self> {
        let mut reasons = Vec::new();
        for path in paths {
            match Self::make(path) {
                Ok(directory) => return Ok(directory),
                Err(error) => reasons.push(format!("{}: {error}", path.display())),
            }
        }
        Err(io::Error::other(format!("its name has no directory ({})", reasons.join("; "))))
    }

    /// Makes the directory if it is not there, and takes its lock.
    ///
    /// # Errors
    /// It cannot be written, anybody can write it, or somebody has the lock.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(MODE).create(path) {
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(MODE))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Self::lock(path)
    }

    /// Takes the lock of a directory that is there.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub(super) fn lock(path: &Path) -> io::Result<Self> {
        accessat(CWD, path, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
        let file = File::open(path)?;
        if !is_trusted(path) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others can write it"));
        }
        let start = Instant::now();
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if start.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("another process keeps its lock: {error}")));
            }
            thread::sleep(INTERVAL);
        }
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    /// A name for a guest of this id that nobody has: a second guest of an id gets its process with it.
    ///
    /// # Errors
    /// Both are taken, or too long.
    pub(super) fn free_name(&self, id: &str) -> io::Result<PathBuf> {
        let (first, second) = (id.to_owned(), format!("{id}.{}", std::process::id()));
        for id in [&first, &second] {
            let name = self.name(format!("{id}{ENDING}").as_ref())?;
            if self.is_free(&name) {
                return Ok(name);
            }
        }
        let here = self.path.display();
        Err(io::Error::other(format!("the names {first} and {second} in {here} are taken")))
    }

    /// The path of a name.
    ///
    /// # Errors
    /// Nobody could connect to it.
    fn name(&self, name: &OsStr) -> io::Result<PathBuf> {
        let name = self.path.join(name);
        let (length, here) = (name.as_os_str().len(), self.path.display());
        if length > MAX_PATH {
            return Err(io::Error::other(format!(
                "its name in {here} would have {length} bytes, and the path of a socket has at most {MAX_PATH}"
            )));
        }
        Ok(name)
    }

    /// Whether nobody has this name; a stale one is removed.
    pub(super) fn is_free(&self, name: &Path) -> bool {
        match fs::symlink_metadata(name) {
            Err(error) => error.kind() == io::ErrorKind::NotFound,
            Ok(meta) => is_name(&meta) && is_stale(name) && fs::remove_file(name).is_ok(),
        }
    }

    /// Removes all links to this socket, which is new: their guests have ended.
    pub(super) fn remove_links(&self, socket: &Path) {
        for name in names(&self.path) {
            if fs::read_link(&name).is_ok_and(|target| target == socket) {
                // One that stays says that two guests have one socket, which is ugly and harms nobody.
                let _ = fs::remove_file(name);
            }
        }
    }

    /// Whether a socket has its name here already.
    ///
    /// # Errors
    /// It has, and nobody could connect by that name.
    pub(super) fn has(&self, socket: &Path) -> io::Result<bool> {
        let here = fs::canonicalize(&self.path).ok();
        match socket.file_name() {
            Some(name) if here.as_deref() == socket.parent() && id_of(socket).is_some() => {
                self.name(name).map(|_| true)
            }
            _ => Ok(false),
        }
    }
}

/// Whether nobody but root and this user can write a directory, or whom they let.
pub(super) fn is_trusted(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|meta| is_trusted_user(meta.uid()) && meta.mode() & 0o002 == 0)
}

/// Whether what a user made may be taken for what it says: root's and this user's.
pub(super) fn is_trusted_user(user: u32) -> bool {
    [0, geteuid().as_raw()].contains(&user)
}

/// Whether a file can be a guest's name.
fn is_name(meta: &Metadata) -> bool {
    meta.is_symlink() || meta.file_type().is_socket()
}

/// Whether nobody listens behind a name.
pub(super) fn is_stale(name: &Path) -> bool {
    knock(name).is_err_and(|error| is_gone(name, &error))
}

/// Whether this error says that nobody listens behind a name: a link may lead to what never was a monitor's socket.
pub(super) fn is_gone(name: &Path, error: &io::Error) -> bool {
    let leads_nowhere = || {
        let error = Errno::from_io_error(error);
        error.is_some_and(|error| {
            [Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG, Errno::PROTOTYPE].contains(&error)
        })
    };
    nobody_listens(error) || fs::symlink_metadata(name).is_ok_and(|meta| meta.is_symlink()) && leads_nowhere()
}

/// All names in a directory, in order.
pub(super) fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| id_of(path).is_some() && fs::symlink_metadata(path).is_ok_and(|meta| is_name(&meta)))
        .collect();
    names.sort();
    names
}

/// The id that a name says. Names that a terminal could not show are nobody's.
pub(super) fn id_of(name: &Path) -> Option<&str> {
    let id = name.file_name()?.to_str()?.strip_suffix(ENDING)?;
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic())).then_some(id)
}
