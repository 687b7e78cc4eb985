//! Facts that the guest's kernel tells about itself.

#![allow(unsafe_code, reason = "klogctl(2) and clock_gettime(2) are called directly")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;

/// `SYSLOG_ACTION_READ_ALL` of syslog(2).
const READ_ALL: i32 = 3;
/// `SYSLOG_ACTION_CONSOLE_LEVEL` of syslog(2).
const CONSOLE_LEVEL: i32 = 8;
/// Longest file that is sent to the host.
const LONGEST_FILE: u64 = 64 << 10;

/// Keeps kernel messages off the serial port, except emergencies; a panic prints in any case.
pub(crate) fn quiet_console() {
    // SAFETY: this action takes no buffer.
    unsafe { libc::klogctl(CONSOLE_LEVEL, std::ptr::null_mut(), 1) };
}

/// The end of the kernel's log.
pub(crate) fn log(bytes: u32) -> Result<String, String> {
    let len = bytes.clamp(1, 1 << 20);
    let mut buffer = vec![0_u8; len as usize];
    // SAFETY: the buffer is writable for `len` bytes, and 1 MiB fits an i32.
    let count = unsafe { libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), len.cast_signed()) };
    let count = usize::try_from(count).map_err(|_| "the kernel's log cannot be read".to_owned())?;
    buffer.truncate(count);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

/// Milliseconds of the monotonic clock.
pub(crate) fn uptime_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

/// The kernel's release.
pub(crate) fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// `/proc/meminfo` in KiB.
pub(crate) fn meminfo() -> Result<BTreeMap<String, u64>, String> {
    Ok(numbers(&read("/proc/meminfo")?))
}

/// `/proc/vmstat`, reduced to `names` unless that is empty.
pub(crate) fn vmstat(names: &[String]) -> Result<BTreeMap<String, u64>, String> {
    let mut all = numbers(&read("/proc/vmstat")?);
    if !names.is_empty() {
        all.retain(|name, _| names.contains(name));
    }
    Ok(all)
}

/// Lines of `name[:] number …`.
fn numbers(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?.trim_end_matches(':');
            Some((name.to_owned(), words.next()?.parse().ok()?))
        })
        .collect()
}

/// MemAvailable in MiB: what processes can have before the kernel runs into its watermarks.
pub(crate) fn available_mib() -> Result<u64, String> {
    let available = meminfo()?.get("MemAvailable").copied();
    available.map(|kib| kib >> 10).ok_or_else(|| "/proc/meminfo has no MemAvailable".to_owned())
}

/// Number of CPUs online, from a list as `0-2,5`.
pub(crate) fn cpus() -> Result<u32, String> {
    let list = read("/sys/devices/system/cpu/online")?;
    let mut count = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) if first <= last => count += last - first + 1,
            _ => return Err(format!("the list of CPUs {list:?} has an unknown form")),
        }
    }
    Ok(count)
}

/// A file as text.
pub(crate) fn read(path: &str) -> Result<String, String> {
    let attempt = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(LONGEST_FILE).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    attempt().map_err(|error| format!("cannot read {path}: {error}"))
}

/// Runs a command by the shell; gives what it printed.
pub(crate) fn run(command: &str) -> Result<String, String> {
    let output = std::process::Command::new("/bin/sh").args(["-c", command]).output();
    let output = output.map_err(|error| format!("no /bin/sh: {error}"))?;
    let printed = [&output.stdout[..], &output.stderr[..]].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    if output.status.success() {
        Ok(printed)
    } else {
        Err(format!("{command}: {}: {}", output.status, printed.trim()))
    }
}

/// Writes to a file that exists (sysfs, procfs).
pub(crate) fn write(path: &str, text: &str) -> Result<(), String> {
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|error| format!("cannot write {path}: {error}"))
}

/// Makes the next read of a block device reach the device.
pub(crate) fn drop_caches() -> Result<(), String> {
    rustix::fs::sync();
    write("/proc/sys/vm/drop_caches", "3")
}
