//! The stage of a client: files that the client has prepared before the start, and the monitor.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tempfile::TempDir;

use super::client::{Client, File, Needs};
use super::repository;

/// Longest wait for something that is about to happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(5);
/// What the monitor says of a kernel that is none.
pub(super) const NO_KERNEL_SAYS: &str = "is neither";

const MIB: u64 = 1 << 20;
/// So many were set in this process.
static STAGES: AtomicU32 = AtomicU32::new(0);

/// The client's files, and what placeholders stand for.
#[derive(Debug)]
pub(super) struct Stage {
    directory: TempDir,
    kernel: PathBuf,
    /// Of a TAP interface that nobody else has.
    tap: String,
}

impl Stage {
    /// Makes the files.
    pub(super) fn set(client: &Client) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        for (name, kind) in &client.files {
            let path = directory.path().join(name);
            match kind {
                File::Disk => fs::File::create(&path)?.set_len(MIB)?,
                File::Empty => fs::File::create(&path).map(drop)?,
                File::Json => fs::write(&path, "{}")?,
                File::Fifo => mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?,
            }
        }
        let kernel = if Needs::Kvm.is_there() { real_kernel()? } else { directory.path().join("no-kernel") };
        if !kernel.exists() {
            fs::write(&kernel, "A kernel is something else than this.")?;
        }
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let tap = format!("{number}fct{}", std::process::id());
        Ok(Self { directory, kernel, tap })
    }

    /// The API's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("fc.sock")
    }

    /// A text with what its placeholders stand for.
    pub(super) fn fill(&self, text: &str) -> String {
        let socket = self.socket().display().to_string();
        let hexadecimal: String = socket.bytes().map(|byte| format!("{byte:02x}")).collect();
        text.replace("{dir}", &self.directory.path().display().to_string())
            .replace("{kernel}", &self.kernel.display().to_string())
            .replace("{socket}", &socket)
            .replace("{socket_in_hexadecimal}", &hexadecimal)
            .replace("{tap}", &self.tap)
    }

    /// Writes the configuration file with those sections that are wanted, and that this host can have.
    pub(super) fn write_config(
        &self,
        client: &Client,
        wanted: impl Fn(&String) -> bool,
    ) -> anyhow::Result<()> {
        let can_be = |name: &str| name != "network-interfaces" || Needs::Tap.is_there();
        let config = client.config.iter().flatten().filter(|(name, _)| wanted(name) && can_be(name));
        let config: serde_json::Map<String, Value> =
            config.map(|(name, section)| (name.clone(), section.clone())).collect();
        let text = self.fill(&serde_json::to_string_pretty(&config)?);
        Ok(fs::write(self.directory.path().join("config.json"), text)?)
    }
}

/// The oldest kernel of `ci/setup`.
fn real_kernel() -> anyhow::Result<PathBuf> {
    let kernels = fs::read_dir(repository().join("target/kernels")).context("no kernels: run ci/setup")?;
    let mut kernels =
        kernels.map(|entry| Ok(entry?.path().join("vmlinuz"))).collect::<anyhow::Result<Vec<_>>>()?;
    kernels.sort();
    kernels.into_iter().find(|kernel| kernel.exists()).context("no kernel in target/kernels: run ci/setup")
}

/// A running monitor.
#[derive(Debug)]
pub(super) struct Monitor {
    process: Child,
    words: PathBuf,
}

/// How a monitor ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) said: String,
}

impl Monitor {
    /// Starts it.
    pub(super) fn start(stage: &Stage, arguments: &[String]) -> anyhow::Result<Self> {
        let words = stage.directory.path().join("words");
        let file = fs::File::create(&words)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_aerostat"));
        command.env("AEROSTAT_RUNTIME_DIR", stage.directory.path());
        command.args(arguments.iter().map(|argument| stage.fill(argument)));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { process: command.spawn().context("cannot run aerostat")?, words })
    }

    /// What it has said.
    pub(super) fn said(&self) -> String {
        format!("it said: {}", fs::read_to_string(&self.words).unwrap_or_default())
    }

    /// Whether it runs.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the monitor ended with {status}; {}", self.said()),
        }
    }

    /// Waits for its end.
    pub(super) fn end(mut self) -> anyhow::Result<Ended> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(Ended { code: status.code(), said: self.said() });
            }
            if start.elapsed() > PATIENCE {
                bail!("the monitor does not end; {}", self.said());
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
