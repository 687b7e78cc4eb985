//! Swapping goes on when nobody else gets memory: the experiment of Linux's swap-over-NBD series (2012), in small.
//!
//! ```text
//!   host    guest RAM, all of it touched │ occupied │ reserve: all that swap has, and a tier below
//!   guest   8 processes that map 4 times its memory, write it, read it in a loop │ floods of pings and UDP
//! ```
//! The monitor is one that uses its memory up when it is told (`aerostat-occupied`). It is process 1 of a PID namespace, as in a
//! container: its threads have numbers that threads of the host's kernel have, too, and these touch the guest's memory as well.
//! Those that free memory are still known from others.
//!
//! The control is the same without a reserve. In the short form memory is what the guest's kernel leaves to processes, and
//! each page is read once; the long one (`AEROSTAT_EXHAUSTION_SECONDS`) counts all that the kernel has.

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use guest_tests::agent_client::Herd;
use guest_tests::noise::PID_NAMESPACE;
use guest_tests::testvm::wait_until;
use guest_tests::{Content, Flood, SwapLink, TestVm};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{guest, ours};

/// Hardly more than the kernel wants to boot.
const RAM_MIB: u64 = 80;
/// The least for so much RAM and such a reserve.
const LIMIT: &str = "88M";
/// Enough for what stays in memory of a page on the tier, 32 bytes, of all pages, and as much again.
const RESERVE: &str = "4M";
/// The long form uses more than half of it: Linux frees the place of a page that it has read then (`vm_swap_full`), and has
/// to write it again.
const SWAP: &str = "300M,memory=64M";
/// For the one vCPU.
const PROCESSES: u32 = 8;
const CONTENT: Content = Content { zero_percent: 10, ratio: 3 };
/// Between two looks at the guest.
const LOOK: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(200);
/// The file with which memory is used up.
const OCCUPIED: &str = "occupied";
/// Not a page was written or read for so long, or the guest did not answer: it stalls. The same for the experiment, which
/// must not, and for its control, which must.
const STALL: Duration = Duration::from_secs(30);
/// How long the processes of the long form read, in seconds, once before memory is used up and once after, so that
/// page-ins can be compared; at least until all was read.
const SECONDS: &str = "AEROSTAT_EXHAUSTION_SECONDS";

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(ours("swap::exhaustion_is_survived", || experiment(net)));
    trials.extend(ours("swap::exhaustion_is_survived_with_a_disk", || experiment(SwapLink::disk)));
    trials.extend(ours("swap::exhaustion_without_a_reserve_stalls", control));
    trials
}

/// A guest that has touched all of its RAM.
struct Touched {
    vm: TestVm,
    link: SwapLink,
    device: String,
    herd: Herd,
    /// The tier, and the file that has memory used up.
    directory: tempfile::TempDir,
}

/// What the guest sees of its swap.
type Front = fn(&str) -> SwapLink;

fn net(swap: &str) -> SwapLink {
    SwapLink::inside(swap.to_owned())
}

impl Touched {
    fn new(reserve: &str, front: Front) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let link = front(&format!("{SWAP},tier={}", directory.path().display()));
        let mut spec = link.attach(guest()?.memory_mib(RAM_MIB));
        spec = spec.occupied_when(&directory.path().join(OCCUPIED)).under(PID_NAMESPACE.iter().copied());
        for argument in ["--memory-limit", LIMIT, "--min-free", reserve] {
            spec = spec.argument(argument);
        }
        let mut vm = spec.start()?;
        link.check(&mut vm)?;
        let device = link.swap_on(&mut vm, 2)?;
        let content = Content { zero_percent: 100, ratio: 1 };
        let all = vm.agent.memory()?.total;
        vm.agent.hogs_start(Herd { processes: 1, mib: all, seed: 1, content }, PATIENCE)?;
        vm.agent.hogs_stop()?;
        let absent = number(&vm, "/memory", "/guest/absent_blocks")?;
        ensure!(absent == 0, "the guest has {absent} blocks that it never touched");

        let memory = vm.agent.memory()?;
        let mapped = 4 * if seconds().is_some() { memory.total } else { memory.available };
        let mib = mapped.div_ceil(PROCESSES.into());
        let herd = Herd { processes: PROCESSES, mib, seed: 23, content: CONTENT };
        Ok(Self { vm, link, device, herd, directory })
    }

    /// From now on the link is busy, if there is one, and the host has no memory but the reserve.
    fn exhaust(&mut self) -> anyhow::Result<()> {
        if let Some(host) = self.link.host() {
            self.vm.agent.flood_start(Flood::Icmp(host.to_string()), 1000)?;
            self.vm.agent.flood_start(Flood::Udp(format!("{host}:9")), 1000)?;
        }
        std::fs::write(self.directory.path().join(OCCUPIED), "")?;
        let used_up = wait_until(|| {
            let told = self.told()?;
            Ok(told.free < told.min + 64)
        })?;
        ensure!(used_up, "memory is not used up: {:?}", self.told()?);
        Ok(())
    }

    /// The processes write all of their pages, or get no further.
    fn write(&mut self) -> anyhow::Result<Written> {
        self.vm.agent.hogs_send(self.herd)?;
        let mut progress = Progress::default();
        loop {
            let Some(hogs) = self.vm.agent.hogs_within(STALL)? else { return Ok(Written::Stalled(progress)) };
            ensure!(hogs.wrong == 0, "{hogs:?}");
            if hogs.ready == PROCESSES {
                return Ok(Written::All(progress.start.elapsed()));
            }
            if progress.stalls(hogs.written, hogs.lost) {
                return Ok(Written::Stalled(progress));
            }
            ensure!(progress.start.elapsed() < PATIENCE, "it goes on, but takes too long: {hogs:?}");
            sleep(LOOK);
        }
    }

    /// They write, and read for so many seconds, and until all was read. Their page-ins, p99.
    fn write_and_read(&mut self, seconds: u64, exhausted: bool) -> anyhow::Result<Duration> {
        let ready = match self.write()? {
            Written::All(took) => took,
            Written::Stalled(progress) => bail!("it stalls at {progress}"),
        };
        self.vm.agent.hogs_read()?;
        let mut progress = Progress::default();
        loop {
            let hogs = self.vm.agent.hogs_within(STALL)?.context("it stalls: the guest does not answer")?;
            ensure!(hogs.lost == 0 && hogs.wrong == 0, "{hogs:?}");
            let took = progress.start.elapsed();
            if hogs.passes > 0 && took >= Duration::from_secs(seconds) {
                self.vm.agent.hogs_stop()?;
                ensure!(hogs.verified >= self.herd.pages(), "{hogs:?}");
                eprintln!(
                    "{PROCESSES} processes of {} MiB, {}: written in {ready:?}, {} pages right in {took:?}, page-in {:?}",
                    self.herd.mib,
                    if exhausted { "memory used up, flooded" } else { "at rest" },
                    hogs.verified,
                    hogs.page_in
                );
                return Ok(Duration::from_nanos(hogs.page_in.p99_ns));
            }
            ensure!(!progress.stalls(hogs.verified, 0), "it stalls: {hogs:?}");
            ensure!(took < PATIENCE + Duration::from_secs(seconds), "it takes too long: {hogs:?}");
            sleep(LOOK);
        }
    }

    fn experiment(&mut self) -> anyhow::Result<()> {
        let seconds = seconds();
        let at_rest = seconds.map(|seconds| self.write_and_read(seconds, false)).transpose()?;
        self.exhaust()?;
        let p99 = self.write_and_read(seconds.unwrap_or(0), true)?;
        if self.link.host().is_some() {
            let flooded = self.vm.agent.flood_stop()?;
            ensure!(flooded.packets.iter().all(|packets| *packets > 100), "{flooded:?}");
            let dropped = number(&self.vm, "/swap", "/link/under_pressure")?;
            ensure!(dropped > 0, "no packet was dropped for want of memory");
            eprintln!("{flooded:?}, of it {dropped} packets dropped");
        }
        if let Some(at_rest) = at_rest {
            eprintln!("page-in p99: {:.2} times that at rest", p99.as_secs_f64() / at_rest.as_secs_f64());
        }
        let told = self.told()?;
        eprintln!("{told:?}");
        ensure!(told.in_use > 0, "the reserve is not in use: {told:?}");
        ensure!(told.lowest_free < told.min, "the reserve was never touched: {told:?}");
        ensure!(told.no_room == 0, "writes were refused: {told:?}");
        ensure!(told.on_tier > 0, "the tier is not in use: {told:?}");
        for fault in ["/store/lost", "/store/corrupt", "/nbd/errors", "/nbd/refused", "/nbd/malformed"] {
            ensure!(number(&self.vm, "/swap", fault)? == 0, "{fault} is not 0");
        }
        self.link.swap_off(&mut self.vm, &self.device)
    }

    /// The processes get no further; an error if they do.
    fn stall(&mut self) -> anyhow::Result<()> {
        self.exhaust()?;
        let progress = match self.write()? {
            Written::Stalled(progress) => progress,
            Written::All(took) => bail!("all was written in {took:?}, without a reserve: {:?}", self.told()?),
        };
        let told = self.told()?;
        eprintln!("it stalls at {progress} of {}: {told:?}", self.herd.pages());
        ensure!(told.no_room > 0, "no write was refused: {told:?}");
        ensure!(told.on_tier < told.tier, "the tier is full: {told:?}");
        ensure!(told.free < 64, "there was memory: {told:?}");
        Ok(())
    }

    fn told(&self) -> anyhow::Result<Told> {
        let swap = |path| number(&self.vm, "/swap", path);
        let zone = |path| number(&self.vm, "/memory/zone", path);
        Ok(Told {
            free: zone("/free")?,
            min: zone("/min")?,
            in_use: zone("/reserve/in_use")?,
            lowest_free: zone("/reserve/lowest_free")?,
            no_room: swap("/store/no_room")?,
            waited: swap("/store/throttled")?,
            on_tier: swap("/store/tiers/0/stored_pages")?,
            tier: swap("/store/tiers/0/pages")?,
        })
    }
}

/// How writing ended.
enum Written {
    /// All is written; it took so long.
    All(Duration),
    Stalled(Progress),
}

/// How far the processes got.
struct Progress {
    start: Instant,
    pages: u64,
    /// When the last of those was seen.
    since: Instant,
    /// Processes that the guest killed, to go on.
    lost: u32,
}

impl Default for Progress {
    fn default() -> Self {
        let now = Instant::now();
        Self { start: now, pages: 0, since: now, lost: 0 }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = if self.lost > 0 { format!(", with {} killed,", self.lost) } else { String::new() };
        write!(f, "{} pages{lost} in {:?}", self.pages, self.start.elapsed())
    }
}

impl Progress {
    /// Takes a look; true when there has been no progress for [`STALL`].
    fn stalls(&mut self, pages: u64, lost: u32) -> bool {
        self.lost = lost;
        if pages > self.pages {
            (self.pages, self.since) = (pages, Instant::now());
        }
        self.since.elapsed() >= STALL
    }
}

/// What the host says, in frames, pages, and times.
#[derive(Debug)]
#[allow(dead_code, reason = "shown")]
struct Told {
    free: u64,
    min: u64,
    in_use: u64,
    lowest_free: u64,
    no_room: u64,
    waited: u64,
    on_tier: u64,
    tier: u64,
}

fn seconds() -> Option<u64> {
    std::env::var(SECONDS).ok()?.parse().ok()
}

fn number(vm: &TestVm, of: &str, path: &str) -> anyhow::Result<u64> {
    let answer = vm.control.api("GET", of, Value::Null)?;
    answer.pointer(path).and_then(Value::as_u64).with_context(|| format!("no {path} in {answer}"))
}

fn experiment(front: Front) -> anyhow::Result<()> {
    let mut touched = Touched::new(RESERVE, front)?;
    match touched.experiment() {
        Ok(()) => touched.vm.shut_down(),
        Err(error) => {
            let told = touched.told();
            bail!("{:#}; {told:?}", touched.vm.explain(&error))
        }
    }
}

fn control() -> anyhow::Result<()> {
    let mut touched = Touched::new("0", net)?;
    touched.stall().map_err(|error| touched.vm.explain(&error))
}
