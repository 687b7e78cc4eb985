//! Where a tier is, as text: a path, or an NBD URI as the NBD project's `doc/uri.md` has it.
//!
//! ```text
//!   /var/tmp                                    a directory for a file
//!   nbd://host[:port]/export                    an NBD server on a host
//!   nbd+unix:///export?socket=/run/nbd.sock     one on a unix socket
//! ```

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use super::{NbdServer, TierConfig};
use crate::swap::nbd::{MAX_NAME, PORT};

/// Why a text does not say where a tier is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither a path nor a URI that is served.
    #[error(
        "{0:?} is no tier: give a directory as /PATH or ./PATH, or a server as nbd://HOST[:PORT]/EXPORT or \
         nbd+unix:///EXPORT?socket=PATH"
    )]
    Unknown(String),
    /// TLS is not spoken.
    #[error("{0:?} wants TLS, which is not spoken here: give a unix socket, or a tunnel's end as nbd://")]
    Tls(String),
    /// Something in the URI is wrong.
    #[error("{uri:?} is no address of an NBD server: {why}")]
    Uri {
        /// What was given.
        uri: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl TierConfig {
    /// Reads where a tier is. `timeout` is for NBD servers.
    ///
    /// # Errors
    /// It is neither a path that begins with `/` or `.`, nor an NBD URI.
    pub fn parse(text: &str, timeout: Duration) -> Result<Self, AddressError> {
        if text.starts_with(['/', '.']) {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let wrong = |why| AddressError::Uri { uri: text.to_owned(), why };
        let (server, export) = match text.split_once("://") {
            Some(("nbd", rest)) => tcp(rest).map_err(wrong)?,
            Some(("nbd+unix", rest)) => unix(rest).map_err(wrong)?,
            Some(("nbds" | "nbds+unix", _)) => return Err(AddressError::Tls(text.to_owned())),
            _ => return Err(AddressError::Unknown(text.to_owned())),
        };
        Ok(Self::Nbd { server, export: export_name(export).map_err(wrong)?, timeout })
    }
}

/// `host[:port][/export]`.
fn tcp(rest: &str) -> Result<(NbdServer, &str), &'static str> {
    if rest.contains(['?', '#', '@']) {
        return Err("it says more than host, port and export");
    }
    let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = match authority.strip_prefix('[') {
        Some(address) => address.split_once(']').ok_or("the address has no ] at its end")?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() {
        return Err("it has no host");
    }
    let port = match port.strip_prefix(':') {
        // "nbd://host:/" is the port that is NBD's (RFC 3986, 3.2.3).
        Some("") => PORT,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map_err(|_| "its port is more than 65535")?
        }
        None if port.is_empty() => PORT,
        _ => return Err("its port is no number"),
    };
    Ok((NbdServer::Tcp(host.to_owned(), port), export))
}

/// `/export?socket=PATH`.
fn unix(rest: &str) -> Result<(NbdServer, &str), &'static str> {
    let rest = rest.strip_prefix('/').ok_or("a unix socket has no host: write nbd+unix:///EXPORT")?;
    let (export, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = query.strip_prefix("socket=").ok_or("it does not end in ?socket=PATH")?;
    if path.contains(['&', '#']) {
        return Err("it says more than the socket's path; an & or # in that is written as %26 or %23");
    }
    let path = decoded(path)?;
    if path.is_empty() || path.contains(&0) {
        return Err("the socket's path is empty or has a byte of zero");
    }
    Ok((NbdServer::Unix(PathBuf::from(OsString::from_vec(path))), export))
}

fn export_name(text: &str) -> Result<String, &'static str> {
    let name = String::from_utf8(decoded(text)?).map_err(|_| "the export's name is not UTF-8")?;
    if name.len() > MAX_NAME as usize || name.contains('\0') {
        return Err("the export's name is longer than 4096 bytes or has a byte of zero");
    }
    Ok(name)
}

/// The bytes that `%XX` stand for.
fn decoded(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err("a % is not followed by two hexadecimal digits; % itself is %25");
        };
        decoded.push((high * 16 + low) as u8);
    }
    Ok(decoded)
}

/// Bytes in a URI: those that have a meaning there, or none on paper, as `%XX`.
struct Encoded<'a>(&'a [u8]);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                write!(f, "{}", char::from(*byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

/// As [`TierConfig::parse`] reads it.
impl fmt::Display for TierConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Nbd { server, export, .. } => f.write_str(&server.uri(export)),
        }
    }
}

impl NbdServer {
    /// The URI of an export there. The port is left out where it is NBD's own.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        let export = Encoded(export.as_bytes());
        match self {
            Self::Unix(path) => {
                format!("nbd+unix:///{export}?socket={}", Encoded(path.as_os_str().as_bytes()))
            }
            Self::Tcp(host, port) => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                match *port {
                    PORT => format!("nbd://{host}/{export}"),
                    port => format!("nbd://{host}:{port}/{export}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(9);

    fn nbd(server: NbdServer, export: &str) -> TierConfig {
        TierConfig::Nbd { server, export: export.to_owned(), timeout: TIMEOUT }
    }

    fn tcp(host: &str, port: u16, export: &str) -> TierConfig {
        nbd(NbdServer::Tcp(host.to_owned(), port), export)
    }

    fn unix(path: &str, export: &str) -> TierConfig {
        nbd(NbdServer::Unix(path.into()), export)
    }

    #[test]
    fn what_is_read_is_written_the_same() {
        let same = [
            ("/var/tmp", TierConfig::File("/var/tmp".into())),
            ("./swap", TierConfig::File("./swap".into())),
            ("nbd://storage/", tcp("storage", 10809, "")),
            ("nbd://storage:7/guest/1", tcp("storage", 7, "guest/1")),
            ("nbd://[::1]:7/%25a%20b", tcp("::1", 7, "%a b")),
            ("nbd+unix:///?socket=/run/a%26b", unix("/run/a&b", "")),
            ("nbd+unix:///swap?socket=rel.sock", unix("rel.sock", "swap")),
        ];
        for (text, config) in same {
            assert_eq!(TierConfig::parse(text, TIMEOUT).as_ref(), Ok(&config), "{text}");
            assert_eq!(config.to_string(), text);
        }
        let shorter = [
            ("nbd://h", tcp("h", 10809, "")),
            ("nbd://h:/x", tcp("h", 10809, "x")),
            ("nbd://[fe80::2]/x", tcp("fe80::2", 10809, "x")),
            ("nbd+unix:///%61?socket=%2Fb", unix("/b", "a")),
        ];
        for (text, config) in shorter {
            assert_eq!(TierConfig::parse(text, TIMEOUT), Ok(config), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_said_to_be_none() {
        let cases = [
            ("", "is no tier"),
            ("swap", "is no tier"),
            ("http://h/x", "is no tier"),
            ("nbd+vsock://1/x", "is no tier"),
            ("nbds://h/x", "TLS"),
            ("nbd:///x", "no host"),
            ("nbd://u@h/x", "more than"),
            ("nbd://h/x?tls-psk-file=y", "more than"),
            ("nbd://[::1/x", "no ]"),
            ("nbd://[::1]7/x", "port is no number"),
            ("nbd://h:+7/x", "port is no number"),
            ("nbd://h:65536/x", "more than 65535"),
            ("nbd://h/%4", "two hexadecimal"),
            ("nbd://h/%+1", "two hexadecimal"),
            ("nbd://h/%ff", "UTF-8"),
            ("nbd://h/%00", "byte of zero"),
            ("nbd+unix://h/x?socket=/a", "no host"),
            ("nbd+unix:///x", "?socket=PATH"),
            ("nbd+unix:///x?socket=", "empty"),
            ("nbd+unix:///x?socket=/a%00", "byte of zero"),
            ("nbd+unix:///x?socket=/a&b=c", "more than"),
        ];
        for (text, part) in cases {
            let error = TierConfig::parse(text, TIMEOUT).expect_err(text).to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
        }
        assert!(TierConfig::parse(&format!("nbd://h/{}", "x".repeat(4097)), TIMEOUT).is_err());
    }
}
