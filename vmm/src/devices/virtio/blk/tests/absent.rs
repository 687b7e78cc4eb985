//! Guest RAM that is absent until the test lets it come: whoever touches it waits.

#![allow(unsafe_code, reason = "a userfaultfd, and memory taken away from the driver")]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::devices::virtio::GuestRam;

/// Calls of userfaultfd (`linux/userfaultfd.h`).
const NEW: libc::c_ulong = 0xAA00;
const API: libc::c_ulong = 0xC018_AA3F;
const REGISTER: libc::c_ulong = 0xC020_AA00;
const MISSING: u64 = 1;

/// It comes, as zeroes, when this is dropped.
pub(super) struct Absent(OwnedFd);

impl Absent {
    /// Takes whole pages of `ram` away; the test does not touch them itself.
    pub(super) fn new(ram: &GuestRam, at: u64, len: usize) -> Self {
        let start = ram.get_slice(GuestAddress(at), len).expect("in RAM").ptr_guard_mut().as_ptr();
        let device =
            open("/dev/userfaultfd", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("the device");
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // `struct uffdio_api`: version, features, calls; `struct uffdio_register`: start, length, mode, calls.
        let (mut api, mut range) = ([0xAA_u64, 0, 0], [start as u64, len as u64, MISSING, 0]);
        // SAFETY: the first call makes a descriptor, which is nobody else's. The others read and write arrays laid out as
        // their structures. The range is RAM of the test's own, to which no Rust reference exists.
        unsafe {
            let fd = libc::ioctl(device.as_raw_fd(), NEW, flags);
            assert!(fd >= 0, "a userfaultfd");
            let uffd = OwnedFd::from_raw_fd(fd);
            assert_eq!(libc::ioctl(fd, API, &raw mut api), 0, "a version that it knows");
            assert_eq!(libc::madvise(start.cast(), len, libc::MADV_DONTNEED), 0, "taken away");
            assert_eq!(libc::ioctl(fd, REGISTER, &raw mut range), 0, "watched");
            Self(uffd)
        }
    }

    /// Waits until somebody has touched it.
    pub(super) fn wait_for_touch(&self) {
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        let touched = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&patience)).expect("poll");
        assert_eq!(touched, 1, "somebody touches it");
    }
}
