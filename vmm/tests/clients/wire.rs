//! A connection to the monitor that is kept, as clients keep theirs, and what comes back on it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::stage::{Monitor, PATIENCE, Stage};

/// The connection.
#[derive(Debug)]
pub(super) struct Wire(BufReader<UnixStream>);

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Whether the head says that the body is JSON.
    pub(super) is_json: bool,
    pub(super) body: String,
}

impl Wire {
    /// Connects as soon as somebody listens.
    pub(super) fn connect(stage: &Stage, monitor: &mut Monitor) -> anyhow::Result<Self> {
        let start = Instant::now();
        loop {
            if let Ok(stream) = UnixStream::connect(stage.socket()) {
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(Self(BufReader::new(stream)));
            }
            monitor.check()?;
            ensure!(start.elapsed() < PATIENCE, "nobody listens on the socket");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends a request and takes the answer; the connection stays.
    pub(super) fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Answer> {
        self.0.get_mut().write_all(request)?;
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("no answer of HTTP: {first:?}"))?;
        let (mut length, mut is_json) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", value)) => length = value.parse()?,
                Some(("content-type", value)) => is_json = value == "application/json",
                Some(("connection", value)) => ensure!(value != "close", "the connection is closed"),
                Some(("transfer-encoding", value)) => ensure!(value == "identity", "the answer is {value}"),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Answer { status, is_json, body: String::from_utf8(body)? })
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? > 0, "the connection ended");
        Ok(line.trim_end().to_owned())
    }
}
