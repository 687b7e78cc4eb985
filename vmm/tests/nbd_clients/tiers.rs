//! The same clients, with 16 MiB of memory and a tier below. The tier is a directory, or a server that others
//! wrote, which is slow, full, wrong, killed, or away.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use super::{PATIENCE, Served, fio_verifies, output};

const MIB: usize = 1 << 20;
/// More than is ever written.
const EXPORT: &str = "256M";
/// One request after the other: with more threads, nbdkit 1.32 may abort when a connection is lost under it.
const IN_TURN: &str = "--threads=1";
/// Seconds, where a server stays away.
const SHORT: &str = "2";

/// A server below; killed in the end.
struct Below(Child);

impl Below {
    fn start(mut command: Command, socket: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let below = Self(process.unwrap_or_else(|error| panic!("{command:?}: {error}: run ci/setup first")));
        wait_until("listens", || UnixStream::connect(socket).is_ok());
        below
    }

    fn nbdkit(directory: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(directory.join("below"));
        command.args(arguments);
        Self::start(command, &directory.join("below"))
    }

    /// On a file that stays when it is killed.
    fn qemu(directory: &Path) -> Self {
        let file = directory.join("disk");
        let disk = std::fs::OpenOptions::new().create(true).append(true).open(&file).expect("a file");
        disk.set_len(256 * MIB as u64).expect("a sparse file");
        let mut command = Command::new("qemu-nbd");
        command.args(["--format=raw", "--persistent", "--shared=4", "--discard=unmap", "--socket"]);
        command.arg(directory.join("below")).arg(file);
        Self::start(command, &directory.join("below"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "it never {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// On a disk: a tier's file is no good in memory.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").expect("a directory")
}

fn uri(directory: &Path) -> String {
    format!("nbd+unix:///?socket={}", directory.join("below").display())
}

fn served(tier: &str, seconds: &str) -> Served {
    Served::new(&["--size", EXPORT, "--memory", "16M", "--tier", tier, "--tier-timeout", seconds])
}

/// Data that nobody can pack.
fn random_file(served: &Served, mib: usize) -> String {
    let mut data = vec![0; mib * MIB];
    fastrand::Rng::with_seed(9).fill(&mut data);
    let path = served.file("random");
    std::fs::write(&path, data).expect("a file");
    path.display().to_string()
}

/// Random data, and commands for qemu-io that write it, a MiB each.
fn pieces(served: &Served, mib: usize) -> (Vec<u8>, Vec<String>) {
    let data = std::fs::read(random_file(served, mib)).expect("a file");
    let write = |(at, piece): (usize, &[u8])| {
        let path = served.file(&format!("piece-{at}"));
        std::fs::write(&path, piece).expect("a file");
        format!("write -s {} {at}M 1M", path.display())
    };
    let writes = data.chunks(MIB).enumerate().map(write).collect();
    (data, writes)
}

/// There, and back; all of it is the same.
fn copy(served: &Served, mib: usize) {
    let (there, back) = (random_file(served, mib), served.file("back"));
    output("nbdcopy", &[&there, &served.uri()]);
    output("nbdcopy", &[&served.uri(), &back.display().to_string()]);
    let (there, back) = (std::fs::read(there).expect("a file"), std::fs::read(back).expect("a file"));
    assert!(back.starts_with(&there), "what came back is not what was taken");
    assert!(back[there.len()..].iter().all(|byte| *byte == 0));
}

/// What qemu-io says to some commands.
fn qemu_io(served: &Served, commands: &[&str]) -> String {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw"]);
    commands.iter().for_each(|one| _ = command.args(["-c", one]));
    let Output { stdout, stderr, .. } = command.arg(served.uri()).output().expect("qemu-io");
    String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
}

/// Bytes on the disk of the file without a name.
fn tier_file_bytes(served: &Served) -> u64 {
    let files = std::fs::read_dir(format!("/proc/{}/fd", served.process.id())).expect("descriptors");
    let is_tier = |path: &Path| {
        std::fs::read_link(path).is_ok_and(|to| {
            let to = to.to_string_lossy().into_owned();
            to.starts_with("/var/tmp/") && to.ends_with("(deleted)")
        })
    };
    let paths: Vec<_> =
        files.map(|file| file.expect("a descriptor").path()).filter(|path| is_tier(path)).collect();
    let [file] = &paths[..] else { panic!("the tier's file: {paths:?}") };
    std::fs::metadata(file).expect("it is open").blocks() * 512
}

#[test]
fn a_directory_takes_what_memory_does_not_hold_and_gets_it_back() {
    let directory = directory();
    let served = served(&directory.path().display().to_string(), "30");
    copy(&served, 128);
    assert!(tier_file_bytes(&served) >= 100 * MIB as u64);
    assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0, "it has no name");

    let text = qemu_io(&served, &["discard 0 256M"]);
    assert!(text.contains("discard 268435456/268435456"), "{text}");
    wait_until("is sparse again", || tier_file_bytes(&served) == 0);
    for (depth, size) in [("1", "48M"), ("32", "128M")] {
        fio_verifies(&served, depth, size);
    }
}

/// A request: its 28 bytes (NBD, "Request message").
fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let head = [0x2560_9513_u32.to_be_bytes().as_slice(), &[0, 0], &command.to_be_bytes()].concat();
    [head.as_slice(), &cookie.to_be_bytes(), &offset.to_be_bytes(), &len.to_be_bytes()].concat()
}

/// What a client gets that asks for the first 200 pages, which have left memory first, and closes its half.
fn last_word(served: &Served) -> Vec<u8> {
    let mut client = UnixStream::connect(served.file("socket")).expect("a connection");
    client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // Fixed newstyle without the zeroes, and the default export by the old option, which needs no reply.
    client.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0").expect("sent");
    client.read_exact(&mut [0; 18 + 10]).expect("a greeting, and what there is");
    let reads = (0..200).flat_map(|page| request(0, page, page << 12, 4096));
    // The last request is to go.
    let all: Vec<u8> = reads.chain(request(2, 0, 0, 0)).collect();
    client.write_all(&all).expect("sent");
    client.shutdown(Shutdown::Write).expect("half closed");
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).expect("replies, and an end");
    replies
}

#[test]
fn a_client_that_has_said_its_last_word_is_answered() {
    let directory = directory();
    let served = served(&directory.path().display().to_string(), "60");
    let there = random_file(&served, 64);
    output("nbdcopy", &[&there, &served.uri()]);
    let replies = last_word(&served);
    assert_eq!(replies.len(), 200 * (16 + 4096));
    let written = std::fs::read(there).expect("a file");
    for reply in replies.chunks_exact(16 + 4096) {
        let cookie = u64::from_be_bytes(reply[8..16].try_into().expect("8 bytes"));
        let page = usize::try_from(cookie).expect("a page");
        assert!(reply[4..8] == [0; 4] && reply[16..] == written[page << 12..][..4096], "page {page}");
    }
}

/// It may have gone, and would keep its place as long as the tier may take.
#[test]
fn a_client_that_has_said_its_last_word_is_not_waited_for_as_long_as_a_tier() {
    let directory = directory();
    let _below = Below::nbdkit(directory.path(), &["--filter=delay", "memory", "256M", "rdelay=3600"]);
    let served = served(&uri(directory.path()), "3600");
    output("nbdcopy", &[&random_file(&served, 64), &served.uri()]);
    assert!(last_word(&served).len() < 200 * (16 + 4096));
}

#[test]
fn servers_take_what_memory_does_not_hold() {
    for qemu in [false, true] {
        let directory = directory();
        let directory = directory.path();
        let _below =
            if qemu { Below::qemu(directory) } else { Below::nbdkit(directory, &["memory", EXPORT]) };
        let served = served(&uri(directory), "30");
        copy(&served, 128);
        for (depth, size) in [("1", "48M"), ("32", "128M")] {
            fio_verifies(&served, depth, size);
        }
    }
}

/// What was written before it was full is right, and the client is told that it is full.
#[test]
fn a_full_tier_is_said_and_loses_nothing() {
    let directory = directory();
    let _below = Below::nbdkit(directory.path(), &["memory", "32M"]);
    let served = served(&uri(directory.path()), "30");
    // In pieces of a MiB: each is there, or is not.
    let (random, writes) = pieces(&served, 64);
    let text = qemu_io(&served, &writes.iter().map(String::as_str).collect::<Vec<_>>());
    let written = text.matches("wrote 1048576/1048576").count();
    assert_eq!(text.matches("No space left on device").count(), 64 - written, "{text}");
    assert!((44..48).contains(&written), "of 48 MiB {written} found room: {text}");

    let back = served.file("back");
    output("nbdcopy", &[&served.uri(), &back.display().to_string()]);
    let back = std::fs::read(back).expect("a file");
    assert!(back[..written * MIB] == random[..written * MIB], "what was written is not what came back");
}

/// Killed in the middle, and again; the client waits and goes on.
#[test]
fn a_server_that_is_killed_and_comes_back_loses_nothing() {
    let directory = directory();
    let mut below = Below::qemu(directory.path());
    let served = served(&uri(directory.path()), "60");
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| copy(&served, 128));
        let mut kills = 0;
        while !copying.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(150));
            below.kill();
            below = Below::qemu(directory.path());
            kills += 1;
        }
        assert!(copying.join().is_ok());
        assert!(kills > 2, "{kills} kills in the middle");
    });
}

/// Its pages cannot be read after the stated time; those in memory can; and all can when it is back.
#[test]
fn a_server_that_stays_away_takes_its_own_pages_with_it_only() {
    let directory = directory();
    let mut below = Below::qemu(directory.path());
    let served = served(&uri(directory.path()), SHORT);
    let (random, writes) = pieces(&served, 32);
    let text = qemu_io(&served, &writes.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(text.matches("wrote 1048576/1048576").count(), 32, "{text}");
    below.kill();

    let first = qemu_io(&served, &["read 0 1M"]);
    assert!(first.contains("read failed: Input/output error"), "{first}");
    // From now on there is nothing to wait for.
    let reads: Vec<_> = (0..32).map(|at| format!("read -v {at}M 4k")).collect();
    let text = qemu_io(&served, &reads.iter().map(String::as_str).collect::<Vec<_>>());
    let (good, bad) = (text.matches("read 4096/4096").count(), text.matches("Input/output error").count());
    assert!(good >= 10 && bad >= 10 && good + bad == 32, "{good} read, {bad} not: {text}");
    assert!(qemu_io(&served, &["read 31M 1M"]).contains("read 1048576/1048576"), "that is in memory");
    // What is in memory can be written anew, too.
    let text = qemu_io(&served, &["write -P 5 31M 1M", "read -P 5 31M 1M"]);
    assert!(!text.contains("failed") && text.contains("read 1048576/1048576"), "{text}");

    let _below = Below::qemu(directory.path());
    wait_until("is back", || qemu_io(&served, &["read 0 1M"]).contains("read 1048576/1048576"));
    let back = served.file("back");
    output("nbdcopy", &[&served.uri(), &back.display().to_string()]);
    let back = std::fs::read(back).expect("a file");
    assert!(back[..31 * MIB] == random[..31 * MIB], "what was written is not what came back");
}

/// What the first tier does not take since it is away, the next one does.
#[test]
fn the_next_tier_stands_in_for_one_that_is_away() {
    let directory = directory();
    let mut below = Below::qemu(directory.path());
    let arguments = ["--size", EXPORT, "--memory", "16M", "--tier-timeout", SHORT, "--tier"];
    let tiers = [uri(directory.path()), "--tier".to_owned(), directory.path().display().to_string()];
    let tiers = tiers.iter().map(String::as_str);
    let served = Served::new(&arguments.into_iter().chain(tiers).collect::<Vec<_>>());
    below.kill();
    copy(&served, 64);
    assert!(tier_file_bytes(&served) >= 40 * MIB as u64);
}

/// Errors are errors, and never wrong data.
#[test]
fn servers_that_fail_and_dawdle_give_no_wrong_data() {
    let directory = directory();
    let trouble = [
        IN_TURN,
        "--filter=delay",
        "--filter=error",
        "memory",
        EXPORT,
        "delay-read=1ms",
        "delay-write=1ms",
        "error-pread-rate=5%",
        "error-pwrite-rate=5%",
        "error-trim-rate=50%",
    ];
    let _below = Below::nbdkit(directory.path(), &trouble);
    let served = served(&uri(directory.path()), "30");
    let (expected, writes) = pieces(&served, 40);
    let text = qemu_io(&served, &writes.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(text.matches("wrote 1048576/1048576").count(), 40, "{text}");
    // A page at a time, so that some are not hit; a second try mends what an error was.
    let pages: Vec<_> = (0..400_usize).map(|at| at * 26 * 4096 % (40 * MIB)).collect();
    let mut right = 0;
    for tried in 0..20 {
        right = 0;
        let reads: Vec<_> = pages.iter().map(|at| format!("read -v {at} 512")).collect();
        let text = qemu_io(&served, &reads.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(text.matches("read 512/512").count() + text.matches("Input/output error").count(), 400);
        // A read shows the address and 16 bytes a line: the first says enough, each page is another.
        for at in &pages {
            let line = format!("{at:08x}:");
            let Some(shown) = text.lines().find(|shown| shown.starts_with(&line)) else { continue };
            let bytes = &expected[*at..][..16];
            let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(shown.contains(&bytes.join(" ")), "page at {at}, try {tried}: {shown} and not {bytes:?}");
            right += 1;
        }
        if tried == 0 {
            assert!(right < 400, "no error was seen");
        }
    }
    assert!(right > 300, "{right} of 400");
}

/// One sentence that says what is wrong, and a code of failure.
#[test]
fn what_cannot_be_is_said_in_one_sentence() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let nobody = format!("nbd+unix:///?socket={}", path("nobody"));
    let cases: [(&[&str], &str, i32); 8] = [
        (&["--tier", &path("missing")], "name a directory in which this process may write", 1),
        (&["--tier", "/proc"], "name a directory", 1),
        (&["--tier", &nobody], "it cannot be reached", 1),
        (&["--tier", "nbds://localhost/"], "wants TLS", 1),
        (&["--tier", "nbd://localhost:70000/"], "its port is more than 65535", 1),
        (&["--tier", "somewhere"], "is no tier", 1),
        (&["--tier", "/var/tmp", "--memory", "15M"], "needs 16 MiB of memory at least", 1),
        (&["--tier-timeout", "5"], "--tier", 2),
    ];
    for (arguments, said, code) in cases {
        let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_aerostat"))
            .args(["swap", "serve", "--size", "64M", "--socket", &path("socket")])
            .args(arguments)
            .output()
            .expect("aerostat");
        let text = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(code), "{arguments:?}: {text}");
        let sentences: Vec<_> = text.lines().filter(|line| line.starts_with("aerostat: ")).collect();
        assert!(text.contains(said) && sentences.len() == 1, "{arguments:?}: {text}");
    }
}

/// Who ends the process does not wait for a server that is away.
#[test]
fn the_end_does_not_wait_for_a_server_that_is_away() {
    let directory = directory();
    let mut below = Below::qemu(directory.path());
    let mut served = served(&uri(directory.path()), "3600");
    copy(&served, 32);
    below.kill();
    let uri = served.uri();
    let mut reader = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "read 0 1M", &uri])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu-io");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(reader.try_wait().expect("a child").is_none(), "it waits for what is away");
    let pid = served.process.id().to_string();
    output("kill", &["-TERM", &pid]);
    wait_until("ends", || served.process.try_wait().expect("a child").is_some());
    reader.wait().expect("it ends with its server");
}
