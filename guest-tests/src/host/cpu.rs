//! CPU time: of a process, of its threads, of all of the host.

use std::fs;
use std::time::Duration;

use anyhow::Context;

use super::read;

/// One thread and its CPU time.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its state, as in `ps`.
    pub state: char,
    /// The CPU that it is on, or was last.
    pub cpu: u32,
    /// Time on a CPU since it started, in the guest and out of it.
    pub time: Duration,
    /// Of that, in the guest.
    pub guest: Duration,
}

impl Thread {
    /// Whether it runs a vCPU, by the names that the monitors give ("CPU 0/KVM", "vcpu0").
    #[must_use]
    pub fn is_vcpu(&self) -> bool {
        self.name.to_lowercase().contains("cpu")
    }
}

/// All threads of a process. Times are in steps of 10 ms (ticks).
///
/// # Errors
/// The process is gone.
pub fn threads(pid: u32) -> anyhow::Result<Vec<Thread>> {
    let directory = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&directory).with_context(|| format!("cannot list {directory}"))?;
    let thread = |task: fs::DirEntry| {
        let id = task.file_name().to_str()?.parse().ok()?;
        thread(id, &fs::read_to_string(task.path().join("stat")).ok()?)
    };
    Ok(tasks.filter_map(|task| thread(task.ok()?)).collect())
}

/// What `stat` says of a thread.
fn thread(id: u32, stat: &str) -> Option<Thread> {
    // proc_pid_stat(5): comm is in parentheses; of the fields behind it, counted from 3, 3 is the state,
    // 14 and 15 are utime (with guest time in it) and stime, 39 is the CPU, 43 is guest_time.
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let time = |number| Some(Duration::from_millis(field(number)? * 10));
    let state = fields.first()?.chars().next()?;
    let cpu = u32::try_from(field(39)?).ok()?;
    Some(Thread { id, name, state, cpu, time: time(14)? + time(15)?, guest: time(43)? })
}

/// CPU time so far of a process and of its children, threads and children that have ended included.
///
/// # Errors
/// The process is gone.
pub fn family_cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let unknown = || format!("/proc/{pid}/stat has an unknown form");
    let own = times(&stat, [14, 15, 16, 17]).with_context(unknown)?;
    let others = fs::read_dir("/proc").context("cannot list /proc")?;
    // What is no process has no such file, and a process may end at any time.
    let child = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        (numbers(&stat)?.get(4 - FIRST) == Some(&u64::from(pid))).then(|| times(&stat, [14, 15]))?
    };
    Ok(own + others.filter_map(|entry| child(entry.ok()?)).sum::<Duration>())
}

/// The first of the [`numbers`], by proc_pid_stat(5).
const FIRST: usize = 4;

/// The numbers behind comm and state: 4 is the parent, 14 to 17 are utime, stime, cutime and cstime.
fn numbers(stat: &str) -> Option<Vec<u64>> {
    let (_, after) = stat.rsplit_once(')')?;
    // Some further ones are negative, and no times.
    Some(after.split_whitespace().skip(1).map(|word| word.parse().unwrap_or(0)).collect())
}

/// The sum of some fields that are times in ticks.
fn times<const N: usize>(stat: &str, fields: [usize; N]) -> Option<Duration> {
    let numbers = numbers(stat)?;
    let ticks: Option<u64> = fields.iter().map(|field| numbers.get(field - FIRST)).sum();
    Some(Duration::from_millis(ticks? * 10))
}

/// CPU time that all of this host has spent so far, but for running guests: the kernel's own threads and
/// interrupts are in it.
///
/// # Errors
/// `/proc` cannot be read.
pub fn busy() -> anyhow::Result<Duration> {
    let text = read("/proc/stat")?;
    busy_ticks(&text).map(|ticks| Duration::from_millis(ticks * 10)).context("/proc/stat has an unknown form")
}

/// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice. The first two have
/// the last two in them.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [user, nice, system, _, _, irq, softirq, _, guest, guest_nice] = *numbers.first_chunk()?;
    Some((user + nice + system + irq + softirq).saturating_sub(guest + guest_nice))
}

/// CPU time of a monitor, by where it went.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTimes {
    /// vCPU threads in the guest.
    pub guest: Duration,
    /// vCPU threads out of the guest: in the kernel, and serving devices that have no thread.
    pub vcpus: Duration,
    /// All other threads, but Aerostat's `api`, which only answers whoever measures.
    pub others: Duration,
}

impl CpuTimes {
    /// What the host spent, beside running the guest.
    #[must_use]
    pub fn host(&self) -> Duration {
        self.vcpus + self.others
    }
}

impl std::ops::Sub for CpuTimes {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            guest: self.guest.saturating_sub(earlier.guest),
            vcpus: self.vcpus.saturating_sub(earlier.vcpus),
            others: self.others.saturating_sub(earlier.others),
        }
    }
}

/// CPU time that a monitor has had so far.
///
/// # Errors
/// The process is gone.
pub fn cpu_times(pid: u32) -> anyhow::Result<CpuTimes> {
    let mut times = CpuTimes::default();
    for thread in threads(pid)? {
        if thread.is_vcpu() {
            times.guest += thread.guest;
            times.vcpus += thread.time.saturating_sub(thread.guest);
        } else if thread.name != "api" {
            times.others += thread.time;
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_children_count_where_they_are_asked_for() {
        let stat = "7 (nbd) server) S 3 7 7 0 -1 0 0 0 0 0 1 2 40 500 20 0";
        assert_eq!(times(stat, [14, 15]), Some(Duration::from_millis(30)));
        assert_eq!(times(stat, [14, 15, 16, 17]), Some(Duration::from_millis(5430)));
        assert_eq!(numbers(stat).and_then(|all| all.first().copied()), Some(3));
        assert_eq!(times("7 (nbd) S 3", [14]), None);
    }

    #[test]
    fn a_busy_host_is_told_from_one_that_waits_or_runs_guests() {
        let stat = "cpu  100 10 50 9999 777 3 4 5 60 2 \ncpu0 1 2 3\n";
        assert_eq!(busy_ticks(stat), Some(100 + 10 + 50 + 3 + 4 - 62));
        assert_eq!(busy_ticks("cpu 1 2 3\n"), None);
    }
}
