//! Guests are found by their ids: `aerostat list`, and the guest that a command speaks to. No guest has been started here.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake_guest::{AtKeys, FakeGuest};
use crate::monitor::Monitor;

/// A list waits for no guest; this is for a program that hangs.
const BOUND: Duration = Duration::from_secs(60);

/// A host with guests of its own.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("temporary directory"))
    }

    fn variable(&self) -> String {
        format!("AEROSTAT_RUNTIME_DIR={}", self.0.path().display())
    }

    /// A monitor on this host.
    fn start(&self, id: &str) -> Monitor {
        Monitor::start(&["env", &self.variable()], &["--id", id])
    }

    /// A command on this host.
    fn run(&self, arguments: &[&str], environment: &[(&str, &Path)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aerostat"));
        command.env("AEROSTAT_RUNTIME_DIR", self.0.path()).env_remove("AEROSTAT_API_SOCK");
        command.envs(environment.iter().copied()).args(arguments).output().expect("aerostat runs")
    }

    /// The answer of a command.
    fn says(&self, arguments: &[&str]) -> String {
        said(&self.run(arguments, &[]))
    }

    /// Why a command fails.
    fn fails(&self, arguments: &[&str]) -> String {
        failed(&self.run(arguments, &[]))
    }

    fn list(&self) -> Vec<Value> {
        let mut list: Value = serde_json::from_str(&self.says(&["list", "--json"])).expect("JSON");
        assert_eq!(list["version"], 1);
        let Value::Array(guests) = list["guests"].take() else { panic!("{list}") };
        guests
    }

    fn ids(&self) -> Vec<String> {
        self.list().iter().map(|guest| guest["id"].as_str().expect("an id").to_owned()).collect()
    }
}

fn said(output: &Output) -> String {
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    text(&output.stdout)
}

fn failed(output: &Output) -> String {
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    text(&output.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_list_of_nobody_is_a_sentence_and_no_error() {
    let host = Host::new();
    assert_eq!(host.says(&["list"]), "No guest runs that this user can reach: aerostat run starts one.\n");
    assert_eq!(host.list(), Vec::<Value>::new());
}

#[test]
fn guests_are_listed_until_they_end() {
    let host = Host::new();
    let (web, db) = (host.start("web"), host.start("db"));
    let line = |id: &str, monitor: &Monitor| {
        let socket = fs::canonicalize(monitor.socket()).expect("a socket");
        json!({"id": id, "pid": monitor.pid(), "api_sock": socket, "state": "Not started", "memory_mib": 128})
    };
    let mut list = host.list();
    for guest in &mut list {
        let uptime = guest.as_object_mut().and_then(|guest| guest.remove("uptime_seconds"));
        assert!(uptime.and_then(|uptime| uptime.as_u64()).is_some_and(|uptime| uptime < 86_400), "{guest}");
    }
    assert_eq!(list, [line("db", &db), line("web", &web)]);
    for name in ["list", "ps"] {
        let text = host.says(&[name]);
        let words: Vec<_> = text.lines().last().expect("a line").split_whitespace().collect();
        assert_eq!(words[..6], ["web", &web.pid().to_string(), "Not", "started", "128", "MiB"], "{text}");
    }
    web.finish();
    assert_eq!(host.ids(), ["db"]);
    db.kill();
    assert_eq!(host.ids(), Vec::<String>::new());
    assert_eq!(fs::read_dir(host.0.path()).expect("a directory").count(), 0, "nothing is left");
}

#[test]
fn a_guest_that_hangs_is_listed_and_not_waited_for() {
    let host = Host::new();
    let (web, db) = (host.start("web"), host.start("db"));
    db.signal(Signal::STOP);
    let start = Instant::now();
    let list = host.list();
    assert!(start.elapsed() < BOUND);
    db.signal(Signal::CONT);
    let states: Vec<_> = list.iter().map(|guest| &guest["state"]).collect();
    assert_eq!(states, ["No answer", "Not started"]);
    assert_eq!(list[0]["pid"], db.pid());
    web.finish();
    db.finish();
}

#[test]
fn a_guest_of_an_id_that_is_taken_starts_and_is_listed_with_its_process() {
    let host = Host::new();
    let (first, second) = (host.start("anonymous-instance"), host.start("anonymous-instance"));
    let with_process = format!("anonymous-instance.{}", second.pid());
    assert_eq!(host.ids(), ["anonymous-instance", &with_process]);
    let said = host.fails(&["memory", "show", "--id", &with_process]);
    assert!(said.contains("has not been started"), "{said}");
    first.finish();
    assert_eq!(host.ids(), [with_process]);
    second.finish();
}

#[test]
fn a_socket_may_be_named_relative_to_the_directory_of_the_start() {
    let host = Host::new();
    let script = "cd ${2%/*} && exec $0 $1 ${2##*/} --id web";
    let monitor = Monitor::start(&["env", &host.variable(), "sh", "-c", script], &[]);
    let said = host.fails(&["memory", "show", "--id", "web"]);
    assert!(said.contains("has not been started"), "{said}");
    monitor.finish();
}

#[test]
fn a_guest_without_an_api_has_no_name() {
    let host = Host::new();
    let config = host.0.path().join("config.json");
    fs::write(&config, r#"{"boot-source": {"kernel_image_path": "/nowhere"}}"#).expect("written");
    let config = config.display().to_string();
    let output = host.run(&["--no-api", "--id", "web", "--config-file", &config], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // One whose start fails has had one, which is gone.
    let output = host.run(&["run", "--id", "web", "--kernel", "/nowhere"], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let left: Vec<_> = fs::read_dir(host.0.path()).expect("a directory").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn one_guest_may_be_listed_alone() {
    let host = Host::new();
    let (web, db) = (host.start("web"), host.start("db"));
    let list = host.says(&["list", "--id", "web"]);
    assert!(list.contains("\nweb ") && !list.contains("\ndb "), "{list}");
    assert_eq!(
        host.fails(&["list", "--id", "mail"]),
        "aerostat: No guest \"mail\" can be reached: those that run are db and web.\n"
    );
    web.finish();
    db.finish();
}

#[test]
fn a_directory_that_is_not_absolute_is_said() {
    let wrong = "AEROSTAT_RUNTIME_DIR is run, but has to be an absolute path";
    let host = Host::new();
    let output = host.run(&["list"], &[("AEROSTAT_RUNTIME_DIR", Path::new("run"))]);
    assert_eq!(failed(&output), format!("aerostat: Guests cannot be looked for: {wrong}.\n"));
    let monitor = Monitor::start(&["env", "AEROSTAT_RUNTIME_DIR=run"], &[]);
    monitor.signal(Signal::TERM);
    let said = monitor.end();
    assert!(said.contains(wrong) && said.contains("--api-sock does"), "{said}");
}

#[test]
fn a_command_speaks_to_the_only_guest_or_says_how_to_choose() {
    let host = Host::new();
    let set = ["balloon", "set", "64"];
    assert_eq!(
        host.fails(&set),
        "aerostat: No guest runs that this user can reach: start one with aerostat run, or name the socket of its \
         API with --api-sock.\n"
    );
    let web = host.start("web");
    let not_started = "aerostat: The guest has not been started yet: send InstanceStart to its API first.\n";
    assert_eq!(host.fails(&set), not_started);
    assert_eq!(host.fails(&["memory", "show"]), not_started);
    let db = host.start("db");
    assert_eq!(host.fails(&set), "aerostat: 2 guests run, db and web: say which one you mean with --id.\n");
    assert_eq!(host.fails(&["memory", "show", "--id", "web"]), not_started);
    assert_eq!(
        host.fails(&["memory", "show", "--id", "../web"]),
        "aerostat: No guest \"../web\" can be reached: those that run are db and web.\n"
    );
    web.finish();
    db.finish();
}

#[test]
fn flags_come_before_the_environment_and_that_before_the_only_guest() {
    let host = Host::new();
    let (web, nowhere) = (host.start("web"), host.0.path().join("nowhere.socket"));
    let get = |arguments: &[&str], variable: &Path| {
        let output = host.run(&[&["memory", "show"], arguments].concat(), &[("AEROSTAT_API_SOCK", variable)]);
        failed(&output)
    };
    let nobody = "Nothing listens at";
    assert!(get(&[], &nowhere).contains(nobody));
    let socket = web.socket().display().to_string();
    for arguments in [["--id", "web"], ["--api-sock", &socket]] {
        let said = get(&arguments, &nowhere);
        assert!(said.contains("has not been started"), "{said}");
    }
    // As if it were not set.
    assert!(get(&[], Path::new("")).contains("has not been started"));
    let other = host.start("other");
    assert!(get(&[], other.socket()).contains("has not been started"));
    let nowhere = nowhere.display().to_string();
    assert!(get(&["--api-sock", &nowhere], other.socket()).contains(nobody));
    let both = host.run(&["memory", "show", "--id", "web", "--api-sock", &socket], &[]);
    assert_eq!(both.status.code(), Some(2));
    web.finish();
    other.finish();
}

#[test]
fn a_guest_that_was_not_started_is_powered_off_at_once() {
    let host = Host::new();
    let (web, db) = (host.start("web"), host.start("db"));
    assert_eq!(host.says(&["stop", "--id", "web"]), "The guest is powered off.\n");
    assert!(web.end().contains("signal 15."));
    // The only one that runs.
    let stopped: Value = serde_json::from_str(&host.says(&["stop", "--json"])).expect("JSON");
    assert_eq!(stopped, json!({"version": 1, "ended": "powered_off"}));
    db.end();
    let said = host.fails(&["stop"]);
    assert!(said.contains("No guest runs"), "{said}");
}

#[test]
fn a_process_that_hangs_is_killed() {
    let host = Host::new();
    let web = host.start("web");
    web.signal(Signal::STOP);
    let said = host.says(&["stop", "--timeout", "1"]);
    assert_eq!(said, "The guest's process did not end when it was told to, and was killed.\n");
    assert_eq!(host.ids(), Vec::<String>::new());
}

/// Stops a guest from a PID namespace in which its process is not to be seen.
fn stop_from_elsewhere(socket: &str) -> Output {
    Command::new("unshare")
        .args(["--pid", "--fork", env!("CARGO_BIN_EXE_aerostat"), "stop", "--timeout", "1"])
        .args(["--api-sock", socket])
        .output()
        .expect("unshare")
}

#[test]
fn a_guest_in_another_pid_namespace_is_shut_down_and_never_powered_off() {
    if !geteuid().is_root() {
        return;
    }
    let ends = FakeGuest::start(AtKeys::Ends);
    assert_eq!(said(&stop_from_elsewhere(&ends.socket())), "The guest has shut down.\n");
    let why = "and its process runs on, because it is in another PID namespace, where this command cannot power it off: \
               run aerostat stop where the guest was started.\n";
    let runs_on = FakeGuest::start(AtKeys::RunsOn);
    let sentence = format!("aerostat: The guest did not shut down within 1 s, {why}");
    assert_eq!(failed(&stop_from_elsewhere(&runs_on.socket())), sentence);
    let (host, socket) = (Host::new(), |monitor: &Monitor| monitor.socket().display().to_string());
    let web = host.start("web");
    let sentence = format!("aerostat: The guest was not started, {why}");
    assert_eq!(failed(&stop_from_elsewhere(&socket(&web))), sentence);
    web.finish();
}

#[test]
fn a_process_that_is_no_monitor_is_not_stopped() {
    let host = Host::new();
    let socket = host.0.path().join("other.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accepts");
        let mut request = [0; 16];
        stream.read_exact(&mut request).expect("reads");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").expect("sends");
    });
    let socket = socket.display().to_string();
    let said = host.fails(&["stop", "--timeout", "0", "--api-sock", &socket]);
    assert!(said.contains("is it Aerostat?"), "{said}");
    other.join().expect("this process lives");
}

#[test]
fn a_process_that_is_silent_and_no_monitor_is_not_stopped() {
    let host = Host::new();
    let socket = host.0.path().join("silent.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let socket = socket.display().to_string();
    let said = host.fails(&["stop", "--timeout", "0", "--api-sock", &socket]);
    assert!(
        said.contains(&format!("process {} behind it does not run Aerostat", std::process::id())),
        "{said}"
    );
}

#[test]
fn a_guest_that_was_not_started_can_be_neither_paused_nor_resumed_and_has_no_console() {
    let host = Host::new();
    let web = host.start("web");
    for command in ["pause", "resume", "console"] {
        let said = host.fails(&[command]);
        assert!(said.contains("has not been started"), "{said}");
    }
    web.finish();
}
