//! userfaultfd(2): registration, faults, and `UFFDIO_MOVE`.
//!
//! The calls are made through rustix with the kernel's own structures (linux-raw-sys).
#![allow(unsafe_code)] // ioctls on a userfaultfd change address space

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linux_raw_sys::general::{
    UFFD_API, UFFD_EVENT_PAGEFAULT, UFFD_FEATURE_MOVE, UFFD_FEATURE_PAGEFAULT_FLAG_WP,
    UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP, uffd_msg, uffdio_api, uffdio_move, uffdio_range,
    uffdio_register,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::mm::{UserfaultfdFlags, userfaultfd};

#[cfg(test)]
use super::faults::Call;
use super::pagemap::Pagemap;
use crate::core::units::FRAME_SIZE;

const UFFDIO: u8 = 0xAA;
/// `USERFAULTFD_IOC_NEW` of `/dev/userfaultfd`.
const IOC_NEW: u32 = opcode::none(UFFDIO, 0x00);
const UFFDIO_API: u32 = opcode::read_write::<uffdio_api>(UFFDIO, 0x3F);
const UFFDIO_REGISTER: u32 = opcode::read_write::<uffdio_register>(UFFDIO, 0x00);
const UFFDIO_UNREGISTER: u32 = opcode::read::<uffdio_range>(UFFDIO, 0x01);
const UFFDIO_WAKE: u32 = opcode::read::<uffdio_range>(UFFDIO, 0x02);
const UFFDIO_MOVE: u32 = opcode::read_write::<uffdio_move>(UFFDIO, 0x05);

/// `UFFDIO_MOVE_MODE_DONTWAKE` (include/uapi/linux/userfaultfd.h), which linux-raw-sys has not.
const MOVE_MODE_DONTWAKE: u64 = 1;

const _: () = assert!(UFFDIO_API == linux_raw_sys::ioctl::UFFDIO_API);
const _: () = assert!(UFFDIO_REGISTER == linux_raw_sys::ioctl::UFFDIO_REGISTER);
const _: () = assert!(UFFDIO_WAKE == linux_raw_sys::ioctl::UFFDIO_WAKE);
const _: () = assert!(size_of::<uffdio_move>() == 40);
const _: () = assert!(size_of::<uffd_msg>() == 32);

/// Faults read in one call.
const BATCH: usize = 16;
/// How often the kernel may say "try again" before that is an error: it does while page tables change
/// under it, which is over in microseconds.
const ATTEMPTS: u32 = 10_000;

/// What a range is registered for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Watch {
    /// A touch of an absent page waits for us: guest space.
    Missing,
    /// Only so that `UFFDIO_MOVE` may put pages there: the arena. (Write-protect mode without any
    /// page protected; the kernel wants the destination of a move to be registered.)
    MoveTarget,
}

/// When those that wait for a page that moves are woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// As soon as it is there.
    Now,
    /// When the caller says so.
    Later,
}

/// A touch of an absent page; the thread that touched waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// Page-aligned address.
    pub(crate) address: usize,
}

/// Why there is no userfaultfd.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("no permission")]
    Permission,
    #[error("no UFFDIO_MOVE")]
    NoMove,
    #[error("userfaultfd failed")]
    Other(#[source] io::Error),
}

/// A move that did not go to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// Bytes that were moved before.
    pub(crate) done: usize,
    /// Why the next page was not.
    pub(crate) error: Errno,
}

impl From<Stopped> for io::Error {
    fn from(stopped: Stopped) -> Self {
        stopped.error.into()
    }
}

/// A userfaultfd with `UFFDIO_MOVE`.
#[derive(Debug)]
pub(crate) struct Uffd {
    fd: OwnedFd,
    pagemap: Pagemap,
    #[cfg(test)]
    pub(crate) faults: super::faults::Faults,
}

impl Uffd {
    pub(crate) fn open() -> Result<Self, OpenError> {
        let fd = Self::open_fd()?;
        let features = u64::from(UFFD_FEATURE_MOVE | UFFD_FEATURE_PAGEFAULT_FLAG_WP);
        let mut api = uffdio_api { api: u64::from(UFFD_API), features, ioctls: 0 };
        // SAFETY: the structure is the one that this request reads and writes.
        match unsafe { ioctl(&fd, Updater::<UFFDIO_API, _>::new(&mut api)) } {
            Ok(()) => Ok(Self {
                fd,
                pagemap: Pagemap::open().map_err(OpenError::Other)?,
                #[cfg(test)]
                faults: Default::default(),
            }),
            Err(Errno::INVAL) => Err(OpenError::NoMove),
            Err(error) => Err(OpenError::Other(error.into())),
        }
    }

    /// The device node needs only file permission; the system call needs CAP_SYS_PTRACE or
    /// `vm.unprivileged_userfaultfd=1` to see faults of the kernel (KVM's are).
    fn open_fd() -> Result<OwnedFd, OpenError> {
        if let Ok(device) = open("/dev/userfaultfd", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            let flags = (OFlags::CLOEXEC | OFlags::NONBLOCK).bits() as usize;
            if let Some(fd) = Self::from_device(device.as_fd(), flags) {
                return Ok(fd);
            }
        }
        // SAFETY: creates a file descriptor; what it may do to memory is up to later calls.
        match unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK) } {
            Ok(fd) => Ok(fd),
            Err(Errno::PERM | Errno::ACCESS) => Err(OpenError::Permission),
            Err(error) => Err(OpenError::Other(error.into())),
        }
    }

    fn from_device(device: BorrowedFd<'_>, flags: usize) -> Option<OwnedFd> {
        use std::os::fd::{AsRawFd, FromRawFd};
        // rustix's ioctl helpers drop the result, which is the new descriptor here.
        // SAFETY: the request takes flags by value and returns a new descriptor or -1.
        let fd = unsafe { libc::ioctl(device.as_raw_fd(), libc::c_ulong::from(IOC_NEW), flags) };
        // SAFETY: the descriptor is new and nobody else's.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(crate) fn register(&self, start: usize, len: usize, watch: Watch) -> io::Result<()> {
        #[cfg(test)]
        self.faults.check(Call::Register)?;
        let mode = match watch {
            Watch::Missing => UFFDIO_REGISTER_MODE_MISSING,
            Watch::MoveTarget => UFFDIO_REGISTER_MODE_WP,
        };
        let range = uffdio_range { start: start as u64, len: len as u64 };
        let mut register = uffdio_register { range, mode: u64::from(mode), ioctls: 0 };
        // SAFETY: the structure is the one that this request reads and writes. Registration makes
        // touches wait; the fault handler that ends the wait is the caller's.
        unsafe { ioctl(&self.fd, Updater::<UFFDIO_REGISTER, _>::new(&mut register))? };
        Ok(())
    }

    /// Ends the registration of a range: who waits there goes on, and its absent pages are the kernel's to fill.
    pub(crate) fn unregister(&self, start: usize, len: usize) -> io::Result<()> {
        #[cfg(test)]
        self.faults.check(Call::Unregister)?;
        let range = uffdio_range { start: start as u64, len: len as u64 };
        // SAFETY: the request reads a range; touches of absent pages give zeroed memory from now on, as
        // in any anonymous mapping.
        unsafe { ioctl(&self.fd, rustix::ioctl::Setter::<UFFDIO_UNREGISTER, _>::new(range))? };
        Ok(())
    }

    /// Moves the pages behind `len` bytes at `src` to `dst`, where nothing is. Both must be ours.
    /// A whole huge page moves as one where both are 2 MiB aligned and `dst` has no page table.
    /// Wakes whoever waits for `dst`.
    pub(crate) fn move_pages(&self, dst: usize, src: usize, len: usize) -> Result<(), Stopped> {
        self.move_and(Wake::Now, dst, src, len)
    }

    /// As [`Self::move_pages`], and who waits for `dst` is woken when the caller says so.
    pub(crate) fn move_and(&self, wake: Wake, dst: usize, src: usize, len: usize) -> Result<(), Stopped> {
        let (mut done, mut attempts) = (0, 0);
        loop {
            #[cfg(test)]
            if let Some(error) = self.faults.strikes(Call::Move) {
                return Err(Stopped { done, error });
            }
            let mut request = uffdio_move {
                dst: (dst + done) as u64,
                src: (src + done) as u64,
                len: (len - done) as u64,
                mode: match wake {
                    Wake::Now => 0,
                    Wake::Later => MOVE_MODE_DONTWAKE,
                },
                move_: 0,
            };
            // SAFETY: the structure is the one that this request reads and writes. The ranges are
            // those of frames that the caller holds (arena) and of guest pages of which it alone
            // decides (state locked, or busy); the kernel checks that both are mapped and registered.
            let result = unsafe { ioctl(&self.fd, Updater::<UFFDIO_MOVE, _>::new(&mut request)) };
            if request.move_ > 0 {
                done += request.move_ as usize;
                attempts = 0;
            }
            match result {
                Ok(()) if done >= len => return Ok(()),
                Ok(()) | Err(Errno::AGAIN) if attempts < ATTEMPTS => attempts += 1,
                Ok(()) => return Err(Stopped { done, error: Errno::AGAIN }),
                // Linux 6.18 forgets a page that it has moved at its second attempt, and then finds it where
                // it has put it (`move_pages`, mm/userfaultfd.c); nor has it woken who waits.
                Err(Errno::EXIST) if self.pagemap.is_absent(src + done) => {
                    if wake == Wake::Now {
                        let _ = self.wake(dst + done, FRAME_SIZE);
                    }
                    done += FRAME_SIZE;
                    if done >= len {
                        return Ok(());
                    }
                }
                Err(error) => return Err(Stopped { done, error }),
            }
        }
    }

    /// Wakes whoever waits for these pages; they try again.
    pub(crate) fn wake(&self, start: usize, len: usize) -> io::Result<()> {
        let range = uffdio_range { start: start as u64, len: len as u64 };
        // SAFETY: the request reads a range; waking a waiter changes no memory.
        unsafe { ioctl(&self.fd, rustix::ioctl::Setter::<UFFDIO_WAKE, _>::new(range))? };
        Ok(())
    }

    /// Reads the faults that wait, at most [`BATCH`]; none when there is none.
    pub(crate) fn read_faults(&self, faults: &mut Vec<Fault>) -> io::Result<()> {
        faults.clear();
        let mut buffer = [0u8; BATCH * size_of::<uffd_msg>()];
        let read = match rustix::io::read(&self.fd, &mut buffer) {
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for message in buffer[..read].chunks_exact(size_of::<uffd_msg>()) {
            // Layout of `struct uffd_msg`: event at 0, pagefault.address at 16.
            if u32::from(message[0]) == UFFD_EVENT_PAGEFAULT {
                let mut address = [0; 8];
                address.copy_from_slice(&message[16..24]);
                faults.push(Fault { address: u64::from_ne_bytes(address) as usize });
            }
        }
        Ok(())
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
