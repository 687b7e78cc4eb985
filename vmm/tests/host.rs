//! The real program on this host: it keeps out of samepage merging, says what the host is like, and takes the operator's
//! word for it. Needs no KVM.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for something that is about to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// `aerostat` in Firecracker's form, without a guest.
struct Served {
    dir: TempDir,
    process: Child,
}

impl Served {
    fn new(command: &mut Command) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let process = command
            .env("AEROSTAT_RUNTIME_DIR", dir.path())
            .arg("--api-sock")
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .expect("aerostat");
        let mut served = Self { dir, process };
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert_eq!(served.process.try_wait().expect("a child"), None, "aerostat ended");
            assert!(start.elapsed() < PATIENCE, "aerostat does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        served
    }

    /// The body of what the API answers.
    fn call(&self, verb: &str, path: &str, body: &str) -> String {
        let mut stream = UnixStream::connect(self.dir.path().join("socket")).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let length = body.len();
        write!(
            stream,
            "{verb} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
        .expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split_once("\r\n\r\n").expect("a head").1.to_owned()
    }

    fn configured(&self) -> Value {
        serde_json::from_str(&self.call("GET", "/vm/config", "")).expect("JSON")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn aerostat() -> Command {
    Command::new(env!("CARGO_BIN_EXE_aerostat"))
}

fn run(line: &str) -> Output {
    aerostat().args(line.split_whitespace()).stdin(Stdio::null()).output().expect("aerostat")
}

/// The command with samepage merging inherited, as from a unit with `MemoryKSM=yes`.
fn merging(mut command: Command) -> Command {
    const PR_SET_MEMORY_MERGE: i32 = 67;
    #[allow(unsafe_code, reason = "Command offers the hook between fork and exec only as unsafe")]
    // SAFETY: the hook makes one system call, which takes numbers only, and does not allocate.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
            Ok(())
        })
    };
    command
}

/// Mappings of a process whose pages the kernel may merge.
fn mergeable(smaps: &str) -> usize {
    smaps
        .lines()
        .filter(|line| line.starts_with("VmFlags:") && line.split_whitespace().any(|flag| flag == "mg"))
        .count()
}

#[test]
fn samepage_merging_is_not_inherited() {
    let mut control = Command::new("cat");
    control.arg("/proc/self/smaps");
    let control = merging(control).output().expect("cat");
    let is_there = Path::new("/sys/kernel/mm/ksm").exists();
    assert_eq!(mergeable(&String::from_utf8_lossy(&control.stdout)) > 0, is_there, "the hook does nothing");

    let served = Served::new(&mut merging(aerostat()));
    assert!(served.call("GET", "/", "").contains("Aerostat"));
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", served.process.id())).expect("smaps");
    assert!(smaps.contains("VmFlags:"), "{smaps}");
    assert_eq!(mergeable(&smaps), 0, "{smaps}");
}

/// Mappings of the program's file, as smaps describes each.
fn of_program<'a>(smaps: &'a str, program: &str) -> Vec<&'a str> {
    let starts: Vec<usize> = smaps.match_indices("VmFlags:").map(|(at, _)| at).collect();
    let mut from = 0;
    let mut mappings = Vec::new();
    for flags in starts {
        let end = smaps[flags..].find('\n').map_or(smaps.len(), |line| flags + line);
        mappings.push(&smaps[from..end]);
        from = end;
    }
    mappings.retain(|mapping| mapping.contains(program));
    mappings
}

#[test]
fn what_the_program_runs_stays_in_memory() {
    let served = Served::new(&mut aerostat());
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", served.process.id())).expect("smaps");
    let program = of_program(&smaps, env!("CARGO_BIN_EXE_aerostat"));
    assert!(program.len() > 2, "{smaps}");
    let is_locked = |mapping: &&str| mapping.split_whitespace().any(|flag| flag == "lo");
    // Whoever may not lock memory runs as well.
    assert!(program.iter().all(is_locked) || !may_lock(), "{program:?}");
}

/// Whether this process has `CAP_IPC_LOCK`, and its children too.
fn may_lock() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
    u64::from_str_radix(capabilities.trim(), 16).expect("a number") >> CAP_IPC_LOCK & 1 == 1
}

#[test]
fn check_says_each_thing_in_one_sentence() {
    let output = run("check --json");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("checks");
    for name in [
        "userfaultfd",
        "huge_pages",
        "host_swap",
        "ksm",
        "memory_max",
        "memory_high",
        "oom_group",
        "overcommit",
    ] {
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.unwrap_or_else(|| panic!("nothing of {name}: {report:#}"));
        let detail = check["detail"].as_str().expect("a sentence");
        assert!(!detail.is_empty() && !detail.contains('\n') && !detail.contains(". "), "{detail}");
    }
    assert!(report["stock_kernel"].is_boolean(), "{report:#}");
    let text = String::from_utf8(run("check").stdout).expect("text");
    assert_eq!(text.lines().filter(|line| line.contains("  host_swap  ")).count(), 1, "{text}");
}

#[test]
fn the_operators_word_on_host_swap_is_taken_at_every_door() {
    let allowed = |served: &Served| served.configured()["memory"]["allow_host_swap"].clone();
    let served = Served::new(&mut aerostat());
    assert_eq!(allowed(&served), Value::Null);
    served.call("PUT", "/memory/limits", r#"{"allow_host_swap": true}"#);
    assert_eq!(allowed(&served), true);
    served.call("PUT", "/memory/limits", r#"{"min_free_kib": 512}"#);
    assert_eq!(allowed(&served), true, "what is left out stays");
    served.call("PUT", "/memory/limits", r#"{"allow_host_swap": false}"#);
    assert_eq!(allowed(&served), Value::Null);
    assert_eq!(allowed(&Served::new(aerostat().arg("--allow-host-swap"))), true);
}

#[test]
fn memory_just_under_16_tib_is_refused_at_every_door() {
    let sentence =
        "The guest's memory (mem_size_mib) is 16776192 MiB, but a guest has 15728640 MiB (15 TiB) at most.";
    let dir = tempfile::tempdir().expect("a directory");
    let (kernel, file) = (dir.path().join("kernel"), dir.path().join("vm.json"));
    std::fs::write(&kernel, "no kernel").expect("a file");
    let config = json!({"boot-source": {"kernel_image_path": kernel},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 16_776_192}});
    std::fs::write(&file, config.to_string()).expect("a file");
    for line in [
        format!("run --kernel {} --memory 16383G", kernel.display()),
        format!("run --config-file {}", file.display()),
        format!("--no-api --config-file {}", file.display()),
    ] {
        let output = run(&line);
        let said = String::from_utf8_lossy(&output.stderr);
        let (code, sentence) = match line.contains("--memory") {
            true => (2, "\"16383G\" is more than a guest can have, which is 15T"),
            false => (1, sentence),
        };
        assert!(output.status.code() == Some(code) && said.contains(sentence), "{line}: {said}");
    }
    let said =
        Served::new(&mut aerostat()).call("PUT", "/machine-config", &config["machine-config"].to_string());
    assert!(said.contains(sentence), "{said}");
}
