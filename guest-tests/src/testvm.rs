//! A running guest: started, driven, measured, and killed when it is dropped.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use guest_agent::Ready;
use tempfile::TempDir;

use crate::agent_client::AgentClient;
use crate::console::{self, Transcript};
use crate::control::Control;
use crate::host::{self, Resident};
use crate::process::{Reaped, die_with_parent};
use crate::subject::{Spec, Subject};
use crate::{http, threads};

/// Longest wait for something that a guest or the monitor is about to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks at something that is waited for.
const INTERVAL: Duration = Duration::from_millis(20);

/// The same for a balloon. QEMU answers in the thread that serves the queue, so looks are to be few.
const BALLOON_PATIENCE: Duration = Duration::from_secs(240);
const BALLOON_INTERVAL: Duration = Duration::from_millis(50);

/// How long a monitor that fails may take to end, so that its reason is among its last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A guest whose agent is up.
#[derive(Debug)]
pub struct TestVm {
    /// The guest's side.
    pub agent: AgentClient,
    /// The monitor's side.
    pub control: Control,
    /// What the agent said first.
    pub ready: Ready,
    /// From starting the monitor until the agent's first word.
    pub boot: Duration,
    transcript: Transcript,
    child: Reaped,
    /// Holds the socket; removed with the guest.
    _directory: TempDir,
}

impl Spec {
    /// Starts the guest and waits for its agent.
    ///
    /// # Errors
    /// Something is missing, the monitor ended, or the agent did not come up; with the end of the console.
    pub fn start(&self) -> anyhow::Result<TestVm> {
        let directory = directory()?;
        let socket = directory.path().join("socket");
        let command = self.command(&socket)?;
        TestVm::begin(command, self.subject, self.memory_mib, &socket, directory)
            .with_context(|| format!("{} with {}", self.subject.name(), self.kernel))
    }

    /// Starts the guest, does something with it, and shuts it down.
    ///
    /// # Errors
    /// As [`Self::start`] and `what`, with the last words of guest and monitor.
    pub fn run(&self, what: impl FnOnce(&mut TestVm) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut vm = self.start()?;
        match what(&mut vm) {
            Ok(()) => vm.shut_down(),
            Err(error) => Err(vm.explain(&error)),
        }
    }
}

/// A directory for what one guest needs, with a path that is short enough for sockets.
///
/// # Errors
/// It cannot be made.
pub fn directory() -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("aerostat-").tempdir()
}

impl TestVm {
    /// The guest that this command starts and controls through `socket`, once its agent answers. `directory` goes
    /// with the guest.
    ///
    /// # Errors
    /// As [`Spec::start`].
    pub fn begin(
        mut command: Command,
        subject: Subject,
        memory_mib: u64,
        socket: &Path,
        directory: TempDir,
    ) -> anyhow::Result<Self> {
        command.env("AEROSTAT_RUNTIME_DIR", directory.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        die_with_parent(&mut command);
        let start = Instant::now();
        let remedy = match subject {
            Subject::Aerostat => "run cargo build --release first",
            Subject::QemuPc | Subject::QemuMicrovm => "run ci/setup first",
        };
        let program = command.get_program().to_owned();
        let spawned =
            command.spawn().with_context(|| format!("cannot run {}: {remedy}", program.display()))?;
        let mut child = Reaped(spawned);
        let transcript = Transcript::default();
        let missing = "the monitor's streams are not there";
        console::keep(child.0.stderr.take().context(missing)?, &transcript);
        let replies = console::replies(child.0.stdout.take().context(missing)?, &transcript);
        let port = Box::new(child.0.stdin.take().context(missing)?);
        let look = Box::new({
            let (pid, socket) = (child.0.id(), socket.to_owned());
            move || standing(pid, subject, &socket)
        });
        let mut agent = AgentClient::new(port, replies, transcript.clone(), look);
        let ready = agent.wait_ready()?;
        let boot = start.elapsed();
        let control = Control::connect(subject, socket, memory_mib)?;
        Ok(Self { agent, control, ready, boot, transcript, child, _directory: directory })
    }

    /// The monitor's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// All that guest and monitor said.
    #[must_use]
    pub fn transcript(&self) -> String {
        self.transcript.text()
    }

    /// An error together with how the monitor stands and what was said last.
    #[must_use]
    pub fn explain(&mut self, error: &anyhow::Error) -> anyhow::Error {
        // A monitor that has just broken off its connections is given the time to end and say why.
        let deadline = Instant::now() + LAST_WORDS;
        let standing = loop {
            match self.child.0.try_wait() {
                Ok(Some(status)) => break format!("the monitor ended with {status}"),
                _ if Instant::now() > deadline => break "the monitor runs still".to_owned(),
                _ => std::thread::sleep(INTERVAL),
            }
        };
        anyhow::anyhow!("{error:#}; {standing}; last words:\n{}", self.transcript.tail(20))
    }

    /// The monitor's resident memory.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident(&self) -> anyhow::Result<Resident> {
        host::resident(self.pid())
    }

    /// Sets the balloon's target and waits until the guest is there; gives the time it took.
    ///
    /// # Errors
    /// The guest does not get there, or the monitor is gone.
    pub fn balloon(&mut self, mib: u64) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.control.set_balloon(mib)?;
        self.wait_balloon(mib)?;
        Ok(start.elapsed())
    }

    /// Waits until the balloon holds this much.
    ///
    /// # Errors
    /// It does not come to that in time.
    pub fn wait_balloon(&mut self, mib: u64) -> anyhow::Result<()> {
        let mut actual = 0;
        let arrived = look(BALLOON_PATIENCE, BALLOON_INTERVAL, || {
            actual = self.control.balloon_actual()?;
            Ok(actual == mib)
        })?;
        if !arrived {
            bail!("the balloon is at {actual} MiB and does not get to {mib}");
        }
        Ok(())
    }

    /// Waits until the monitor's resident memory is at most this.
    ///
    /// # Errors
    /// It does not come to that in time.
    pub fn wait_resident_below(&self, mib: f64) -> anyhow::Result<()> {
        if !wait_until(|| Ok(self.resident()?.mib <= mib))? {
            bail!("{:.0} MiB stay resident, expected at most {mib:.0}", self.resident()?.mib);
        }
        Ok(())
    }

    /// Waits for the monitor's end.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait_exit(&mut self) -> anyhow::Result<ExitStatus> {
        let mut status = None;
        wait_until(|| {
            status = self.child.0.try_wait()?;
            Ok(status.is_some())
        })?;
        // The reader threads may have a last line to take.
        std::thread::sleep(INTERVAL);
        status.with_context(|| {
            format!("the monitor does not end; the console ends with:\n{}", self.transcript.tail(20))
        })
    }

    /// Powers the guest off and waits for the monitor to end well.
    ///
    /// # Errors
    /// It does not end, or not with exit code 0.
    pub fn shut_down(mut self) -> anyhow::Result<()> {
        self.agent.power_off()?;
        let status = self.wait_exit()?;
        if !status.success() {
            bail!("the monitor ended with {status} after a power-off:\n{}", self.transcript.tail(20));
        }
        Ok(())
    }
}

/// Looks again and again until `done`, for a bounded time; says whether it came true.
///
/// # Errors
/// As `done`.
pub fn wait_until(done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    look(PATIENCE, INTERVAL, done)
}

fn look(
    patience: Duration,
    interval: Duration,
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let end = Instant::now() + patience;
    loop {
        if done()? {
            return Ok(true);
        }
        if Instant::now() > end {
            return Ok(false);
        }
        std::thread::sleep(interval);
    }
}

/// What the monitor's threads are at, and what Aerostat says of its memory service.
fn standing(pid: u32, subject: Subject, socket: &Path) -> String {
    let threads = threads::report(pid).unwrap_or_else(|error| format!("  {error:#}\n"));
    if subject != Subject::Aerostat {
        return threads;
    }
    let memory = http::request(socket, "GET", "/memory", None).and_then(http::Response::success);
    let memory = memory.map_or_else(|error| format!("{error:#}"), |memory| memory.to_string());
    format!("{threads}  memory: {memory}\n")
}
