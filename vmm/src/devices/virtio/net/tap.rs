//! A TAP interface of the host as back end: every frame is one read or write, straight from and to guest RAM.
//!
//! ```text
//!   room for the largest frame ──▶ readv into the guest's buffers
//!   some room, but less        ──▶ read into `spare`; put when there is room, dropped if there never is
//!   no room                    ──▶ frames stay in the TAP, which drops them when it is full
//! ```
//!
//! The kernel's header (`IFF_VNET_HDR`) is virtio's, so offloads pass through: what the guest leaves to do is done by
//! the host's network stack, and the other way round.

#![allow(
    unsafe_code,
    reason = "ioctls of the TAP driver, and vectored I/O on guest RAM, which no slice may borrow"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::iter;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use vm_memory::VolatileSlice;

use super::{HEADER, Header, Inbox, MAX_FRAME, MIN_FRAME, NetBackend, Outgoing, Room, Transmitted, feature};

/// Bytes of an interface's name, with the NUL at its end (`IFNAMSIZ`).
const NAME: usize = 16;

/// What `TUNSETIFF` takes (`struct ifreq`, with `ifr_flags`).
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// Why a TAP cannot be used: one sentence that says what to do, with the host's reason where it has one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the sentences say it")]
pub enum TapError {
    #[error(
        "\"{0}\" is no name of a network interface: it has 1 to 15 letters, digits, dots, dashes or underscores."
    )]
    Name(String),
    #[error(
        "The network interface {0} does not exist, and who runs Aerostat may not make it: make it with \"ip tuntap add {0} mode tap user $USER\", or give Aerostat CAP_NET_ADMIN."
    )]
    Missing(String),
    #[error(
        "The network interface {0} is in use by another process: stop that one, or use another interface."
    )]
    InUse(String),
    #[error(
        "{0} is no TAP interface of one queue: make one with \"ip tuntap add NAME mode tap user $USER\"."
    )]
    NotATap(String),
    #[error(
        "The TAP interface {0} belongs to somebody else: make it with \"ip tuntap add {0} mode tap user $USER\" for who runs Aerostat."
    )]
    NotYours(String),
    #[error(
        "/dev/net/tun cannot be opened: load the module tun, and let who runs Aerostat read and write it"
    )]
    NoDriver(#[source] io::Error),
    #[error("The TAP interface {name} cannot be used")]
    Host {
        name: String,
        #[source]
        cause: io::Error,
    },
}

/// An open TAP interface.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// A frame that came while there was little room, with its header.
    spare: Box<[u8; HEADER + MAX_FRAME]>,
    /// Bytes in `spare`.
    waiting: Option<usize>,
    /// What the driver leaves to itself (`GUEST_*` of [`feature::OFFLOADS`]).
    offloads: u64,
}

/// The outcome of reading a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// One was read.
    Frame,
    /// One is lost, or the interface is.
    Failed,
    /// None is there, or there is no room.
    Nothing,
}

/// Reads that may fail in a row before none is tried: the next frame to come is an event. A frame that is lost leaves
/// those behind it, while an interface that is gone fails for ever.
const MAX_FAILURES: u32 = 16;

/// Frames that a driver leaves behind at most; a TAP holds 1000, unless told otherwise.
const MAX_QUEUED: u32 = 16 << 10;

impl Tap {
    /// Attaches to the TAP interface `name`. Nobody else can while this lives. One that does not exist is made, down and
    /// without an address, and goes with this.
    ///
    /// # Errors
    /// One sentence, for the operator.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let owned = || name.to_owned();
        if !Self::is_name(name) {
            return Err(TapError::Name(owned()));
        }
        let mut request = InterfaceRequest {
            name: [0; NAME],
            flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short,
            rest: [0; 22],
        };
        for (to, from) in request.name.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun").map_err(TapError::NoDriver)?;
        // SAFETY: the request is a whole `struct ifreq`, which the kernel reads and writes during the call.
        let attached = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if attached < 0 {
            let cause = io::Error::last_os_error();
            return Err(match cause.raw_os_error() {
                Some(libc::EBUSY) => TapError::InUse(owned()),
                Some(libc::EINVAL) => TapError::NotATap(owned()),
                // SAFETY: the name is at most 15 bytes long, so a NUL ends it.
                Some(libc::EPERM) if unsafe { libc::if_nametoindex(request.name.as_ptr().cast()) } == 0 => {
                    TapError::Missing(owned())
                }
                Some(libc::EPERM) => TapError::NotYours(owned()),
                _ => TapError::Host { name: owned(), cause },
            });
        }
        let tap = Self::with(file);
        let header = HEADER as libc::c_int;
        // SAFETY: the kernel reads one int during the call.
        let set = unsafe { libc::ioctl(tap.file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) };
        if set < 0 {
            return Err(TapError::Host { name: owned(), cause: io::Error::last_os_error() });
        }
        tap.offload(0).map_err(|cause| TapError::Host { name: owned(), cause })?;
        Ok(tap)
    }

    /// The same interface once more: it is attached until both are gone.
    pub(super) fn again(&self, name: &str) -> Result<Self, TapError> {
        let failed = |cause| TapError::Host { name: name.to_owned(), cause };
        self.file.try_clone().map(Self::with).map_err(failed)
    }

    fn with(file: File) -> Self {
        Self { file, spare: Box::new([0; HEADER + MAX_FRAME]), waiting: None, offloads: 0 }
    }

    /// Whether the kernel could have an interface of this name, and an operator write it without quotes.
    pub fn is_name(name: &str) -> bool {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        (1..NAME).contains(&name.len()) && name.chars().all(good) && name != "." && name != ".."
    }

    /// Says what may be left to do for who reads (`TUN_F_*`).
    fn offload(&self, flags: libc::c_uint) -> io::Result<()> {
        // SAFETY: the argument is a number, not an address.
        let set =
            unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Puts the frame that waits, or drops it if it never fits. `false`: it waits on.
    fn put_waiting(&mut self, inbox: &mut Inbox<'_>) -> bool {
        let Some(frame) = self.waiting.and_then(|len| self.spare.get(..len)) else {
            return true;
        };
        match frame.split_first_chunk::<HEADER>() {
            Some((header, frame)) if frame.len() >= MIN_FRAME => match inbox.room(frame.len()) {
                Room::Wait => return false,
                Room::TooSmall => inbox.dropped_too_large(),
                Room::Enough => {
                    if !taken(header, self.offloads).is_some_and(|header| inbox.put(&header, frame)) {
                        inbox.host_error();
                    }
                }
            },
            _ => inbox.host_error(),
        }
        self.waiting = None;
        true
    }

    /// Reads one frame.
    fn read(&mut self, inbox: &mut Inbox<'_>) -> Read {
        let read = match inbox.room(MAX_FRAME) {
            Room::Enough => inbox.read_into(|slices| {
                let mut header = [0; HEADER];
                let first = libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: HEADER };
                let parts: Vec<_> = iter::once(first).chain(slices.map(|slice| part(&slice))).collect();
                // SAFETY: the first part is `header`, which lives to the end of this closure. Each other is within
                // guest RAM, which the inbox lends until this returns; it is shared, volatile memory to which no
                // Rust reference exists.
                let bytes =
                    done(|| unsafe { libc::readv(self.file.as_raw_fd(), parts.as_ptr(), count(&parts)) })?;
                let header = taken(&header, self.offloads).ok_or(io::ErrorKind::InvalidData)?;
                Ok((header, bytes.saturating_sub(HEADER)))
            }),
            Room::Wait if inbox.room(MIN_FRAME) == Room::Wait => return Read::Nothing,
            _ => (&self.file).read(&mut self.spare[..]).map(|len| {
                self.waiting = Some(len);
            }),
        };
        match read {
            Ok(()) => Read::Frame,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            Err(_) => {
                inbox.host_error();
                Read::Failed
            }
        }
    }

    /// Drops what came for a driver that is gone: the next one may not take it.
    fn drain(&mut self) {
        self.waiting = None;
        for _ in 0..MAX_QUEUED {
            if (&self.file).read(&mut self.spare[..]).is_err() {
                return;
            }
        }
    }
}

impl NetBackend for Tap {
    fn features(&self) -> u64 {
        feature::OFFLOADS
    }

    fn set_offloads(&mut self, features: u64) -> io::Result<()> {
        let pairs = [
            (feature::GUEST_CSUM, libc::TUN_F_CSUM),
            (feature::GUEST_TSO4, libc::TUN_F_TSO4),
            (feature::GUEST_TSO6, libc::TUN_F_TSO6),
        ];
        self.offloads = features;
        let flags = pairs.iter().filter(|(bit, _)| features & 1 << bit != 0).map(|(_, flag)| flag);
        self.offload(flags.sum())
    }

    fn transmit(&mut self, frame: &Outgoing<'_>, _inbox: &mut Inbox<'_>) -> Transmitted {
        // Our copy of the header, which was checked.
        let mut header = frame.header().bytes(0);
        let header = libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: HEADER };
        let parts: Vec<_> = iter::once(header).chain(frame.slices().map(|slice| part(&slice))).collect();
        // SAFETY: the first part is `header`, which lives to the end of this function. Each other is within
        // guest RAM, as in `read`.
        let written = done(|| unsafe { libc::writev(self.file.as_raw_fd(), parts.as_ptr(), count(&parts)) });
        match written {
            Ok(_) => Transmitted::Sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Transmitted::Full,
            Err(_) => Transmitted::Refused,
        }
    }

    fn receive(&mut self, inbox: &mut Inbox<'_>) {
        let mut failures = 0;
        while self.put_waiting(inbox) && failures < MAX_FAILURES {
            match self.read(inbox) {
                Read::Frame => failures = 0,
                Read::Failed => failures += 1,
                Read::Nothing => return,
            }
        }
    }

    fn events(&self) -> Vec<RawFd> {
        vec![self.file.as_raw_fd()]
    }

    fn reset(&mut self) {
        self.offloads = 0;
        // Fails only if the interface is gone, and then nothing comes.
        let _ = self.offload(0);
        // Now, for what comes from here on is for a driver that leaves nothing to itself.
        self.drain();
    }
}

/// The header, cleared of what is not for a driver with these offloads; `None` if it may not have the frame.
fn taken(header: &[u8; HEADER], offloads: u64) -> Option<Header> {
    Header::parse(*header).filter(|header| header.is_taken(offloads))
}

fn part(slice: &VolatileSlice<'_>) -> libc::iovec {
    libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() }
}

/// The number of parts, as far as one call takes them.
fn count(parts: &[libc::iovec]) -> libc::c_int {
    parts.len().min(libc::UIO_MAXIOV as usize) as libc::c_int
}

/// Calls until no signal comes in between.
fn done(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(bytes) => return Ok(bytes),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
