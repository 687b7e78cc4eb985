//! A TAP interface of the host with an address of its own, gone when it is dropped.
//!
//! ```text
//! this process: TUNSETIFF, persistent, closed ──▶ aerotap0, 198.18.0.1/24 ◀── the monitor attaches by name
//! ```
//! It needs CAP_NET_ADMIN and the `tun` module: the nested host has both.

#![allow(unsafe_code, reason = "ioctl(2) with a number for an argument is called directly")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::Context;
use guest_agent::interface::{self, Cidr};

/// One name, so that what a killed test has left behind is taken over. One test at a time has it anyway,
/// because of its address.
const NAME: &str = "aerotap0";

/// A TAP interface.
#[derive(Debug)]
pub struct Tap(());

impl Tap {
    /// Makes one that is up, with an address as `10.0.0.1/24`.
    ///
    /// # Errors
    /// This process may not, or there is no `tun` module.
    pub fn create(address: &str) -> anyhow::Result<Self> {
        let cidr: Cidr = address.parse().map_err(anyhow::Error::msg)?;
        let file = attach().context(
            "cannot make a TAP interface: it needs the tun module and the right to administer the network \
             (run as root, or through ci/kvm-host), and no other test that has one",
        )?;
        persist(&file, true).with_context(|| format!("cannot keep {NAME}"))?;
        let tap = Self(());
        interface::bring_up(NAME, cidr).with_context(|| format!("cannot bring {NAME} up"))?;
        Ok(tap)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        NAME
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // That fails while a monitor is attached: then the next test takes it over.
        let _ = attach().and_then(|file| persist(&file, false));
    }
}

/// Opens the interface, new or not.
fn attach() -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = interface::request(NAME)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    interface::ioctl(&file, libc::TUNSETIFF, &mut request)?;
    Ok(file)
}

/// Whether the interface outlives its last file.
fn persist(file: &File, on: bool) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the argument is a number.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(on)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
