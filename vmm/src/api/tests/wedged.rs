//! The API over a guest whose devices hold their locks for ever and whose vCPU waits for one of them. Another
//! test has a call at work that takes long.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    super::{fake, openapi},
    Connection, Served, serve_controller,
};

/// A second is promised; the test asserts only that nothing waits for the device.
const BOUND: Duration = Duration::from_secs(20);

/// Every call there is, with a body that it takes and what it answers.
const CALLS: &[(&str, &str, &str, u16)] = &[
    ("GET", "/", "", 200),
    ("GET", "/version", "", 200),
    ("GET", "/vm/config", "", 200),
    ("GET", "/machine-config", "", 200),
    ("GET", "/openapi.json", "", 200),
    ("GET", "/memory", "", 200),
    ("GET", "/memory/buddy", "", 200),
    ("GET", "/memory/types", "", 200),
    ("GET", "/memory/zone", "", 200),
    ("GET", "/memory/slabs", "", 200),
    ("GET", "/memory/compaction", "", 200),
    ("GET", "/metrics", "", 200),
    ("GET", "/swap", "", 200),
    ("GET", "/balloon", "", 200),
    ("GET", "/balloon/statistics", "", 200),
    ("GET", "/balloon/statistics?fresh=true", "", 503),
    ("GET", "/balloon/hinting/status", "", 200),
    ("PATCH", "/balloon", r#"{"amount_mib":64}"#, 204),
    ("PATCH", "/balloon/statistics", r#"{"stats_polling_interval_s":3}"#, 204),
    // It is no document.
    ("GET", "/console", "", 400),
    // Its driver has not come yet.
    ("PATCH", "/balloon/hinting/start", "", 400),
    ("PATCH", "/balloon/hinting/stop", "", 400),
    (
        "PATCH",
        "/drives/disk",
        r#"{"drive_id":"disk","rate_limiter":{"ops":{"size":1,"refill_time":1}}}"#,
        204,
    ),
    ("PATCH", "/network-interfaces/net0", r#"{"iface_id":"net0"}"#, 204),
    ("PUT", "/memory/compaction", r#"{"proactiveness":1}"#, 204),
    ("PUT", "/memory/compact", "", 200),
    ("PUT", "/memory/reclaim", r#"{"mib":1}"#, 200),
    ("PUT", "/actions", r#"{"action_type":"FlushMetrics"}"#, 204),
    ("PUT", "/actions", r#"{"action_type":"SendCtrlAltDel"}"#, 204),
    ("PATCH", "/vm", r#"{"state":"Resumed"}"#, 204),
    ("PATCH", "/vm", r#"{"state":"Paused"}"#, 503),
    // Too late, all of them.
    ("PUT", "/boot-source", r#"{"kernel_image_path":"/dev/null"}"#, 400),
    ("PUT", "/machine-config", r#"{"vcpu_count":1,"mem_size_mib":128}"#, 400),
    ("PATCH", "/machine-config", "{}", 400),
    ("PUT", "/memory/limits", "{}", 400),
    ("PUT", "/memory/watermarks", r#"{"min_kib":0,"low_kib":0,"high_kib":0}"#, 400),
    ("PUT", "/drives/a", r#"{"drive_id":"a","path_on_host":"/dev/null","is_root_device":false}"#, 400),
    ("PUT", "/network-interfaces/a", r#"{"iface_id":"a","host_dev_name":"a"}"#, 400),
    ("PUT", "/balloon", r#"{"amount_mib":0,"deflate_on_oom":true}"#, 400),
    ("PUT", "/swap", r#"{"size_mib":64}"#, 400),
    ("PUT", "/entropy", "{}", 400),
    ("PUT", "/logger", "{}", 400),
    ("PUT", "/metrics", r#"{"metrics_path":"/dev/null"}"#, 400),
    ("PUT", "/serial", "{}", 400),
];

fn call(served: &Served, verb: &str, path: &str, body: &str) -> super::Answer {
    let since = Instant::now();
    let answer = Connection::open(served).call(verb, path, body);
    assert!(since.elapsed() < BOUND, "{verb} {path} took {:?}", since.elapsed());
    answer
}

#[test]
fn every_call_is_answered_while_the_devices_and_a_vcpu_wait_for_ever() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut controller, told) = fake::wedged_controller();
    let image = dir.path().join("image");
    std::fs::write(&image, [0; 512]).expect("written");
    let config = json!({
        "boot-source": {"kernel_image_path": fake::kernel(dir.path())},
        "drives": [{"drive_id": "disk", "path_on_host": image, "is_root_device": false}],
        "balloon": {
            "amount_mib": 0, "deflate_on_oom": true, "stats_polling_interval_s": 1, "free_page_hinting": true
        },
    });
    controller.load(serde_json::from_value(config).expect("fits")).expect("loads");
    controller.start().expect("starts");
    // No TAP is needed for what the controller does.
    let interface = json!({"iface_id": "net0", "host_dev_name": "none"});
    controller.attach(serde_json::from_value(interface).expect("fits"));
    let served = serve_controller((controller, told));

    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = SetAtEnd(&ended);
        // Somebody tries to pause the guest all the while, in vain.
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let answer = call(&served, "PATCH", "/vm", r#"{"state":"Paused"}"#);
                assert_eq!(answer.status, 503, "{}", answer.body);
            }
        });
        for &(verb, path, body, status) in CALLS {
            let answer = call(&served, verb, path, body);
            assert_eq!(answer.status, status, "{verb} {path}: {}", answer.body);
            if status == 503 {
                let waits_for = if path == "/vm" { "1 of its vCPUs" } else { "asked for statistics" };
                let fault = answer.fault();
                assert!(fault.contains(waits_for) && fault.to_lowercase().contains("try again"), "{fault}");
            }
        }
    });
    assert_eq!(call(&served, "GET", "/", "").json()["state"], "Running", "it runs on");
}

/// Sets it when it is dropped, also by a failure.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn until_told(served: &Served, what: &str) {
    while !served.told.lock().expect("lock").iter().any(|told| told == what) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// A guest that runs and whose devices are wedged.
fn wedged(dir: &Path) -> Served {
    let (mut controller, told) = fake::wedged_controller();
    let config = json!({
        "boot-source": {"kernel_image_path": fake::kernel(dir)},
        "balloon": {"amount_mib": 0, "deflate_on_oom": true},
    });
    controller.load(serde_json::from_value(config).expect("fits")).expect("loads");
    controller.start().expect("starts");
    serve_controller((controller, told))
}

#[test]
fn a_pause_is_refused_when_its_turn_does_not_come_again_and_the_guest_runs_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let served = wedged(dir.path());
    let mut pauser = Connection::open(&served);
    pauser.send("PATCH", "/vm", r#"{"state":"Paused"}"#);
    until_told(&served, "pause");
    let mut setter = Connection::open(&served);
    let amount = fake::SLOW_BALLOON.0;
    setter.send("PATCH", "/balloon", &format!(r#"{{"amount_mib":{amount}}}"#));
    until_told(&served, "at work");
    // The other call is at work until this one is answered.
    let answer = pauser.answer();
    assert_eq!(answer.status, 503);
    assert!(answer.fault().starts_with("Another call is still at work"), "{}", answer.body);
    served.told.lock().expect("lock").push("go on".to_owned());
    assert_eq!(setter.answer().status, 204);
    until_told(&served, "resume");
    assert_eq!(call(&served, "GET", "/", "").json()["state"], "Running");
}

#[test]
fn no_call_is_left_out() {
    let document: Value = serde_json::from_str(openapi::CHECKED_IN).expect("JSON");
    for (path, verbs) in document["paths"].as_object().expect("paths") {
        let prefix = path.split('{').next().unwrap_or(path);
        for verb in verbs.as_object().expect("verbs").keys() {
            let is_it = |&&(called, at, _, _): &&(&str, &str, &str, u16)| {
                called.eq_ignore_ascii_case(verb) && at.starts_with(prefix) && (prefix != path || at == path)
            };
            assert!(CALLS.iter().any(|call| is_it(&call)), "{verb} {path}");
        }
    }
}

#[test]
fn a_call_that_takes_long_has_others_refused_and_is_answered() {
    let served = super::serve();
    let kernel = fake::kernel(served.dir.path());
    let memory = fake::SLOW_TO_START.0;
    for (path, body) in [
        ("/boot-source", format!(r#"{{"kernel_image_path":"{kernel}"}}"#)),
        ("/machine-config", format!(r#"{{"vcpu_count":1,"mem_size_mib":{memory}}}"#)),
    ] {
        assert_eq!(call(&served, "PUT", path, &body).status, 204);
    }
    let mut starter = Connection::open(&served);
    starter.send("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#);
    until_told(&served, "starting");
    let answers: Vec<_> = thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(|| call(&served, "GET", "/", ""))).collect();
        callers.into_iter().map(|caller| caller.join().expect("answered")).collect()
    });
    for answer in answers {
        assert_eq!(answer.status, 503);
        assert!(answer.fault().starts_with("Another call is still at work"), "{}", answer.body);
    }
    assert_eq!(call(&served, "GET", "/version", "").status, 200);
    served.told.lock().expect("lock").push("go on".to_owned());
    assert_eq!(starter.answer().status, 204);
    assert_eq!(call(&served, "GET", "/", "").json()["state"], "Running");
}
