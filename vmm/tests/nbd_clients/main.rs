//! Clients that others wrote, against the NBD server: what they wrote is what they read, and what they
//! say of it is right. Needs no KVM.

mod tiers;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait for something that is about to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// `aerostat swap serve` with a socket in a directory of its own.
struct Served {
    dir: TempDir,
    process: Child,
}

impl Served {
    fn new(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("socket");
        let mut process = Command::new(env!("CARGO_BIN_EXE_aerostat"));
        process.args(["swap", "serve", "--socket"]).arg(&socket).args(arguments).stdout(Stdio::null());
        let process = process.spawn().expect("aerostat");
        let start = Instant::now();
        while !socket.exists() {
            assert!(start.elapsed() < PATIENCE, "aerostat does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { dir, process }
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///swap?socket={}", self.dir.path().join("socket").display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a program prints, which has to end well.
fn output(program: &str, arguments: &[&str]) -> String {
    // fio leaves files where it runs.
    let result = Command::new(program).args(arguments).current_dir(std::env::temp_dir()).output();
    let result = result.unwrap_or_else(|error| panic!("{program}: {error}: run ci/setup first"));
    let text = String::from_utf8_lossy(&result.stdout).into_owned();
    let errors = String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success(), "{program} {arguments:?}: {}\n{text}\n{errors}", result.status);
    text
}

/// Data of which a third is zeroes, a third the same words, a third random; each page is another.
fn write_data(path: &Path, pages: usize) {
    let mut random = fastrand::Rng::with_seed(7);
    let data: Vec<u8> = (0..pages)
        .flat_map(|number| match number % 3 {
            0 => [0; 4096],
            1 => [number as u8; 4096],
            _ => std::array::from_fn(|_| random.u8(..)),
        })
        .collect();
    std::fs::write(path, data).expect("a file");
}

#[test]
fn nbdinfo_sees_what_there_is() {
    let served = Served::new(&["--size", "64M"]);
    let info = output("nbdinfo", &["--json", &served.uri()]);
    let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 64 << 20, "{info}");
    for ability in ["can_multi_conn", "can_trim", "can_flush", "can_fua", "can_zero", "can_df"] {
        assert_eq!(export[ability], true, "{ability}: {info}");
    }
    let sizes = ["block_size_minimum", "block_size_preferred", "block_size_maximum"];
    assert_eq!(sizes.map(|size| export[size].as_u64()), [Some(4096), Some(4096), Some(32 << 20)], "{info}");
    let list = output("nbdinfo", &["--list", &served.uri()]);
    assert!(list.contains("swap of one guest"), "{list}");
}

#[test]
fn nbdcopy_brings_back_what_it_took() {
    for compression in ["lz4", "zstd", "none"] {
        let served = Served::new(&["--size", "64M", "--compression", compression]);
        let (there, back) = (served.file("there"), served.file("back"));
        write_data(&there, 64 << 8);
        output("nbdcopy", &[&there.display().to_string(), &served.uri()]);
        output("nbdcopy", &[&served.uri(), &back.display().to_string()]);
        let is_same = std::fs::read(&there).expect("a file") == std::fs::read(&back).expect("a file");
        assert!(is_same, "{compression}: what came back is not what was taken");
    }
}

#[test]
fn qemu_io_writes_reads_trims_and_is_told_of_what_cannot_be() {
    let served = Served::new(&["--size", "64M", "--memory", "1M"]);
    let commands = [
        "write -P 7 0 1M",
        "read -P 7 0 1M",
        "discard 0 512k",
        "read -P 0 0 512k",
        "write -z 768k 128k",
        "read -P 0 768k 128k",
        "read -P 7 512k 256k",
        "flush",
    ];
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    let uri = served.uri();
    arguments.push(&uri);
    let text = output("qemu-io", &arguments);
    assert!(!text.contains("Pattern verification failed"), "{text}");

    // More than fits: it is refused, and what was there still is.
    let random = served.file("random");
    std::fs::write(&random, (0..2 << 20).map(|_| fastrand::u8(..)).collect::<Vec<_>>()).expect("a file");
    let write = format!("write -s {} 2M 2M", random.display());
    let text = Command::new("qemu-io")
        .args(["-f", "raw", "-c", &write, "-c", "read -P 7 512k 256k", &uri])
        .output()
        .expect("qemu-io");
    let text = String::from_utf8_lossy(&[text.stdout, text.stderr].concat()).into_owned();
    assert!(text.contains("No space left on device"), "{text}");
    assert!(text.contains("read 262144/262144 bytes at offset 524288"), "{text}");
    assert!(!text.contains("Pattern verification failed"), "{text}");
}

#[test]
fn fio_verifies_what_it_wrote_at_depths_1_and_32() {
    let served = Served::new(&["--size", "64M"]);
    for (depth, size) in [("1", "16M"), ("32", "64M")] {
        fio_verifies(&served, depth, size);
    }
}

fn fio_verifies(served: &Served, depth: &str, size: &str) {
    let text = output(
        "fio",
        &[
            "--name=verify",
            "--ioengine=nbd",
            &format!("--uri={}", served.uri()),
            "--rw=randwrite",
            "--bs=4k-256k",
            "--blockalign=4k",
            &format!("--size={size}"),
            &format!("--iodepth={depth}"),
            "--verify=crc32c",
            "--verify_fatal=1",
            "--output-format=json",
            "--allow_file_create=0",
        ],
    );
    let json = text.get(text.find('{').unwrap_or(0)..).unwrap_or_default();
    let report: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(report["jobs"][0]["error"], 0, "{report}");
    assert_ne!(report["jobs"][0]["read"]["total_ios"], 0, "nothing was verified");
}
