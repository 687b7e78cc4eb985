//! Asks the guest agent, by typed calls with a time-out.

mod net;
mod swap;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use guest_agent::{Answer, Block, Call, Churn, Pages, Ready, Reply, Request, TO_GUEST, Verified};

pub(crate) use self::net::megabytes_per_second;
pub use self::swap::{Herd, SwapTraffic};
use crate::console::Transcript;

/// How long a request may take. Emulated machines are slow, and a test waits this long only to fail.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long a silent guest is given after it got one more byte.
const NUDGE: Duration = Duration::from_secs(5);
/// Lines of transcript in an error message.
const TAIL: usize = 30;

/// Tells how the monitor stands.
pub type Look = Box<dyn Fn() -> String + Send>;

/// What the error says where a guest has found other data than it wrote.
pub const WRONG_DATA: &str = "hold something else";
/// Words in the error about a wait that was longer than is promised.
pub const OVERDUE: &str = "took longer than is promised";

/// The host's end of the agent's protocol.
pub struct AgentClient {
    port: Box<dyn Write + Send>,
    replies: Receiver<Reply>,
    transcript: Transcript,
    look: Look,
    last_id: u32,
}

impl std::fmt::Debug for AgentClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentClient").field("last_id", &self.last_id).finish_non_exhaustive()
    }
}

impl AgentClient {
    /// Talks through `port`; replies come from [`crate::console::replies`]. What `look` tells goes into the
    /// error about a guest that does not answer.
    #[must_use]
    pub fn new(
        port: Box<dyn Write + Send>,
        replies: Receiver<Reply>,
        transcript: Transcript,
        look: Look,
    ) -> Self {
        Self { port, replies, transcript, look, last_id: 0 }
    }

    /// Waits for the agent's first word.
    ///
    /// # Errors
    /// The guest did not come up in time, or the monitor ended.
    pub fn wait_ready(&mut self) -> anyhow::Result<Ready> {
        match self.reply(0, PATIENCE).context("the guest agent did not come up")? {
            Answer::Ready(ready) => Ok(ready),
            other => bail!("the guest agent's first word was {other:?}"),
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// No answer in time, the monitor ended, or the agent answered with an error.
    pub fn call(&mut self, request: Request) -> anyhow::Result<Answer> {
        let what = format!("{request:?}");
        let id = self.send(request)?;
        match self.reply(id, PATIENCE) {
            Ok(Answer::Error(error)) => bail!("the guest could not do {what}: {error}"),
            other => other.with_context(|| format!("the guest was asked for {what}")),
        }
    }

    /// Sends a request without waiting; [`AgentClient::reply`] takes the id.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn send(&mut self, request: Request) -> anyhow::Result<u32> {
        self.last_id += 1;
        let line = serde_json::to_string(&Call { id: self.last_id, request })?;
        let written = self.port.write_all(format!("{TO_GUEST}{line}\n").as_bytes());
        written.and_then(|()| self.port.flush()).map_err(|error| self.ended(&format!("{error}")))?;
        Ok(self.last_id)
    }

    /// Waits for the reply to one request; passes over older ones.
    ///
    /// # Errors
    /// No reply in time, or the monitor ended.
    pub fn reply(&mut self, id: u32, patience: Duration) -> anyhow::Result<Answer> {
        match self.receive(id, patience) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Timeout) => Err(self.silent(id, patience)),
            Err(RecvTimeoutError::Disconnected) => Err(self.ended("its serial port is closed")),
        }
    }

    /// Whether a reply comes in this time (it is kept from nobody else: the next call passes over it).
    pub fn answers_within(&mut self, id: u32, patience: Duration) -> bool {
        self.receive(id, patience).is_ok()
    }

    fn receive(&self, id: u32, patience: Duration) -> Result<Answer, RecvTimeoutError> {
        let end = Instant::now() + patience;
        loop {
            let reply = self.replies.recv_timeout(end.saturating_duration_since(Instant::now()))?;
            if reply.id == id {
                return Ok(reply.answer);
            }
        }
    }

    /// An error with all that tells one kind of silence from another, gathered before the monitor is killed.
    fn silent(&mut self, id: u32, patience: Duration) -> anyhow::Error {
        let (tail, monitor) = (self.transcript.tail(TAIL), (self.look)());
        let answered =
            if self.answers_within(id, Duration::ZERO) { "it came a moment later" } else { self.nudge(id) };
        anyhow::anyhow!(
            "no answer in {patience:?}; {answered}; the monitor:\n{monitor}the console ends with:\n{tail}"
        )
    }

    /// Sends an empty line, which means nothing to the agent and one more interrupt to a serial port; says
    /// whether that brings the answer.
    fn nudge(&mut self, id: u32) -> &'static str {
        let nudged = self.port.write_all(b"\n").and_then(|()| self.port.flush());
        match nudged.map(|()| self.answers_within(id, NUDGE)) {
            Ok(true) => "an empty line brought it: an interrupt of the serial port was lost",
            Ok(false) => "an empty line did not bring it either",
            Err(_) => "the monitor takes no more input",
        }
    }

    fn ended(&self, how: &str) -> anyhow::Error {
        // The monitor's last words come over another pipe: give them a moment.
        std::thread::sleep(Duration::from_millis(200));
        anyhow::anyhow!("the monitor ended ({how}); its last words:\n{}", self.transcript.tail(TAIL))
    }

    fn done(&mut self, request: Request) -> anyhow::Result<()> {
        match self.call(request)? {
            Answer::Done => Ok(()),
            other => unexpected(&other),
        }
    }
}

fn unexpected<T>(answer: &Answer) -> anyhow::Result<T> {
    bail!("the guest agent's answer does not fit the question: {answer:?}")
}

/// Memory of a guest, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestMemory {
    /// `MemTotal`.
    pub total: u64,
    /// `MemFree`.
    pub free: u64,
    /// `MemAvailable`.
    pub available: u64,
}

/// One method for each request.
///
/// # Errors
/// All as [`AgentClient::call`].
#[allow(clippy::missing_errors_doc, reason = "said once above")]
impl AgentClient {
    /// The guest's uptime in ms.
    pub fn ping(&mut self) -> anyhow::Result<u64> {
        match self.call(Request::Ping)? {
            Answer::Pong { uptime_ms } => Ok(uptime_ms),
            other => unexpected(&other),
        }
    }

    /// `/proc/meminfo` in KiB.
    pub fn meminfo(&mut self) -> anyhow::Result<BTreeMap<String, u64>> {
        self.counters(Request::Meminfo)
    }

    /// The three numbers of `/proc/meminfo` that matter most.
    pub fn memory(&mut self) -> anyhow::Result<GuestMemory> {
        let info = self.meminfo()?;
        let mib = |name: &str| info.get(name).map_or(0, |kib| kib >> 10);
        Ok(GuestMemory { total: mib("MemTotal"), free: mib("MemFree"), available: mib("MemAvailable") })
    }

    /// Some counters of `/proc/vmstat`.
    pub fn vmstat(&mut self, names: &[&str]) -> anyhow::Result<BTreeMap<String, u64>> {
        self.counters(Request::Vmstat { names: names.iter().map(|name| (*name).to_owned()).collect() })
    }

    fn counters(&mut self, request: Request) -> anyhow::Result<BTreeMap<String, u64>> {
        match self.call(request)? {
            Answer::Counters(map) => Ok(map),
            other => unexpected(&other),
        }
    }

    fn region(&mut self, request: Request) -> anyhow::Result<(u64, Duration)> {
        match self.call(request)? {
            Answer::Region { mib, micros } => Ok((mib, Duration::from_micros(micros))),
            other => unexpected(&other),
        }
    }

    /// Allocates and touches a named region; gives the time of the touch.
    pub fn allocate(&mut self, name: &str, mib: u64, pages: Pages) -> anyhow::Result<Duration> {
        Ok(self.region(Request::Allocate { name: name.to_owned(), mib, pages })?.1)
    }

    /// Allocates all available memory but `leave_mib`; gives the size in MiB.
    pub fn fill(&mut self, name: &str, leave_mib: u64, pages: Pages) -> anyhow::Result<u64> {
        Ok(self.region(Request::Fill { name: name.to_owned(), leave_mib, pages })?.0)
    }

    /// Time for touching `mib` MiB of fresh memory.
    pub fn touch(&mut self, mib: u64) -> anyhow::Result<Duration> {
        Ok(self.region(Request::Touch { mib, pages: Pages::Any })?.1)
    }

    /// Writes a pattern over a region.
    pub fn write(&mut self, name: &str, seed: u64) -> anyhow::Result<()> {
        self.done(Request::Write { name: name.to_owned(), seed })
    }

    /// Checks the pattern of a region: an error unless every page is right. Gives the number of pages.
    pub fn verify(&mut self, name: &str, seed: u64) -> anyhow::Result<u64> {
        match self.call(Request::Verify { name: name.to_owned(), seed })? {
            Answer::Verified(found) => all_right(&format!("region {name}"), found),
            other => unexpected(&other),
        }
    }

    /// Frees every `every`-th page of a region from page `offset` on; gives their number.
    pub fn punch(&mut self, name: &str, every: u64, offset: u64) -> anyhow::Result<u64> {
        match self.call(Request::Punch { name: name.to_owned(), every, offset })? {
            Answer::Punched { pages } => Ok(pages),
            other => unexpected(&other),
        }
    }

    /// Frees a region.
    pub fn free(&mut self, name: &str) -> anyhow::Result<()> {
        self.done(Request::Free { name: name.to_owned() })
    }

    /// Whether a child that touches this much lives to its end.
    pub fn consume(&mut self, mib: u64) -> anyhow::Result<bool> {
        match self.call(Request::Consume { mib })? {
            Answer::Consumed { survived, .. } => Ok(survived),
            other => unexpected(&other),
        }
    }

    /// Starts threads that write and check counters.
    pub fn churn_start(&mut self, mib: u64, threads: u32) -> anyhow::Result<()> {
        self.done(Request::ChurnStart { mib, threads })
    }

    /// How far they are.
    pub fn churn_status(&mut self) -> anyhow::Result<Churn> {
        self.churn(Request::ChurnStatus)
    }

    /// Ends them.
    pub fn churn_stop(&mut self) -> anyhow::Result<Churn> {
        self.churn(Request::ChurnStop)
    }

    fn churn(&mut self, request: Request) -> anyhow::Result<Churn> {
        match self.call(request)? {
            Answer::Churn(churn) => Ok(churn),
            other => unexpected(&other),
        }
    }

    /// The guest's virtio disks, by name.
    pub fn disks(&mut self) -> anyhow::Result<Vec<Block>> {
        match self.call(Request::BlockList)? {
            Answer::Blocks(blocks) => {
                Ok(blocks.into_iter().filter(|block| block.name.starts_with("vd")).collect())
            }
            other => unexpected(&other),
        }
    }

    /// Writes the pattern to a range of a disk and fsyncs.
    pub fn disk_write(&mut self, device: &str, offset: u64, bytes: u64, seed: u64) -> anyhow::Result<()> {
        self.done(Request::BlockWrite { device: device.to_owned(), offset, bytes, seed })
    }

    /// Reads a range of a disk: an error unless it holds the pattern.
    pub fn disk_verify(&mut self, device: &str, offset: u64, bytes: u64, seed: u64) -> anyhow::Result<u64> {
        match self.call(Request::BlockVerify { device: device.to_owned(), offset, bytes, seed })? {
            Answer::Verified(found) => all_right(device, found),
            other => unexpected(&other),
        }
    }

    /// Flushes a disk.
    pub fn disk_flush(&mut self, device: &str) -> anyhow::Result<()> {
        self.done(Request::BlockFlush { device: device.to_owned() })
    }

    /// Bytes of `/dev/hwrng`, as hex.
    pub fn random(&mut self, bytes: u32) -> anyhow::Result<String> {
        self.text(Request::Random { bytes })
    }

    /// CPUs online.
    pub fn cpus(&mut self) -> anyhow::Result<u32> {
        match self.call(Request::Cpus)? {
            Answer::Cpus(count) => Ok(count),
            other => unexpected(&other),
        }
    }

    /// Runs a command by the guest's shell; what it prints.
    pub fn run(&mut self, command: &str) -> anyhow::Result<String> {
        self.text(Request::Run { command: command.to_owned() })
    }

    /// A file of the guest.
    pub fn read_file(&mut self, path: &str) -> anyhow::Result<String> {
        self.text(Request::ReadFile { path: path.to_owned() })
    }

    /// Writes a file of the guest (sysfs, procfs).
    pub fn write_file(&mut self, path: &str, text: &str) -> anyhow::Result<()> {
        self.done(Request::WriteFile { path: path.to_owned(), text: text.to_owned() })
    }

    /// The end of the guest kernel's log.
    pub fn kernel_log(&mut self, bytes: u32) -> anyhow::Result<String> {
        self.text(Request::KernelLog { bytes })
    }

    fn text(&mut self, request: Request) -> anyhow::Result<String> {
        match self.call(request)? {
            Answer::Text(text) => Ok(text),
            other => unexpected(&other),
        }
    }

    /// Drops the guest's page cache.
    pub fn drop_caches(&mut self) -> anyhow::Result<()> {
        self.done(Request::DropCaches)
    }

    /// Lets the guest compact its memory.
    pub fn compact(&mut self) -> anyhow::Result<()> {
        self.done(Request::Compact)
    }

    /// Starts a power-off.
    pub fn power_off(&mut self) -> anyhow::Result<()> {
        self.done(Request::PowerOff)
    }

    /// Starts a reset.
    pub fn reboot(&mut self) -> anyhow::Result<()> {
        self.done(Request::Reboot)
    }

    /// Makes the guest's kernel panic.
    pub fn panic(&mut self) -> anyhow::Result<()> {
        self.done(Request::Panic)
    }
}

fn all_right(what: &str, found: Verified) -> anyhow::Result<u64> {
    if let Some(first) = found.first_wrong {
        bail!("{} of {} pages of {what} {WRONG_DATA}, page {first} first", found.wrong, found.pages);
    }
    Ok(found.pages)
}
