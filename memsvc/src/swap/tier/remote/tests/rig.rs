//! Servers as processes, a way to them that can be cut, and a tier that is driven from here.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use zerocopy::FromBytes;

use super::super::super::{NbdServer, Transport};
use super::super::requests::DEPTH;
use super::super::{ConnectError, RemoteTier};
use super::protocol::{greeting, hello_len};
use super::*;
use crate::swap::nbd::{Command, Request, RequestHeader, TransmissionFlags};

/// Longest wait for what is to come: longer means that something hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Listens as a server of 64 MiB that greets each connection as one with these flags, then leaves it to `serve`: both are
/// told the connection's number.
pub(super) fn greet_each(
    socket: &Path,
    flags: impl Fn(u32) -> TransmissionFlags + Send + 'static,
    serve: impl Fn(u32, UnixStream) + Send + 'static,
) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for number in 0.. {
            let (mut stream, _) = listener.accept().unwrap();
            let is_greeted = stream.write_all(&greeting(64 << 20, flags(number), &[]));
            if is_greeted.and_then(|()| stream.read_exact(&mut [0; hello_len("")])).is_ok() {
                serve(number, stream);
            }
        }
    });
}

/// The next request, if there is one; what is written is not looked at.
pub(super) fn next_request(stream: &mut UnixStream) -> Option<Request> {
    let mut header = [0; size_of::<RequestHeader>()];
    stream.read_exact(&mut header).ok()?;
    let request = RequestHeader::read_from_bytes(&header).ok()?.parse()?;
    let is_write = request.command == Some(Command::Write);
    stream.read_exact(&mut [0; FRAME_SIZE][..if is_write { FRAME_SIZE } else { 0 }]).ok()?;
    Some(request)
}

/// A directory with a server's socket in it.
#[derive(Clone)]
pub(super) struct Place(Arc<tempfile::TempDir>);

impl Place {
    pub(super) fn new() -> Self {
        Self(Arc::new(tempfile::tempdir().unwrap()))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path("socket")
    }
}

/// A server; killed in the end.
pub(super) struct Server(Child);

impl Server {
    fn start(command: process::Command, socket: &Path) -> Self {
        let _ = std::fs::remove_file(socket);
        Self::start_until(command, || UnixStream::connect(socket).is_ok())
    }

    fn start_until(mut command: process::Command, listens: impl Fn() -> bool) -> Self {
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = Self(process.unwrap_or_else(|error| panic!("{command:?}: {error}: run ci/setup first")));
        let start = Instant::now();
        while !listens() {
            assert!(start.elapsed() < PATIENCE, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    pub(super) fn nbdkit(place: &Place, arguments: &[&str]) -> Self {
        let mut command = process::Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(place.socket()).args(arguments);
        Self::start(command, &place.socket())
    }

    /// On a port of the loopback device.
    pub(super) fn nbdkit_on(port: u16, arguments: &[&str]) -> Self {
        let mut command = process::Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--ipaddr=127.0.0.1"]);
        command.arg(format!("--port={port}")).args(arguments);
        Self::start_until(command, || TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    /// Serves the file of this name, which is there.
    pub(super) fn qemu(place: &Place, file: &Path, arguments: &[&str]) -> Self {
        let mut command = process::Command::new("qemu-nbd");
        command
            .args(["--format=raw", "--persistent", "--discard=unmap", "--cache=writeback"])
            .args(arguments);
        command.arg("--socket").arg(place.socket()).arg(file);
        Self::start(command, &place.socket())
    }

    pub(super) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Stands between a tier and a server, and closes each connection after some bytes.
pub(super) struct Cutter(Arc<AtomicBool>);

impl Cutter {
    pub(super) fn new(listen: &Path, server: PathBuf, seed: u64) -> Self {
        let listener = UnixListener::bind(listen).unwrap();
        let cuts = Arc::new(AtomicBool::new(true));
        let switch = Arc::clone(&cuts);
        let mut random = fastrand::Rng::with_seed(seed);
        std::thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let Ok(far) = UnixStream::connect(&server) else { continue };
                let mut copies = Vec::new();
                for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
                {
                    let mut left = random.usize(1_000..300_000);
                    let cuts = Arc::clone(&cuts);
                    copies.push(std::thread::spawn(move || {
                        let mut buffer = [0; 10_000];
                        while let Ok(got @ 1..) = from.read(&mut buffer) {
                            let now = if cuts.load(Ordering::Relaxed) { got.min(left) } else { got };
                            left = left.saturating_sub(got);
                            if to.write_all(&buffer[..now]).is_err() || now < got {
                                break;
                            }
                        }
                        let _ = from.shutdown(std::net::Shutdown::Both);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    }));
                }
                // One connection at a time, as some servers have it.
                copies.into_iter().for_each(|copy| copy.join().unwrap());
            }
        });
        Self(switch)
    }

    /// Leaves connections alone from now on.
    pub(super) fn stop(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// nbdkit that ends with its last connection, as its filter `exitlast` has it, and is started again each time, as by
/// a service manager.
pub(super) struct Restarted {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
    socket: PathBuf,
}

impl Restarted {
    /// Serves a file.
    pub(super) fn serve(place: &Place, file: &Path, arguments: &[&str]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut command = process::Command::new("nbdkit");
        command
            .args(["--foreground", "--exit-with-parent", "--filter=exitlast", "--unix"])
            .arg(place.socket());
        command.args(arguments).arg("file").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        let (socket, over) = (place.socket(), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let mut ended = 0;
            while !over.load(Ordering::Relaxed) {
                let _ = std::fs::remove_file(&socket);
                command.status().expect("nbdkit: run ci/setup first");
                ended += 1;
            }
            ended
        });
        Self { is_over, thread: Some(thread), socket: place.socket() }
    }

    /// Ends it; says how often it has ended.
    pub(super) fn end(mut self) -> u32 {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        while !thread.is_finished() {
            // The last connection: it ends with this one, if that has come as far as the export.
            let _ = Driver::try_new(&self.socket, "", PATIENCE);
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.join().unwrap()
    }
}

/// A tier with operations under way.
pub(super) struct Driver {
    pub(super) tier: RemoteTier,
    pub(super) places: u64,
    /// Rings late, too, so that nobody waits for ever.
    bell: std::os::fd::OwnedFd,
    start: Instant,
    next_token: u64,
    under_way: HashMap<u64, u64>,
    ended: Vec<Done>,
}

impl Driver {
    pub(super) fn try_new(socket: &Path, export: &str, timeout: Duration) -> Result<Self, ConnectError> {
        let server = NbdServer::Unix(socket.into());
        let (tier, places) = RemoteTier::connect(&server, export, timeout, 1 << 20)?;
        Ok(Self::of(tier, places))
    }

    pub(super) fn of(tier: RemoteTier, places: u64) -> Self {
        let bell = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap();
        let start = Instant::now();
        let driver =
            Self { tier, places, bell, start, next_token: 0, under_way: HashMap::new(), ended: Vec::new() };
        driver.ring_after(2 * PATIENCE);
        driver
    }

    pub(super) fn new(socket: &Path, timeout: Duration) -> Self {
        Self::try_new(socket, "", timeout).unwrap()
    }

    /// Begins an operation, once there is room for it.
    pub(super) fn submit(&mut self, op: Op) -> u64 {
        while self.under_way.len() == DEPTH {
            self.wait();
        }
        self.next_token += 1;
        let place = match &op {
            Op::Read { place, .. } | Op::Write { place, .. } => *place,
            Op::Discard { places } => places.start,
        };
        self.under_way.insert(self.next_token, place);
        self.tier.submit(self.next_token, op);
        self.next_token
    }

    /// Waits for something to end, or the bell.
    pub(super) fn wait(&mut self) {
        let Self { tier, under_way, ended, bell, .. } = self;
        tier.wait(bell.as_fd(), &mut |done| {
            let place = under_way.remove(&done.token).expect("it ends once");
            match &done.op {
                Op::Read { place: own, .. } | Op::Write { place: own, .. } => assert_eq!(*own, place),
                Op::Discard { places } => assert_eq!(places.start, place),
            }
            ended.push(done);
        });
    }

    /// Waits until nothing is under way; what has ended since this was last asked, by token.
    pub(super) fn finish(&mut self) -> Vec<Done> {
        while !self.under_way.is_empty() {
            self.wait();
            let hangs = self.start.elapsed() >= 2 * PATIENCE;
            assert!(!hangs || self.under_way.is_empty(), "it does not end: {:?}", self.under_way);
        }
        let mut ended = std::mem::take(&mut self.ended);
        ended.sort_by_key(|done| done.token);
        ended
    }

    /// Does one operation.
    pub(super) fn run(&mut self, op: Op) -> Done {
        assert!(self.finish().is_empty());
        self.submit(op);
        self.finish().pop().unwrap()
    }

    /// Does one operation after those that are under way; they have to go well.
    pub(super) fn run_last(&mut self, op: Op) -> Done {
        assert!(self.finish().iter().all(|done| done.result == Ok(())));
        self.run(op)
    }

    /// Rings the bell.
    pub(super) fn ring(&self) {
        self.ring_after(Duration::from_nanos(1));
    }

    fn ring_after(&self, time: Duration) {
        let it_value = Timespec::try_from(time).unwrap();
        let spec = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.bell, TimerfdTimerFlags::empty(), &spec).unwrap();
    }

    /// Writes each of these places, with this version, and calls `between` after each.
    pub(super) fn write_all(
        &mut self,
        places: std::ops::Range<u64>,
        version: u64,
        mut between: impl FnMut(u64),
    ) {
        for place in places {
            self.submit(write(place, version));
            between(place);
            let last = self.ended.last().map(|done| done.result);
            assert!(matches!(last, None | Some(Ok(()))), "place {place}: {last:?}");
        }
    }

    /// Reads these places and compares.
    pub(super) fn verify(&mut self, places: std::ops::Range<u64>, version: u64) {
        assert!(self.finish().iter().all(|done| done.result == Ok(())));
        places.clone().for_each(|place| _ = self.submit(read(place)));
        for (place, done) in places.zip(self.finish()) {
            assert!(is(&done, &block(place, version)), "place {place}: {:?}", done.result);
        }
    }
}
