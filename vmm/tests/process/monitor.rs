//! A monitor that serves its API, and nobody's guest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vmm::api::client::Client;

/// For what must come: only a monitor that hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A monitor that serves its API, started by `starter`, a command that has it as its last argument.
pub(crate) struct Monitor {
    /// Until it has ended.
    process: Option<Child>,
    socket: PathBuf,
    directory: TempDir,
}

impl Monitor {
    pub(crate) fn start(starter: &[&str], arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let socket = directory.path().join("api.sock");
        let process = Command::new(starter[0])
            // Not among the guests of this host.
            .env("AEROSTAT_RUNTIME_DIR", directory.path().join("guests"))
            .args(&starter[1..])
            .arg(env!("CARGO_BIN_EXE_aerostat"))
            .arg("--api-sock")
            .arg(&socket)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the monitor starts");
        let mut monitor = Self { process: Some(process), socket, directory };
        let start = Instant::now();
        while fs::symlink_metadata(&monitor.socket).is_err() || !monitor.takes_connections() {
            let process = monitor.process.as_mut().expect("it runs");
            assert_eq!(process.try_wait().expect("process"), None, "it ended");
            assert!(start.elapsed() < PATIENCE, "it does not come up");
            sleep(Duration::from_millis(5));
        }
        monitor
    }

    /// A client of its API.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.socket).expect("a client")
    }

    /// Where files of the test may be.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn takes_connections(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    pub(crate) fn mode(&self) -> u32 {
        fs::symlink_metadata(&self.socket).expect("socket").permissions().mode() & 0o7777
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("signal");
    }

    /// Kills it.
    pub(crate) fn kill(mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().and_then(|()| process.wait()).expect("its end");
    }

    /// Ends it.
    pub(crate) fn finish(self) {
        self.signal(Signal::TERM);
        self.end();
    }

    /// Waits for its end, which is to be a good one and leaves the socket's file, as Firecracker does: clients remove it, and
    /// some fail where it is gone. Gives what it said.
    pub(crate) fn end(mut self) -> String {
        let process = self.process.take().expect("it runs");
        let output = process.wait_with_output().expect("its end");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert_eq!(output.status.code(), Some(0), "{text:?}");
        assert!(self.socket.exists() && !self.takes_connections(), "{text:?}");
        text.concat()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // A test that failed says why.
            let _ = process.kill().and_then(|()| process.wait());
        }
    }
}
