//! An NBD server on the host, ours or somebody else's: its export lies in memory.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::process::{self, Reaped};
use crate::subject::Subject;
use crate::testvm::wait_until;
use crate::{host, paths};

/// Where the export lies: always in memory, which `/tmp` need not be.
const MEMORY: &str = "/dev/shm";
/// Clients at once.
const CLIENTS: &str = "16";
/// The export's name on a socket.
const EXPORT: &str = "swap";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `aerostat swap serve`.
    Aerostat,
    /// `nbdkit memory`.
    Nbdkit,
    /// `qemu-nbd` on a file in tmpfs.
    QemuNbd,
    /// `nbd-server` on a file in tmpfs, a process for each connection.
    NbdServer,
}

impl Program {
    /// As it is called in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Program::Aerostat => Subject::Aerostat.name(),
            Program::Nbdkit => "nbdkit",
            Program::QemuNbd => "qemu-nbd",
            Program::NbdServer => "nbd-server",
        }
    }

    /// Serves `mib` of zeroes on `socket` until it is killed, in the foreground but for `nbd-server`.
    fn command(self, socket: &Path, mib: u64) -> anyhow::Result<Command> {
        let (directory, size) = (socket.parent().context("a socket lies in a directory")?, format!("{mib}M"));
        let image = directory.join("export");
        let mut command = match self {
            Program::Aerostat => Command::new(paths::aerostat()),
            Program::Nbdkit | Program::QemuNbd | Program::NbdServer => Command::new(self.name()),
        };
        match self {
            Program::Aerostat => {
                command.args(["swap", "serve", "--name", EXPORT, "--size", &size]);
                command.arg("--socket").arg(socket);
            }
            Program::Nbdkit => {
                command.args(["--foreground", "--unix"]).arg(socket).args(["memory", &size]);
            }
            Program::QemuNbd => {
                // What lies there stays when the server is started again.
                File::options().create(true).append(true).open(&image)?.set_len(mib << 20)?;
                qemu_options(&mut command, EXPORT).arg("--socket").arg(socket).arg(&image);
            }
            Program::NbdServer => {
                File::create(&image)?.set_len(mib << 20)?;
                let (config, socket, image) = (directory.join("config"), socket.display(), image.display());
                fs::write(
                    &config,
                    format!("[generic]\nunixsock = {socket}\n[{EXPORT}]\nexportname = {image}\n"),
                )?;
                command.arg("-C").arg(config).arg("-p").arg(pid_file(directory));
            }
        }
        Ok(command)
    }
}

/// Discards reach the file, and clients may come, go, and be several.
fn qemu_options<'a>(command: &'a mut Command, export: &str) -> &'a mut Command {
    command
        .args(["--format=raw", "--discard=unmap", "--persistent", "--shared", CLIENTS])
        .args(["--export-name", export])
}

fn pid_file(directory: &Path) -> PathBuf {
    directory.join("pid")
}

/// A running server; killed when it is dropped.
#[derive(Debug)]
pub struct NbdServer {
    child: Reaped,
    /// One that is no child of ours any more.
    daemon: Option<Daemon>,
    /// Holds the socket, the export and what the server said.
    directory: TempDir,
}

impl NbdServer {
    /// `qemu-nbd` exports `mib` of zeroes, that can be discarded again, at an address of this host.
    ///
    /// # Errors
    /// There is no `qemu-nbd`, or it does not listen.
    pub fn qemu(address: SocketAddr, export: &str, mib: u64) -> anyhow::Result<Self> {
        let directory = directory()?;
        let image = directory.path().join("export");
        File::create(&image)?.set_len(mib << 20)?;
        let mut command = Command::new("qemu-nbd");
        qemu_options(&mut command, export)
            .args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()])
            .arg(&image);
        Self::start(command, directory, || {
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        })
    }

    /// A server exports `mib` of zeroes on a unix socket.
    ///
    /// # Errors
    /// There is no such server, or it does not listen.
    pub fn on_socket(program: Program, mib: u64) -> anyhow::Result<Self> {
        let directory = directory()?;
        let socket = socket(&directory);
        let command = program.command(&socket, mib)?;
        let mut server = Self::start(command, directory, || UnixStream::connect(&socket).is_ok())?;
        if program == Program::NbdServer {
            server.daemon = Some(Daemon::read(&pid_file(server.directory.path()))?);
        }
        Ok(server)
    }

    /// Kills it, in the middle of whatever it is at.
    ///
    /// # Errors
    /// It has ended before.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.0.try_wait()? {
            bail!("the server has ended with {status}");
        }
        self.child.0.kill()?;
        self.child.0.wait()?;
        Ok(())
    }

    /// Starts a server on a socket again, with what its export holds.
    ///
    /// # Errors
    /// As [`Self::on_socket`].
    pub fn start_again(self, program: Program, mib: u64) -> anyhow::Result<Self> {
        let Self { child, directory, .. } = self;
        drop(child);
        let socket = socket(&directory);
        fs::remove_file(&socket)?;
        let command = program.command(&socket, mib)?;
        Self::start(command, directory, || UnixStream::connect(&socket).is_ok())
    }

    fn start(mut command: Command, directory: TempDir, listens: impl Fn() -> bool) -> anyhow::Result<Self> {
        let name = command.get_program().display().to_string();
        let log = directory.path().join("log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        process::die_with_parent(&mut command);
        let missing = || format!("cannot run {name}: run ci/setup and ci/build first");
        let mut child = Reaped(command.spawn().with_context(missing)?);
        let listens = wait_until(|| {
            // One that goes into the background ends well.
            if let Some(status) = child.0.try_wait()?.filter(|status| !status.success()) {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("{name} ended with {status}: {}", said.trim());
            }
            Ok(listens())
        })?;
        if !listens {
            bail!("{name} does not listen");
        }
        Ok(Self { child, daemon: None, directory })
    }

    /// The export on the socket, as an NBD URI.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{EXPORT}?socket={}", socket(&self.directory).display())
    }

    /// CPU time that it, and the processes that it started, have had so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        host::family_cpu_time(self.daemon.as_ref().map_or(self.child.0.id(), |daemon| daemon.0))
    }
}

fn directory() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("aerostat-nbd-").tempdir_in(MEMORY)?)
}

fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("socket")
}

/// A process that went into the background by itself; killed when it is dropped. It outlives a benchmark
/// that is killed: `nbd-server` in the foreground serves one connection and no more.
#[derive(Debug)]
struct Daemon(u32);

impl Daemon {
    fn read(pid_file: &Path) -> anyhow::Result<Self> {
        let mut pid = None;
        wait_until(|| {
            pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse().ok());
            Ok(pid.is_some())
        })?;
        pid.map(Self).with_context(|| format!("there is no process number in {}", pid_file.display()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
