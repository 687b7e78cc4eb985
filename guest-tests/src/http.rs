//! One HTTP/1.1 request over a unix socket: enough to drive the API. The code is written apart from the
//! monitor's own client, so that a mistake there does not hide one in the server.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

/// How long the monitor may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// A longer body is refused.
const LONGEST_BODY: usize = 16 << 20;

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// The body as JSON; null where it is empty.
    pub body: Value,
}

impl Response {
    /// The body of a success.
    ///
    /// # Errors
    /// The status is not 2xx; the message holds the server's sentence.
    pub fn success(self) -> anyhow::Result<Value> {
        if !(200..300).contains(&self.status) {
            bail!("status {}: {}", self.status, self.body);
        }
        Ok(self.body)
    }
}

/// Sends a request and reads the response.
///
/// # Errors
/// Nobody listens, or what came is not an HTTP response with a JSON body.
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Response> {
    let (status, body) = exchange(socket, method, path, body)?;
    json(status, &body).with_context(|| format!("{method} {path} at {}", socket.display()))
}

/// Asks for what is plain text.
///
/// # Errors
/// Nobody listens, the status is not 200, or what came is not text.
pub fn text(socket: &Path, path: &str) -> anyhow::Result<String> {
    let (status, body) = exchange(socket, "GET", path, None)?;
    let text = String::from_utf8(body).with_context(|| format!("GET {path} is not text"))?;
    if status != 200 {
        bail!("GET {path}: status {status}: {text}");
    }
    Ok(text)
}

/// A counter of each device that has it, from `GET /metrics`.
///
/// # Errors
/// As [`text`], or what is told is no number.
pub fn of_devices(socket: &Path, counter: &str) -> anyhow::Result<Vec<u64>> {
    let start = format!("aerostat_device_{counter}_total{{");
    let metrics = text(socket, "/metrics")?;
    let lines = metrics.lines().filter(|line| line.starts_with(&start));
    lines.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)).collect()
}

/// Status and body of the answer to a request.
fn exchange(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<(u16, Vec<u8>)> {
    let what = || format!("{method} {path} at {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(what)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).with_context(what)?;
    read_response(&mut BufReader::new(stream)).with_context(what)
}

fn read_response(stream: &mut impl BufRead) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("not an HTTP response: {line:?}"))?;
    let mut length = 0;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("Content-Length is not a number")?;
        }
    }
    if length > LONGEST_BODY {
        bail!("a body of {length} bytes");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, body))
}

fn json(status: u16, body: &[u8]) -> anyhow::Result<Response> {
    let body = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).context("the body is not JSON")?
    };
    Ok(Response { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_json_bodies_are_read() -> anyhow::Result<()> {
        let read = |mut text: &[u8]| read_response(&mut text).and_then(|(status, body)| json(status, &body));
        let empty = read(b"HTTP/1.1 204 No Content\r\n\r\n")?;
        assert_eq!((empty.status, empty.body), (204, Value::Null));
        let refused =
            &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 21\r\n\r\n{\"fault_message\":\"x\"}trailing"[..];
        let refused = read(refused)?;
        assert_eq!(refused.body.get("fault_message").and_then(Value::as_str), Some("x"));
        assert!(refused.success().is_err());
        assert!(read(b"hello\r\n").is_err());
        Ok(())
    }
}
