//! The host merges pages that hold the same (KSM), as fast as it can.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

use super::{number, read, set};
use crate::process::{Reaped, die_with_parent};
use crate::testvm::wait_until;

const SETTINGS: &str = "/sys/kernel/mm/ksm";
/// Without a pause, whatever pages did before; zeroes go to the shared zero page. It starts last and ends first.
const FULL_SPEED: [(&str, &str); 5] = [
    ("sleep_millisecs", "0"),
    ("pages_to_scan", "4096"),
    ("smart_scan", "0"),
    ("use_zero_pages", "1"),
    ("run", "1"),
];
/// `prctl(PR_SET_MEMORY_MERGE, 1)`, as systemd's `MemoryKSM=` makes it, and the rest of the words.
const MERGE: &str =
    "syscall(157, 67, 1, 0, 0, 0) == 0 or die qq(prctl: $!\\n); exec @ARGV or die qq(exec: $!\\n)";

/// Somebody whose pages are merged, so that the kernel's thread has work: it rests where there are none to look at.
const OTHER: &str = r#"$pages = "same" x (4 << 20); sleep"#;

/// KSM at full speed, with a process of which it merges 16 MiB. Dropping it sets everything back.
#[derive(Debug)]
pub struct Ksm {
    before: Vec<(&'static str, String)>,
    other: Reaped,
}

/// What KSM did to one process, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Looked at again and again.
    pub looked_at: u64,
    /// Shared with others that hold the same.
    pub merged: u64,
}

impl Ksm {
    /// The words that start a command with all of its memory open to merging.
    pub const WORDS: [&str; 3] = ["perl", "-e", MERGE];

    /// Lets it run.
    ///
    /// # Errors
    /// The kernel has no KSM, or it does nothing.
    pub fn at_full_speed() -> anyhow::Result<Self> {
        let [program, arguments @ ..] = Self::WORDS;
        let mut command = Command::new(program);
        command.args(arguments).args(["perl", "-e", OTHER]);
        die_with_parent(&mut command);
        let other = Reaped(command.spawn().context("cannot run perl")?);
        let mut ksm = Self { before: Vec::new(), other };
        beside_us()?;
        for (name, value) in FULL_SPEED {
            let path = Path::new(SETTINGS).join(name);
            ksm.before.push((name, read(&path)?.trim().to_owned()));
            set(&path, value)?;
        }
        let is_busy = wait_until(|| Ok(ksm.merged(ksm.other.0.id())?.merged > 0))?;
        ensure!(is_busy, "KSM merges nothing");
        Ok(ksm)
    }

    /// How often all that may be merged was looked at.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn scans(&self) -> anyhow::Result<u64> {
        let text = read(&Path::new(SETTINGS).join("full_scans"))?;
        text.trim().parse().with_context(|| format!("full_scans says {text}"))
    }

    /// Its work on the pages of a process.
    ///
    /// # Errors
    /// The process is gone.
    pub fn merged(&self, pid: u32) -> anyhow::Result<Merged> {
        let text = read(&Path::new("/proc").join(pid.to_string()).join("ksm_stat"))?;
        let count = |name| number(&text, name).with_context(|| format!("ksm_stat has no {name}: {text}"));
        Ok(Merged { looked_at: count("ksm_rmap_items")?, merged: count("ksm_merging_pages")? })
    }
}

impl Drop for Ksm {
    fn drop(&mut self) {
        for (name, value) in self.before.iter().rev() {
            if let Err(error) = set(&Path::new(SETTINGS).join(name), value) {
                eprintln!("{error:#}");
            }
        }
    }
}

/// Keeps the kernel's thread to our own CPU: an emulated host is wrong more often with two that are busy.
fn beside_us() -> anyhow::Result<()> {
    let ours = sched_getaffinity(None)?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let (Some(pid), "ksmd") = (pid, name.trim()) {
            sched_setaffinity(Some(pid), &ours).context("cannot keep ksmd to our CPU")?;
        }
    }
    Ok(())
}
