//! An NBD server on a socket: for tools, and to see what a swap device does without a guest.
//!
//! ```text
//!   nbd ───── accept ──▶ nbd-N: one thread a connection
//!                        read ─▶ Connection::receive ─▶ Connection::send ─▶ write
//! ```
//! Guests do not come this way: theirs is the swap link, which needs no socket.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memsvc::guard::Guard;
use memsvc::seldom;
use memsvc::swap::{NbdServer, Swap, Waker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use zeroize::Zeroizing;

use super::halt::Halt;
use crate::socket::{ListeningSocket, SocketError, SocketFile, SocketMode};

/// Connections at a time. A client of many connections has some eight.
const MAX_CONNECTIONS: usize = 64;
/// Bytes that are read or written at once: the data of a large request, and headers.
const BUFFER: usize = (256 << 10) + 4096;
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a client may take to choose an export: who says nothing must not keep the place of others.
const GREETING: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// How long the next page is waited for after the client's last word. It may have gone: one that closes its TCP
/// connection and one that closes its half of it say the same, and it must not keep the place of others.
const LAST_WORD: Duration = Duration::from_secs(5);
/// Stack of a thread in bytes; only what is touched is resident.
const STACK: usize = 1 << 20;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port of this machine.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    /// As an NBD URI, which clients take.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = match self {
            Address::Unix(path) => NbdServer::Unix(path.clone()),
            Address::Tcp(address) => NbdServer::Tcp(address.ip().to_string(), address.port()),
        };
        f.write_str(&server.uri(""))
    }
}

/// Why nobody can be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The port cannot be had.
    #[error("Port {address} cannot be listened on: choose another one")]
    Port {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// There is no thread.
    #[error("A thread cannot be started")]
    Thread(#[source] io::Error),
}

/// A server; it serves as long as the process lives.
#[derive(Debug)]
pub struct Server {
    address: Address,
    /// Removed when this is dropped.
    _file: Option<SocketFile>,
}

impl Server {
    /// Serves a swap device to whoever comes.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn spawn(address: &Address, swap: Swap, guard: &Guard) -> Result<Self, ServeError> {
        let open = Open { swap, connections: Arc::default() };
        match address {
            Address::Unix(path) => {
                let (listener, file) = ListeningSocket::bind(path, SocketMode::OWNER)?.into_parts();
                let next = move || listener.accept().map(|(stream, _)| stream);
                listen(guard, move || open.serve(next)).map_err(ServeError::Thread)?;
                Ok(Self { address: address.clone(), _file: Some(file) })
            }
            &Address::Tcp(wanted) => {
                let port = |source| ServeError::Port { address: wanted, source };
                let listener = TcpListener::bind(wanted).map_err(port)?;
                let address = Address::Tcp(listener.local_addr().map_err(port)?);
                let next = move || {
                    let (stream, _) = listener.accept()?;
                    // Requests and replies are small, and somebody waits for each.
                    stream.set_nodelay(true)?;
                    Ok(stream)
                };
                listen(guard, move || open.serve(next)).map_err(ServeError::Thread)?;
                Ok(Self { address, _file: None })
            }
        }
    }

    /// Where it listens: the port is the real one, if any was asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// Starts the thread that accepts connections: without it nobody is served.
fn listen(guard: &Guard, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let body = move || {
        body();
        Ok(())
    };
    guard.spawn("listen", STACK, "no client is served any more", body).map(drop)
}

/// Starts the thread of a connection. A panic ends that one: its client sees it closed.
fn start(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("nbd".to_owned()).stack_size(STACK).spawn(body).map(drop)
}

/// What connections are made of.
struct Open {
    swap: Swap,
    connections: Arc<AtomicUsize>,
}

impl Open {
    /// Serves each connection that comes on a thread of its own.
    fn serve<S: Read + Write + AsFd + Send + 'static>(self, next: impl Fn() -> io::Result<S>) {
        loop {
            let stream = match next() {
                Ok(stream) => stream,
                Err(error) => {
                    seldom!(warn, %error, "a connection could not be accepted");
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            let place = Place::take(&self.connections);
            if place.is_none() {
                seldom!(warn, "connections were refused: there are {MAX_CONNECTIONS}");
            }
            // Dropped, the stream is closed.
            let Some(place) = place else { continue };
            let swap = self.swap.clone();
            let started = Waker::new().map(Arc::new).and_then(|waker| {
                start(move || {
                    let _place = place;
                    if let Err(error) = serve(stream, &waker, &swap) {
                        seldom!(info, %error, "connections ended");
                    }
                })
            });
            if let Err(error) = started {
                seldom!(warn, %error, "a connection could not be served");
            }
        }
    }
}

/// One of the connections there may be; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(connections: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(connections));
        (connections.fetch_add(1, Ordering::Relaxed) < MAX_CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Moves bytes until either side has had enough.
fn serve(mut stream: impl Read + Write + AsFd, waker: &Arc<Waker>, swap: &Swap) -> io::Result<()> {
    let mut connection = swap.connect(waker);
    // Pages go through both.
    let [mut came, mut goes] = [(); 2].map(|()| Zeroizing::new(vec![0; BUFFER]));
    let mut waiting = 0..0;
    let mut halt = Halt::default();
    let start = Instant::now();
    // Nor does who does not listen.
    set_socket_timeout(&stream, Timeout::Send, Some(GREETING))?;
    let mut is_bounded = true;
    let mut is_at_end = false;
    // Its last word is known to have come; nothing has been done for it since.
    let mut ended: Option<Instant> = None;
    loop {
        let filled = connection.send(&mut goes);
        stream.write_all(goes.get(..filled).unwrap_or_default())?;
        halt.sent(filled);
        if connection.is_over() {
            return Ok(());
        }
        if ended.is_some() {
            connection.last_word();
        }
        let taken = connection.receive(came.get(waiting.clone()).unwrap_or_default());
        waiting.start += taken;
        if filled > 0 || taken > 0 || connection.goes_on() {
            ended = ended.map(|_| Instant::now());
            continue;
        }
        let (is_waiting, is_greeting) = (connection.is_waiting(), connection.is_greeting());
        if is_bounded && !is_greeting {
            set_socket_timeout(&stream, Timeout::Send, None)?;
            is_bounded = false;
        }
        let patience = match ended {
            Some(since) => Some(LAST_WORD.saturating_sub(since.elapsed())),
            None => is_greeting.then(|| GREETING.saturating_sub(start.elapsed())),
        };
        if is_at_end && !is_waiting || patience.is_some_and(|patience| patience.is_zero()) {
            return Ok(());
        }
        // What has come and is not taken waits for a page, as what is read does. Where nobody waits for a tier only
        // the client can make it go on, and no second call is needed to wait for that.
        let event = match is_waiting || is_greeting {
            true => wait(&stream, waker, waiting.is_empty() && !is_at_end, patience)?,
            false => Event::More,
        };
        if event == Event::More {
            waiting = 0..halt.read(&mut stream, &mut came)?;
            is_at_end = waiting.is_empty();
        }
        if is_at_end || event == Event::LastWord {
            ended.get_or_insert_with(Instant::now);
        }
    }
}

/// Why a wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// Something has come.
    More,
    /// The client has said its last word; there may be something to read before it.
    LastWord,
    /// A page has come from a tier, or patience is at its end.
    Other,
}

/// Waits until the waker rings, something comes if that is wanted, or the last word does if it is not known yet.
fn wait(stream: &impl AsFd, waker: &Waker, for_more: bool, patience: Option<Duration>) -> io::Result<Event> {
    let comes = match patience {
        _ if for_more => PollFlags::IN,
        None => PollFlags::RDHUP,
        Some(_) => PollFlags::empty(),
    };
    let mut fds = [PollFd::new(waker, PollFlags::IN), PollFd::new(stream, comes)];
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    retry_on_intr(|| poll(&mut fds, patience.as_ref()))?;
    let [rung, came] = fds.map(|fd| fd.revents());
    if !rung.is_empty() {
        waker.clear();
    }
    // Who has gone will not see what is waited for.
    if !for_more && came.intersects(PollFlags::HUP | PollFlags::ERR) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(match came {
        _ if came.is_empty() => Event::Other,
        _ if for_more => Event::More,
        _ => Event::LastWord,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::net::TcpStream;
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixStream;

    use memsvc::swap::{Codec, SwapConfig, nbd};
    use zerocopy::IntoBytes;

    use super::*;

    fn guard() -> Guard {
        Guard::new(|why| panic!("{why}"))
    }

    fn swap() -> Swap {
        let config = SwapConfig {
            name: "swap".into(),
            bytes: 1 << 20,
            memory: 1 << 20,
            codec: Codec::Lz4,
            tiers: vec![],
        };
        Swap::standalone(&config, &guard()).expect("address space")
    }

    /// The greeting and no more; reading it shows that the connection is served.
    fn greeting(mut stream: impl Read) -> bool {
        let mut greeting = [0; size_of::<nbd::Greeting>()];
        stream.read_exact(&mut greeting).is_ok() && greeting.starts_with(b"NBDMAGICIHAVEOPT")
    }

    #[test]
    fn serves_a_socket_whose_file_goes_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let server = Server::spawn(&Address::Unix(path.clone()), swap(), &guard()).expect("a server");
        assert_eq!(server.address().to_string(), format!("nbd+unix:///?socket={}", path.display()));
        assert!(greeting(UnixStream::connect(&path).expect("a connection")));
        let second = Server::spawn(&Address::Unix(path.clone()), swap(), &guard());
        let error = second.expect_err("one listens there").to_string();
        assert!(error.contains("in use"), "{error}");
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn addresses_are_uris_that_clients_take() {
        let cases = [
            (Address::Unix("/run/a b&c".into()), "nbd+unix:///?socket=/run/a%20b%26c"),
            (Address::Tcp("127.0.0.1:7".parse().expect("an address")), "nbd://127.0.0.1:7/"),
            (Address::Tcp("[::1]:7".parse().expect("an address")), "nbd://[::1]:7/"),
        ];
        for (address, uri) in cases {
            assert_eq!(address.to_string(), uri);
        }
    }

    #[test]
    fn serves_a_port_and_says_which() {
        let any = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
        let server = Server::spawn(&any, swap(), &guard()).expect("a server");
        let Address::Tcp(address) = *server.address() else { panic!("a port") };
        assert_ne!(address.port(), 0);
        assert!(greeting(TcpStream::connect(address).expect("a connection")));
        let error =
            Server::spawn(&Address::Tcp(address), swap(), &guard()).expect_err("it is in use").to_string();
        assert!(error.contains("choose another"), "{error}");
    }

    #[test]
    fn who_chooses_no_export_in_time_gives_way() {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let start = Instant::now();
        let server = thread::spawn(move || serve(ours, &Arc::new(Waker::new().unwrap()), &swap()));
        assert!(greeting(&theirs));
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).expect("the end");
        assert!(start.elapsed() >= GREETING);
        server.join().expect("no panic").expect("an end without an error");
    }

    #[test]
    fn connections_are_bounded_and_their_places_come_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let _server = Server::spawn(&Address::Unix(path.clone()), swap(), &guard()).expect("a server");
        let connect = || UnixStream::connect(&path).expect("a connection");
        let mut all: Vec<_> = (0..MAX_CONNECTIONS).map(|_| connect()).collect();
        assert!(all.iter().all(greeting));
        assert!(!greeting(connect()), "one more than there may be");
        all.truncate(MAX_CONNECTIONS - 1);
        // Its thread has yet to see that it has ended.
        while !greeting(connect()) {
            thread::yield_now();
        }
    }

    /// Whether any of our memory has these bytes, of which the complement is given.
    fn is_in_memory(complement: &[u8]) -> bool {
        let memory = File::open("/proc/self/mem").expect("a file");
        let maps = fs::read_to_string("/proc/self/maps").expect("a file");
        let (mut seen, nothing) = ([0; 4096], [0; 4096]);
        let is_there = |bytes: &[u8]| bytes.iter().zip(complement).all(|(byte, other)| *byte == !other);
        maps.lines().filter(|line| line.contains(" rw")).any(|line| {
            let (from, to) =
                line.split_once(' ').and_then(|(range, _)| range.split_once('-')).expect("a range");
            let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).expect("an address"));
            (from..to).step_by(seen.len()).any(|at| {
                // Others may unmap it meanwhile.
                let read = memory.read_at(&mut seen, at).unwrap_or(0);
                seen != nothing && seen[..read].windows(complement.len()).step_by(4).any(is_there)
            })
        })
    }

    #[test]
    fn nothing_of_a_page_is_left_when_its_connection_has_ended() {
        let swap = swap();
        // More than one, since the allocator returns the first ones' memory.
        for seed in 0..3 {
            let (ours, theirs) = UnixStream::pair().expect("sockets");
            let swap = swap.clone();
            let server = thread::spawn(move || serve(theirs, &Arc::new(Waker::new().unwrap()), &swap));
            let mut client = Client::connect(ours);
            let mut page = Zeroizing::new(vec![0; 4096]);
            fastrand::Rng::with_seed(seed).fill(&mut page);
            let complement: Vec<u8> = page[2048..2080].iter().map(|byte| !byte).collect();
            client.ask(nbd::Command::Write, &mut page);
            client.ask(nbd::Command::Read, &mut page);
            assert!(is_in_memory(&complement));
            client.ask(nbd::Command::Trim, &mut []);
            drop((page, client));
            server.join().expect("no panic").expect("the end");
            assert!(!is_in_memory(&complement), "connection {seed}");
        }
    }

    /// One that asks for the first page.
    struct Client(UnixStream);

    impl Client {
        fn connect(mut stream: UnixStream) -> Self {
            assert!(greeting(&stream));
            let flags = nbd::ClientFlags::FIXED_NEWSTYLE | nbd::ClientFlags::NO_ZEROES;
            let option = nbd::OptionHeader::new(nbd::OptionCode::ExportName as u32, 0);
            stream.write_all(&[&flags.bits().to_be_bytes()[..], option.as_bytes()].concat()).expect("sent");
            stream.read_exact(&mut [0; 10]).expect("the export");
            Self(stream)
        }

        fn ask(&mut self, command: nbd::Command, data: &mut [u8]) {
            let flags = nbd::CommandFlags::empty();
            let request = nbd::Request { command: Some(command), flags, cookie: 1, offset: 0, len: 4096 };
            self.0.write_all(nbd::RequestHeader::new(&request).as_bytes()).expect("sent");
            if command == nbd::Command::Write {
                self.0.write_all(data).expect("sent");
            }
            self.0.read_exact(&mut [0; size_of::<nbd::SimpleReply>()]).expect("a reply");
            if command == nbd::Command::Read {
                self.0.read_exact(data).expect("a page");
            }
        }
    }
}
