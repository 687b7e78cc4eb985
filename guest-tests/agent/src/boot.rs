//! The first work of an init: mounts and kernel modules, and the way to a root disk where there is one.

#![allow(unsafe_code, reason = "mount(2) is called directly")]

use std::ffi::CString;
use std::os::unix::process::CommandExt;
use std::{fs, io};

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

/// Mounts, loads modules, and goes on from the root disk where there is one.
pub(crate) fn run() -> Modules {
    mounts();
    let mut modules = load_modules();
    if let Err(error) = enter_root_disk() {
        modules.failed.push(format!("root disk: {error}"));
    }
    modules
}

/// Mounts proc, sys, dev and tmp. A failure shows later, in whatever needs the file.
fn mounts() {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
        let _ = fs::create_dir_all(target);
        let _ = mount(kind, target, kind, 0);
    }
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong) -> io::Result<()> {
    let (source, target, kind) = (CString::new(source)?, CString::new(target)?, CString::new(kind)?);
    // SAFETY: all strings live until the call returns; a null data pointer is allowed.
    match unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where `root=` on the kernel's command line names a disk: mounts it, and goes on as `/sbin/init`
/// there. Returns where it names none, or on the disk itself, which has no modules.
///
/// # Errors
/// The disk cannot be mounted, or has no `/sbin/init`.
fn enter_root_disk() -> io::Result<()> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let Some(disk) = line.split_whitespace().find_map(|word| word.strip_prefix("root=")) else {
        return Ok(());
    };
    if !fs::exists(MODULES)? {
        return Ok(());
    }
    load_set("root")?;
    let read_only = line.split_whitespace().any(|word| word == "ro");
    mount(disk, "/root", "ext4", if read_only { libc::MS_RDONLY } else { 0 })?;
    std::os::unix::fs::chroot("/root")?;
    std::env::set_current_dir("/")?;
    Err(std::process::Command::new("/sbin/init").exec())
}

/// Loads what `/modules/order` lists, one file name a line.
fn load_modules() -> Modules {
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

/// Loads what `/modules/SET` lists: what only some guests need. A root disk has none: there it does nothing.
///
/// # Errors
/// A module cannot be loaded.
pub(crate) fn load_set(set: &str) -> io::Result<()> {
    let list = fs::read_to_string(format!("{MODULES}/{set}")).unwrap_or_default();
    list.lines().try_for_each(load)
}

fn load(name: &str) -> io::Result<()> {
    let file = fs::File::open(format!("{MODULES}/{name}"))?;
    let options = CString::new(options(name, &fs::read_to_string("/proc/cmdline")?))?;
    match rustix::system::finit_module(&file, &options, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Options of a module from the kernel's command line, as modprobe(8) passes them on: `MODULE.OPTION=VALUE`.
fn options(file: &str, line: &str) -> String {
    let module = file.trim_end_matches(".ko").replace('-', "_");
    let own = |word| str::strip_prefix(word, module.as_str())?.strip_prefix('.');
    line.split_whitespace().filter_map(own).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::options;

    #[test]
    fn a_module_gets_its_own_words_of_the_command_line() {
        let line = "quiet virtio_mmio.device=4K@0xd0000000:5 virtio.x=1 virtio_mmio.device=4K@0xd0001000:6\n";
        assert_eq!(options("virtio_mmio.ko", line), "device=4K@0xd0000000:5 device=4K@0xd0001000:6");
        assert_eq!(options("virtio-rng.ko", line), "");
    }
}
