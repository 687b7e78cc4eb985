//! The monitor as a process: what it takes over from who starts it, and what it does not. No guest, hence no KVM.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// For what must come: only a monitor that hangs takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A monitor that serves its API, started by `starter`, a command that has it as its last argument.
struct Monitor {
    process: Child,
    socket: PathBuf,
    _directory: TempDir,
}

impl Monitor {
    fn start(starter: &[&str], arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let socket = directory.path().join("api.sock");
        let process = Command::new(starter[0])
            .args(&starter[1..])
            .arg(env!("CARGO_BIN_EXE_aerostat"))
            .arg("--api-sock")
            .arg(&socket)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the monitor starts");
        let mut monitor = Self { process, socket, _directory: directory };
        let start = Instant::now();
        while fs::symlink_metadata(&monitor.socket).is_err() || !monitor.takes_connections() {
            assert_eq!(monitor.process.try_wait().expect("process"), None, "it ended");
            assert!(start.elapsed() < PATIENCE, "it does not come up");
            sleep(Duration::from_millis(5));
        }
        monitor
    }

    fn takes_connections(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    fn mode(&self) -> u32 {
        fs::symlink_metadata(&self.socket).expect("socket").permissions().mode() & 0o7777
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, signal).expect("signal");
    }

    /// Waits for its end, which is to be a good one; what it said.
    fn end(self) -> String {
        let output = self.process.wait_with_output().expect("its end");
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert_eq!(output.status.code(), Some(0), "{text:?}");
        text.concat()
    }
}

#[test]
fn the_socket_is_the_owners_alone_whatever_the_umask() {
    for umask in ["000", "022", "777"] {
        let starter = ["sh", "-c", &format!("umask {umask}; exec \"$0\" \"$@\"")];
        for (arguments, mode) in [(&[][..], 0o600), (&["--api-sock-mode", "666"], 0o666)] {
            let monitor = Monitor::start(&starter, arguments);
            assert_eq!(monitor.mode(), mode, "umask {umask}, {arguments:?}");
            monitor.signal(Signal::TERM);
            monitor.end();
        }
    }
}

#[test]
fn signals_that_are_ignored_at_the_start_stay_ignored() {
    for (name, signal) in [("HUP", Signal::HUP), ("INT", Signal::INT), ("QUIT", Signal::QUIT)] {
        let monitor = Monitor::start(&["env", &format!("--ignore-signal={name}")], &[]);
        monitor.signal(signal);
        monitor.signal(Signal::TERM);
        let said = monitor.end();
        assert!(said.contains("signal 15."), "{name}: {said}");
    }
}

#[test]
fn a_signal_that_nobody_ignores_ends_it() {
    let monitor = Monitor::start(&["env"], &[]);
    monitor.signal(Signal::HUP);
    let said = monitor.end();
    assert!(said.contains("signal 1."), "{said}");
}

#[test]
fn signals_that_are_blocked_at_the_start_end_it_as_ever() {
    let monitor = Monitor::start(&["env", "--block-signal=HUP,INT,QUIT,TERM,RTMIN"], &[]);
    monitor.signal(Signal::TERM);
    let said = monitor.end();
    assert!(said.contains("signal 15."), "{said}");
}
