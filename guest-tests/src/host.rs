//! A guest's cost for the host, read from the host's `/proc`.

mod cpu;
mod physical;

use std::fs;

use anyhow::Context;

pub use self::cpu::{CpuTimes, Thread, busy, cpu_times, family_cpu_time, threads};
pub use self::physical::{fail_page, physical_pages, stray_pages};

/// The smallest run of anonymous mappings that is taken for guest memory; stacks and heaps of the
/// monitors are smaller.
const SMALLEST_RAM_KIB: u64 = 96 << 10;

/// Resident memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Resident {
    /// `Rss` in MiB.
    pub mib: f64,
    /// `AnonHugePages` in MiB.
    pub huge_mib: f64,
}

/// The resident memory of a process, all mappings (`smaps_rollup`).
///
/// # Errors
/// The process is gone.
pub fn resident(pid: u32) -> anyhow::Result<Resident> {
    let text = read(&format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |name| text.lines().find_map(|line| field(line, name)).unwrap_or(0);
    Ok(Resident { mib: mib(kib("Rss:")), huge_mib: mib(kib("AnonHugePages:")) })
}

/// Page tables of a process, MiB (`VmPTE`); those that KVM has of its own are not among them.
///
/// # Errors
/// The process is gone.
pub fn page_tables(pid: u32) -> anyhow::Result<f64> {
    let text = read(&format!("/proc/{pid}/status"))?;
    Ok(mib(text.lines().find_map(|line| field(line, "VmPTE:")).unwrap_or(0)))
}

/// The resident memory of a process, guest memory apart from the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Split {
    /// Large anonymous mappings: guest RAM, and with Aerostat the arena behind it.
    pub ram: Resident,
    /// Everything else: the monitor itself.
    pub rest: Resident,
}

/// Tells guest memory from the monitor's own by the size of the mappings (`smaps`).
///
/// # Errors
/// The process is gone.
pub fn split(pid: u32) -> anyhow::Result<Split> {
    Ok(split_smaps(&read(&format!("/proc/{pid}/smaps"))?))
}

/// Adjacent writable anonymous mappings.
#[derive(Default)]
struct Run {
    start: u64,
    end: u64,
    rss: u64,
    huge: u64,
    anonymous: bool,
}

impl Run {
    fn is_ram(&self) -> bool {
        self.anonymous && (self.end - self.start) >> 10 >= SMALLEST_RAM_KIB
    }
}

fn runs(smaps: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for line in smaps.lines() {
        if let Some((start, end, anonymous)) = mapping(line) {
            let joins = runs.last().is_some_and(|run| run.anonymous && anonymous && run.end == start);
            if !joins {
                runs.push(Run { start, anonymous, ..Run::default() });
            }
            if let Some(run) = runs.last_mut() {
                run.end = end;
            }
        } else if let Some(run) = runs.last_mut() {
            run.rss += field(line, "Rss:").unwrap_or(0);
            run.huge += field(line, "AnonHugePages:").unwrap_or(0);
        }
    }
    runs
}

fn split_smaps(text: &str) -> Split {
    let mut split = Split::default();
    for run in runs(text) {
        let part = if run.is_ram() { &mut split.ram } else { &mut split.rest };
        part.mib += mib(run.rss);
        part.huge_mib += mib(run.huge);
    }
    split
}

/// Start, end and whether it is writable anonymous memory, of a line `7f00-7f10 rw-p 0 00:00 0 [path]`.
fn mapping(line: &str) -> Option<(u64, u64, bool)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let writable = words.next()?.starts_with("rw");
    let anonymous = words.nth(3).is_none_or(|path| path.starts_with("[anon"));
    Some((start, end.max(start), writable && anonymous))
}

/// What the host has left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostFree {
    /// `MemFree` in MiB.
    pub mib: f64,
    /// Free blocks of 2 MiB in `/proc/buddyinfo`; larger ones count as what they hold.
    pub huge_blocks: u64,
}

/// Reads what the host has left. Pages in per-CPU lists are missing from the blocks.
///
/// # Errors
/// `/proc` cannot be read.
pub fn free() -> anyhow::Result<HostFree> {
    let info = read("/proc/meminfo")?;
    let kib = info.lines().find_map(|line| field(line, "MemFree:")).unwrap_or(0);
    Ok(HostFree { mib: mib(kib), huge_blocks: huge_blocks(&read("/proc/buddyinfo")?) })
}

fn huge_blocks(buddyinfo: &str) -> u64 {
    let zone = |line: &str| -> u64 {
        // "Node 0, zone Normal" and then one number for each order.
        let orders = line.split_whitespace().skip(4).map(|number| number.parse::<u64>().unwrap_or(0));
        orders.skip(9).enumerate().map(|(above, count)| count << above).sum()
    };
    buddyinfo.lines().map(zone).sum()
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// The number in a line `Name:   123 kB`.
fn field(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.split_whitespace().next()?.parse().ok()
}

#[allow(clippy::cast_precision_loss, reason = "KiB of a machine fit 52 bits")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_large_anonymous_mappings_are_guest_memory_and_the_rest_is_not() {
        let smaps = "\
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Rss:              102400 kB
AnonHugePages:     92160 kB
7f0010000000-7f0020000000 rw-p 00000000 00:00 0
Rss:                1024 kB
AnonHugePages:         0 kB
7f0030000000-7f0034000000 ---p 00000000 00:00 0
Rss:                   0 kB
7f0040000000-7f0040100000 rw-p 00000000 00:00 0 [heap]
Rss:                 512 kB
7f0050000000-7f0080000000 r--p 00000000 08:01 42 /usr/bin/monitor
Rss:                1536 kB
";
        let split = split_smaps(smaps);
        assert_eq!(split.ram, Resident { mib: 101.0, huge_mib: 90.0 });
        assert_eq!(split.rest, Resident { mib: 2.0, huge_mib: 0.0 });
    }

    #[test]
    fn buddyinfo_counts_blocks_of_2_mib() {
        let text =
            "Node 0, zone      DMA      0 0 0 0 0 0 0 0 1 1 3\nNode 0, zone   Normal 9 9 9 9 9 9 9 9 9 5 6\n";
        assert_eq!(huge_blocks(text), 1 + 2 * 3 + 5 + 2 * 6);
    }
}
