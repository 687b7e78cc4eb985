//! An NBD client without a socket, which allocates nothing once it is connected; and a server for a tier.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use memsvc::swap::nbd::{
    ChunkHeader, ChunkType, ClientFlags, Command, CommandFlags, NbdError, OptionCode, OptionHeader, Request,
    RequestHeader, SimpleReply,
};
use memsvc::swap::{Connection, NbdServer, TierConfig};
use zerocopy::{FromBytes, IntoBytes};

pub(crate) const PAGE: usize = 4096;
/// Longer means that something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// How reads are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replies {
    Simple,
    Structured,
}

pub(crate) struct Client {
    connection: Connection,
    replies: Replies,
    /// The last answer.
    out: [u8; 2 * PAGE],
}

impl Client {
    pub(crate) fn new(connection: Connection, replies: Replies) -> Self {
        let mut client = Self { connection, replies, out: [0; 2 * PAGE] };
        let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
        client.drain();
        client.say(&flags.bits().to_be_bytes());
        if replies == Replies::Structured {
            client.say(OptionHeader::new(OptionCode::StructuredReply as u32, 0).as_bytes());
            client.drain();
        }
        client.say(OptionHeader::new(OptionCode::ExportName as u32, 0).as_bytes());
        client.drain();
        client
    }

    /// Forgets what is said now.
    fn drain(&mut self) {
        while self.connection.send(&mut self.out) > 0 {}
    }

    /// Says all of it; gives how many bytes of an answer came meanwhile.
    fn say(&mut self, mut bytes: &[u8]) -> usize {
        let (start, mut heard) = (Instant::now(), 0);
        while !bytes.is_empty() {
            let taken = self.connection.receive(bytes);
            bytes = &bytes[taken..];
            if taken == 0 {
                heard += self.connection.send(&mut self.out[heard..]);
                assert!(start.elapsed() < PATIENCE, "it is not taken");
            }
        }
        heard
    }

    /// Asks, and waits for the answer; what was read lies behind its headers.
    pub(crate) fn ask(&mut self, command: Command, page: u64, len: u32, data: &[u8]) -> Option<NbdError> {
        let (flags, offset) = (CommandFlags::empty(), page * PAGE as u64);
        let request = Request { command: Some(command), flags, cookie: page, offset, len };
        let mut heard = self.say(RequestHeader::new(&request).as_bytes());
        heard += self.say(data);
        let start = Instant::now();
        loop {
            heard += self.connection.send(&mut self.out[heard..]);
            if let Some((end, error)) = self.answer(page, command, len)
                && heard >= end
            {
                assert_eq!(heard, end, "more was said than was asked");
                return error;
            }
            assert!(start.elapsed() < PATIENCE, "there is no answer");
            std::thread::yield_now();
        }
    }

    /// How long the answer is, if its header is there, and what it says.
    fn answer(&mut self, cookie: u64, command: Command, len: u32) -> Option<(usize, Option<NbdError>)> {
        if command == Command::Read && self.replies == Replies::Structured {
            let (header, rest) = ChunkHeader::read_from_prefix(&self.out).ok()?;
            let (_, kind, said, payload) = header.parse()?;
            assert_eq!(said, cookie);
            let end = size_of::<ChunkHeader>() + payload as usize;
            let code = rest.first_chunk().map(|code| u32::from_be_bytes(*code)).unwrap_or_default();
            let error = if kind == ChunkType::Error as u16 { NbdError::new(code) } else { None };
            return Some((end, error));
        }
        let (reply, _) = SimpleReply::read_from_prefix(&self.out).ok()?;
        let (said, error) = reply.parse()?;
        assert_eq!(said, cookie);
        let data = if command == Command::Read && error.is_none() { len as usize } else { 0 };
        Some((size_of::<SimpleReply>() + data, error))
    }

    pub(crate) fn write(&mut self, page: u64, data: &[u8; PAGE]) {
        self.out.fill(0);
        assert_eq!(self.ask(Command::Write, page, PAGE as u32, data), None);
    }

    pub(crate) fn trim(&mut self, page: u64, bytes: u32) {
        self.out.fill(0);
        assert_eq!(self.ask(Command::Trim, page, bytes, &[]), None);
    }

    pub(crate) fn read(&mut self, page: u64) -> [u8; PAGE] {
        self.out.fill(0);
        assert_eq!(self.ask(Command::Read, page, PAGE as u32, &[]), None);
        let headers = match self.replies {
            Replies::Simple => size_of::<SimpleReply>(),
            Replies::Structured => size_of::<ChunkHeader>() + size_of::<u64>(),
        };
        *self.out[headers..].first_chunk().expect("a page")
    }
}

/// nbdkit with a disk in memory; killed in the end.
pub(crate) struct Nbdkit(Child, PathBuf);

impl Nbdkit {
    pub(crate) fn start(directory: &Path, bytes: u64) -> Self {
        let socket = directory.join("nbdkit");
        let mut command = Process::new("nbdkit");
        command.args(["--foreground", "--unix"]).arg(&socket).args(["memory", &bytes.to_string()]);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = Self(process.expect("nbdkit: run ci/setup first"), socket);
        let start = Instant::now();
        while UnixStream::connect(&server.1).is_err() {
            assert!(start.elapsed() < PATIENCE, "nbdkit does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    pub(crate) fn tier(&self) -> TierConfig {
        TierConfig::Nbd { server: NbdServer::Unix(self.1.clone()), export: String::new(), timeout: PATIENCE }
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
