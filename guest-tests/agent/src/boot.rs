//! What an init does first: mounts and kernel modules.

#![allow(unsafe_code, reason = "mount(2) is called directly")]

use std::ffi::CString;
use std::fs;

/// Where the initramfs builder puts modules, and the list that says in which order to load them.
const MODULES: &str = "/modules";

/// What came of the modules.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    /// How many were loaded or were there already.
    pub(crate) loaded: u32,
    /// The others, with the reason.
    pub(crate) failed: Vec<String>,
}

/// Mounts proc, sys, dev and tmp. A failure shows later, in whatever needs the file.
pub(crate) fn mounts() {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
        let _ = fs::create_dir_all(target);
        let (Ok(kind), Ok(target)) = (CString::new(kind), CString::new(target)) else { continue };
        // SAFETY: all strings live until the call returns; a null data pointer is allowed.
        unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    }
}

/// Loads what `/modules/order` lists, one file name a line.
pub(crate) fn load_modules() -> Modules {
    let mut result = Modules::default();
    let order = fs::read_to_string(format!("{MODULES}/order")).unwrap_or_default();
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        match load(name) {
            Ok(()) => result.loaded += 1,
            Err(error) => result.failed.push(format!("{name}: {error}")),
        }
    }
    result
}

fn load(name: &str) -> std::io::Result<()> {
    let file = fs::File::open(format!("{MODULES}/{name}"))?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
