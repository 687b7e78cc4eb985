//! The socket file: made where nobody listens, removed at the end.
//!
//! ```text
//! nothing there ───────────────────▶ bind
//! a socket, connection refused ────▶ stale: removed, bind
//! a socket, somebody listens ──────▶ refused
//! anything else ───────────────────▶ refused, left alone
//! ```
//!
//! Its mode is what was asked for, whatever the umask, and at no time more: the socket has it before it has a name.

use std::{
    fmt, fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::{
    fs::{Mode, chmod, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
};

/// Longest path of a socket: `sun_path` of `sockaddr_un` is 108 bytes, one of them the final NUL.
pub(crate) const MAX_PATH: usize = 107;

/// Connections that may wait for being taken.
const BACKLOG: i32 = 128;

/// The permission bits of a socket's file: they say who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(u32);

impl SocketMode {
    /// The owner alone.
    pub const OWNER: Self = Self(0o600);
}

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u32::from_str_radix(text, 8) {
            Ok(bits @ 0..=0o777) if !text.starts_with('+') => Ok(Self(bits)),
            _ => Err(format!("\"{text}\" is no mode: write permission bits in octal, say 660")),
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03o}", self.0)
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// An empty path would mean an unnamed socket.
    #[error("The path of the socket is empty: name a file.")]
    Empty,
    /// Too long for the system.
    #[error(
        "The path of the socket is {0} bytes long, but a socket's path has at most {MAX_PATH}: choose a shorter one."
    )]
    TooLong(usize),
    /// A file that is not ours to remove.
    #[error("{} exists and is not a socket: remove it or choose another path.", .0.display())]
    NotASocket(PathBuf),
    /// Somebody listens.
    #[error("The socket {} is in use by another process: choose another path.", .0.display())]
    InUse(PathBuf),
    /// The system refuses.
    #[error("The socket {} cannot be made", path.display())]
    Io {
        /// Where it was to be.
        path: PathBuf,
        /// Why it cannot be.
        source: io::Error,
    },
}

/// A listening socket; its file goes when it is dropped, unless it is to be left.
#[derive(Debug)]
pub struct ListeningSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl ListeningSocket {
    /// Listens at `path`, for those that `mode` lets connect.
    pub fn bind(path: &Path, mode: SocketMode) -> Result<Self, SocketError> {
        match path.as_os_str().as_bytes().len() {
            0 => return Err(SocketError::Empty),
            1..=MAX_PATH => {}
            length => return Err(SocketError::TooLong(length)),
        }
        make_room(path)?;
        let failed = |source| failed(path, source);
        let listener = listen_at(path, Mode::from_raw_mode(mode.0)).map_err(|error| failed(error.into()))?;
        let file = SocketFile::at(path).map_err(failed)?;
        Ok(Self { listener, file })
    }

    /// The same, whose file stays at the end: stale, as the next start finds.
    #[must_use]
    pub fn left(mut self) -> Self {
        self.file.is_left = true;
        self
    }

    /// The listener, and the guard that removes its file when dropped.
    pub fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// Removes the socket's file, or a link to it, when dropped, unless it is another's by now, or to be left.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    is_left: bool,
}

impl SocketFile {
    /// The file that was just made there.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)?, is_left: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Device and inode, which tell a file from another that takes its name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = identity(&self.path).is_ok_and(|identity| identity == self.identity);
        if ours && !self.is_left {
            // If it cannot be removed, the next start finds it stale and tries again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn listen_at(path: &Path, mode: Mode) -> rustix::io::Result<UnixListener> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The file gets the mode of the socket, but for what the umask takes away.
    fchmod(&socket, mode)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    chmod(path, mode)?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

fn make_room(path: &Path) -> Result<(), SocketError> {
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(path, error)),
        Ok(meta) => meta,
    };
    if !meta.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match knock(path) {
        Err(error) if nobody_listens(&error) => fs::remove_file(path).map_err(|error| failed(path, error)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failed(path, error)),
        // Connected, or something odd lives there: either way it is not ours.
        _ => Err(SocketError::InUse(path.to_owned())),
    }
}

/// Connects to a socket, and never waits for who listens there: [`io::ErrorKind::WouldBlock`] if too many others wait.
pub(crate) fn knock(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Whether that is what [`knock`] says of a socket that was left behind, or of a link to nothing.
pub(crate) fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn failed(path: &Path, source: io::Error) -> SocketError {
    SocketError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("api.sock");
        drop(UnixListener::bind(&path).expect("a socket that nobody removes"));
        assert!(path.exists());
        let socket = ListeningSocket::bind(&path, SocketMode::OWNER).expect("stale: replaced");
        let again = ListeningSocket::bind(&path, SocketMode::OWNER).expect_err("live");
        assert_eq!(
            again.to_string(),
            format!("The socket {} is in use by another process: choose another path.", path.display())
        );
        assert!(UnixStream::connect(&path).is_ok(), "the live one still listens");
        drop(socket);
        assert!(!path.exists(), "removed at the end");
        drop(ListeningSocket::bind(&path, SocketMode::OWNER).expect("bind").left());
        assert!(path.exists(), "left at the end");
        drop(ListeningSocket::bind(&path, SocketMode::OWNER).expect("stale: replaced"));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("api.sock");
        fs::write(&path, "precious").expect("write");
        assert!(matches!(ListeningSocket::bind(&path, SocketMode::OWNER), Err(SocketError::NotASocket(_))));
        assert!(matches!(
            ListeningSocket::bind(dir.path(), SocketMode::OWNER),
            Err(SocketError::NotASocket(_))
        ));
        assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");

        // Ours was replaced behind our back: the other's file stays.
        fs::remove_file(&path).expect("remove");
        let socket = ListeningSocket::bind(&path, SocketMode::OWNER).expect("bind");
        fs::rename(&path, dir.path().join("moved")).expect("rename");
        fs::write(&path, "another's").expect("write");
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn modes_are_octal_and_nothing_else() {
        for (text, bits) in [("600", 0o600), ("0660", 0o660), ("0", 0), ("777", 0o777)] {
            assert_eq!(text.parse(), Ok(SocketMode(bits)));
        }
        for text in ["", "680", "1000", "-1", "+600", "rw", "0o600"] {
            let refused = text.parse::<SocketMode>().expect_err(text);
            assert_eq!(refused, format!("\"{text}\" is no mode: write permission bits in octal, say 660"));
        }
        assert_eq!(SocketMode::OWNER.to_string(), "600");
    }

    #[test]
    fn impossible_paths_say_why() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let long = dir.path().join("x".repeat(120));
        let length = long.as_os_str().len();
        assert_eq!(
            ListeningSocket::bind(&long, SocketMode::OWNER).expect_err("too long").to_string(),
            format!(
                "The path of the socket is {length} bytes long, but a socket's path has at most 107: choose a shorter one."
            )
        );
        assert!(matches!(ListeningSocket::bind(Path::new(""), SocketMode::OWNER), Err(SocketError::Empty)));
        let nowhere = dir.path().join("no/such/directory");
        assert!(matches!(ListeningSocket::bind(&nowhere, SocketMode::OWNER), Err(SocketError::Io { .. })));
    }
}
