//! The API as clients meet it: over a real socket, with a fake guest.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use memsvc::guard::Guard;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{
    client::{Client, ClientError},
    controller::{API_VERSION, Controller},
    fake,
    server::{ApiServer, MAX_BODY},
    types::{InstanceInfo, InstanceState},
};
use crate::socket::{ListeningSocket, SocketMode};

mod connections;
mod console;
mod mistakes;
mod wedged;

/// Longest wait for something that is about to happen.
const PATIENCE: Duration = Duration::from_secs(60);

struct Served {
    dir: tempfile::TempDir,
    path: PathBuf,
    told: fake::Told,
    _server: ApiServer,
}

fn serve() -> Served {
    serve_controller(fake::controller())
}

fn serve_controller((controller, told): (Controller, fake::Told)) -> Served {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("api.sock");
    let socket = ListeningSocket::bind(&path, SocketMode::OWNER).expect("binds");
    let guard = Guard::new(|why| panic!("{why}"));
    let server =
        ApiServer::spawn(socket, Arc::new(Mutex::new(controller)), MAX_BODY, &guard).expect("serves");
    Served { dir, path, told, _server: server }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn fault(&self) -> String {
        self.json()["fault_message"].as_str().expect("fault_message").to_owned()
    }
}

/// A connection that is kept, as Firecracker's clients keep it.
struct Connection(BufReader<UnixStream>);

impl Connection {
    fn open(served: &Served) -> Self {
        let stream = UnixStream::connect(&served.path).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("sets");
        Self(BufReader::new(stream))
    }

    fn call(&mut self, verb: &str, path: &str, body: &str) -> Answer {
        self.send(verb, path, body);
        self.answer()
    }

    fn send(&mut self, verb: &str, path: &str, body: &str) {
        let length = body.len();
        let head = format!("{verb} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        self.0.get_mut().write_all(format!("{head}{body}").as_bytes()).expect("sends");
    }

    fn answer(&mut self) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).expect("reads"), 0, "closed after: {head}");
        }
        let status = head[9..12].parse().expect("status");
        let length = head.to_ascii_lowercase().lines().find_map(|line| {
            line.strip_prefix("content-length: ").map(|length| length.parse().expect("length"))
        });
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).expect("reads");
        Answer { status, head, body: String::from_utf8(body).expect("text") }
    }
}

#[test]
fn a_client_of_firecracker_boots_a_guest_on_one_connection() {
    let served = serve();
    let kernel = fake::kernel(served.dir.path());
    let log = served.dir.path().join("log");
    let mut client = Connection::open(&served);
    let first = client.call("GET", "/machine-config", "");
    assert_eq!((first.status, first.json()["mem_size_mib"].as_u64()), (200, Some(128)));
    for (verb, path, body) in [
        ("PUT", "/logger", json!({"log_path": log, "level": "Warning"})),
        ("PUT", "/metrics", json!({"metrics_path": served.dir.path().join("metrics")})),
        ("PUT", "/machine-config", json!({"vcpu_count": 2, "mem_size_mib": 512, "smt": false})),
        ("PATCH", "/machine-config", json!({"mem_size_mib": 256})),
        ("PUT", "/memory/limits", json!({"allow_host_swap": true})),
        ("PUT", "/memory/limits", json!({"limit_mib": 300})),
        ("PUT", "/memory/watermarks", json!({"min_kib": 1024, "low_kib": 2048, "high_kib": 4096})),
        ("PUT", "/memory/compaction", json!({"policy": "scanner", "extfrag_threshold": 1000})),
        ("PUT", "/boot-source", json!({"kernel_image_path": kernel})),
        ("PUT", "/drives/root", json!({"drive_id": "root", "path_on_host": kernel, "is_root_device": true})),
        ("PUT", "/serial", json!({"serial_out_path": served.dir.path().join("serial")})),
        (
            "PUT",
            "/entropy",
            json!({"rate_limiter": {"ops": {"size": 7, "refill_time": 8}, "bandwidth": null}}),
        ),
        (
            "PUT",
            "/balloon",
            json!({"amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1, "free_page_hinting": true}),
        ),
        ("PUT", "/actions", json!({"action_type": "InstanceStart"})),
        ("PATCH", "/balloon", json!({"amount_mib": 128})),
        ("PUT", "/memory/compaction", json!({"extfrag_threshold": 0, "proactiveness": 100})),
        ("PATCH", "/balloon/statistics", json!({"stats_polling_interval_s": 2})),
        ("PATCH", "/balloon/hinting/start", json!({"acknowledge_on_stop": false})),
        ("PUT", "/actions", json!({"action_type": "FlushMetrics"})),
        ("PATCH", "/vm", json!({"state": "Paused"})),
    ] {
        let answer = client.call(verb, path, &body.to_string());
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{verb} {path}");
        assert!(!answer.head.to_ascii_lowercase().contains("content-length: 0"), "{}", answer.head);
    }
    // A body that may be left out.
    assert_eq!(client.call("PATCH", "/balloon/hinting/start", "").status, 204);
    let info = client.call("GET", "/", "").json();
    assert_eq!(
        (&info["id"], &info["state"], &info["app_name"]),
        (&json!("vm7"), &json!("Paused"), &json!("Aerostat"))
    );
    assert_eq!(info["vmm_version"], API_VERSION);
    assert_eq!(client.call("GET", "/version", "").json()["firecracker_version"], API_VERSION);
    let config = client.call("GET", "/vm/config", "").json();
    assert_eq!(config["machine-config"]["mem_size_mib"], 256);
    assert_eq!(config["entropy"]["rate_limiter"]["ops"]["size"], 7);
    assert_eq!(
        (&config["balloon"]["amount_mib"], &config["drives"][0]["drive_id"]),
        (&json!(128), &json!("root"))
    );
    assert_eq!(
        config["memory"],
        json!({"limit_mib": 300, "watermarks": {"min_kib": 1024, "low_kib": 2048, "high_kib": 4096},
            "allow_host_swap": true, "compaction": {"policy": "scanner", "extfrag_threshold": 0, "proactiveness": 100}})
    );
    let late = client.call("PUT", "/memory/watermarks", r#"{"min_kib":0,"low_kib":0,"high_kib":0}"#);
    assert_eq!(
        (late.status, late.fault().ends_with("not supported after starting the microVM.")),
        (400, true)
    );
    let stats = client.call("GET", "/balloon/statistics", "").json();
    assert_eq!(
        stats,
        json!({"target_pages": 32768, "actual_pages": 32768, "target_mib": 128, "actual_mib": 128, "host_freed_mib": 64, "free_memory": 4096})
    );
    let asked = || served.told.lock().expect("lock").iter().any(|what| what == "statistics");
    assert_eq!(client.call("GET", "/balloon/statistics?fresh=false", "").json(), stats);
    assert!(!asked());
    assert_eq!(client.call("GET", "/balloon/statistics?fresh=true", "").json(), stats);
    assert!(asked(), "the guest is asked first");
    let wrong = client.call("GET", "/balloon/statistics?fresh=yes", "");
    assert_eq!(
        (wrong.status, wrong.fault().as_str()),
        (400, "Invalid query \"fresh=yes\": write fresh=true to have the guest asked now, or leave it out.")
    );
    assert_eq!(
        client.call("GET", "/balloon/hinting/status", "").json(),
        json!({"host_cmd": 2, "guest_cmd": null})
    );
    assert_eq!(client.call("GET", "/memory", "").json()["balloon_device"]["actual_mib"], 128);
    for (path, field, value) in [
        ("/memory/buddy", "/free_frames", json!(1000)),
        ("/memory/types", "/whole_free_blocks", json!(2)),
        ("/memory/zone", "/min", json!(16)),
        ("/memory/slabs", "/caches/0/name", json!("kmem-96")),
        ("/memory/compaction", "/score", json!(12)),
        ("/memory/compaction", "/policy", json!("scanner")),
        ("/memory/compaction", "/proactiveness", json!(100)),
    ] {
        assert_eq!(client.call("GET", path, "").json().pointer(field), Some(&value), "{path}");
    }
    assert_eq!(client.call("GET", "/openapi.json", "").body, super::openapi::CHECKED_IN);
    assert_eq!(
        *served.told.lock().expect("lock"),
        ["launch vm7", "balloon 128", "interval 2", "hinting false", "hinting true", "statistics"]
    );
}

#[test]
fn a_final_slash_changes_nothing() {
    let served = serve();
    let mut client = Connection::open(&served);
    let memory = json!({"vcpu_count": 1, "mem_size_mib": 65});
    assert_eq!(client.call("PUT", "/machine-config/", &memory.to_string()).status, 204);
    for path in ["/machine-config", "/machine-config/", "/machine-config/?x=1"] {
        assert_eq!(client.call("GET", path, "").json()["mem_size_mib"], 66, "{path}");
    }
    assert_eq!(client.call("GET", "//", "").json()["id"], "vm7");
}

#[test]
fn outputs_are_configured_once() {
    let served = serve();
    let mut client = Connection::open(&served);
    let at = |name: &str| served.dir.path().join(name);
    for (path, body, again) in [
        ("/logger", json!({"log_path": at("log")}), "The log was configured before, which can be done once"),
        (
            "/metrics",
            json!({"metrics_path": at("m")}),
            "Metrics were configured before, which can be done once",
        ),
    ] {
        assert_eq!(client.call("PUT", path, &body.to_string()).status, 204);
        let answer = client.call("PUT", path, &body.to_string());
        assert_eq!(answer.status, 400);
        assert!(answer.fault().starts_with(again), "{}", answer.fault());
    }
}

#[test]
fn prometheus_can_ask_in_every_phase_and_for_the_allocator_there_must_be_a_guest() {
    let served = serve();
    let mut client = Connection::open(&served);
    let before = client.call("GET", "/metrics", "");
    assert_eq!(before.status, 200);
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(before.head.to_ascii_lowercase().contains(kind), "{}", before.head);
    assert!(before.body.contains(r#"id="vm7",state="Not started"} 1"#), "{}", before.body);
    assert!(!before.body.contains("aerostat_memory"), "{}", before.body);
    for part in ["buddy", "types", "zone", "slabs", "compaction"] {
        let answer = client.call("GET", &format!("/memory/{part}"), "");
        assert_eq!(
            (answer.status, answer.fault().ends_with("before starting the microVM.")),
            (400, true),
            "{part}"
        );
    }
    let kernel = json!({"kernel_image_path": fake::kernel(served.dir.path())});
    assert_eq!(client.call("PUT", "/boot-source", &kernel.to_string()).status, 204);
    assert_eq!(client.call("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#).status, 204);
    let after = client.call("GET", "/metrics", "").body;
    assert!(after.contains(r#"state="Running"} 1"#), "{after}");
    assert!(after.contains("\naerostat_memory_arena_frames 1536\n"), "{after}");
}

/// A guest that was started, of 128 MiB.
fn serve_started() -> Served {
    started(fake::controller())
}

/// The guest of this controller was started.
fn started(controller: (Controller, fake::Told)) -> Served {
    let served = serve_controller(controller);
    let mut client = Connection::open(&served);
    let kernel = json!({"kernel_image_path": fake::kernel(served.dir.path())});
    assert_eq!(client.call("PUT", "/boot-source", &kernel.to_string()).status, 204);
    assert_eq!(client.call("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#).status, 204);
    served
}

/// Waits until this is all that the guest was told.
#[track_caller]
fn wait_told(told: &fake::Told, all: &[&str]) {
    let start = Instant::now();
    while *told.lock().expect("lock") != all {
        assert!(start.elapsed() < PATIENCE, "{told:?}, not {all:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn memory_can_be_had_back_as_far_as_there_is_any() {
    let served = serve_started();
    let mut client = Connection::open(&served);
    for (mib, sentence) in [
        (0, "mib is 0: say how much memory you want back."),
        (129, "The guest has 128 MiB of memory, and 129 MiB cannot be had back from it: ask for less."),
        (u64::MAX, "The guest has 128 MiB of memory, and 18446744073709551615 MiB cannot be had back"),
    ] {
        let answer = client.call("PUT", "/memory/reclaim", &json!({"mib": mib}).to_string());
        assert_eq!((answer.status, answer.fault().starts_with(sentence)), (400, true), "{}", answer.body);
    }
    let reclaimed = client.call("PUT", "/memory/reclaim", r#"{"mib":128}"#);
    assert_eq!((reclaimed.status, &reclaimed.json()["asked_bytes"]), (200, &json!(128 << 20)));
    for body in ["", "{}"] {
        let compacted = client.call("PUT", "/memory/compact", body).json();
        assert_eq!((&compacted["blocks"], &compacted["complete"]), (&json!(5), &json!(true)));
    }
    wait_told(&served.told, &["launch vm7", "reclaim 128", "compact", "compact"]);
}

#[test]
fn a_long_call_blocks_only_those_of_its_kind_and_ends_when_its_client_hangs_up() {
    let served = serve_started();
    let mut first = Connection::open(&served);
    first.send("PUT", "/memory/reclaim", r#"{"mib":66}"#);
    wait_told(&served.told, &["launch vm7", "reclaim 66"]);
    // One that waits for its turn, and one that no longer does.
    let mut second = Connection::open(&served);
    second.send("PUT", "/memory/compact", "");
    Connection::open(&served).send("PUT", "/memory/reclaim", r#"{"mib":1}"#);
    assert_eq!(Connection::open(&served).call("GET", "/memory/compaction", "").status, 200);
    drop(first);
    assert_eq!(second.answer().status, 200);
    wait_told(&served.told, &["launch vm7", "reclaim 66", "stopped", "compact"]);
}

#[test]
fn a_long_call_ends_with_the_server() {
    let served = serve_started();
    let mut client = Connection::open(&served);
    client.send("PUT", "/memory/reclaim", r#"{"mib":66}"#);
    wait_told(&served.told, &["launch vm7", "reclaim 66"]);
    let Served { told, _server, .. } = served;
    drop(_server);
    wait_told(&told, &["launch vm7", "reclaim 66", "stopped", "drop"]);
}

#[test]
fn the_socket_goes_with_the_server() {
    let served = serve();
    let Served { dir: _dir, path, _server, .. } = served;
    assert!(path.exists());
    drop(_server);
    assert!(!path.exists());
}

#[test]
fn our_client_understands_answers_faults_and_silence() {
    let served = serve();
    let client = Client::new(&served.path).expect("client");
    let info: InstanceInfo = client.get("/").expect("answers");
    assert_eq!((info.id.as_str(), info.state), ("vm7", InstanceState::NotStarted));
    let refused = client.patch("/balloon", &json!({"amount_mib": 1})).expect_err("wrong phase");
    assert!(matches!(refused, ClientError::NotStarted), "{refused}");
    let refused = client.put::<Value>("/actions", &json!({})).expect_err("no action");
    assert!(matches!(refused, ClientError::Refused(_)), "{refused}");
    let Served { dir, path, _server, .. } = served;
    drop(_server);
    let nobody = client.get::<InstanceInfo>("/").expect_err("nobody is there");
    assert!(matches!(&nobody, ClientError::NotThere(at) if *at == path), "{nobody}");
    // Somebody who accepts and hangs up, and somebody who speaks something else.
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("binds");
    let other = std::thread::spawn(move || {
        drop(listener.accept().expect("accepts"));
        let (mut stream, _) = listener.accept().expect("accepts");
        let mut request = [0; 16];
        stream.read_exact(&mut request).expect("reads");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").expect("sends");
    });
    let hung_up = client.get::<InstanceInfo>("/").expect_err("hung up");
    assert!(matches!(hung_up, ClientError::NoAnswer(_)), "{hung_up}");
    let strange = client.get::<InstanceInfo>("/").expect_err("not ours");
    assert!(matches!(strange, ClientError::Unreadable(_)), "{strange}");
    other.join().expect("the other side");
    drop(dir);
}
