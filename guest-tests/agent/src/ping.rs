//! ICMP echo: requests out, answers counted.
//!
//! ```text
//! type 8 or 0 │ code 0 │ checksum │ identifier │ sequence │ payload          RFC 792; numbers big-endian
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use guest_agent::Pinged;
use guest_agent::latency::{self, Histogram};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

/// What this agent's requests are known by.
const IDENTIFIER: u16 = 0xae05;
const REQUEST: u8 = 8;
const ANSWER: u8 = 0;
const HEADER: usize = 8;
/// What IPv4 holds behind the ICMP header.
pub(crate) const MOST_BYTES: u16 = 65507;
/// Sequence numbers have 16 bits.
const MOST: u32 = 1 << 16;
/// The last request's answer is waited for this long.
const LAST: Duration = Duration::from_secs(1);

/// Pings.
pub(crate) fn ping(address: &str, count: u32, interval: Duration, bytes: u16) -> Result<Pinged, String> {
    if count > MOST || bytes > MOST_BYTES {
        return Err(format!("at most {MOST} pings of {MOST_BYTES} bytes"));
    }
    let attempt = || -> io::Result<Pinged> {
        let mut pings =
            Pings { socket: connect(address)?, bytes, waiting: BTreeMap::new(), result: Pinged::default() };
        let latencies = Histogram::default();
        for sequence in (0..=u16::MAX).take(count as usize) {
            pings.socket.send(&message(sequence, bytes))?;
            pings.result.sent += 1;
            let now = Instant::now();
            pings.waiting.insert(sequence, now);
            let last = u32::from(sequence) + 1 == count;
            pings.listen(now + if last { LAST } else { interval }, last, &latencies)?;
        }
        pings.result.latency = latency::summary([&latencies]);
        Ok(pings.result)
    };
    attempt().map_err(|error| format!("cannot ping {address}: {error}"))
}

/// A socket for ICMP messages to and from one address.
pub(crate) fn connect(address: &str) -> io::Result<UdpSocket> {
    let address: Ipv4Addr = address.parse().map_err(io::Error::other)?;
    let socket: OwnedFd =
        socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMP))?;
    // std knows datagrams as UDP only; for the calls used here they are alike.
    let socket = UdpSocket::from(socket);
    socket.connect((address, 0))?;
    Ok(socket)
}

/// An echo request.
pub(crate) fn message(sequence: u16, bytes: u16) -> Vec<u8> {
    let mut message = vec![REQUEST, 0, 0, 0];
    message.extend(IDENTIFIER.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(payload(sequence, bytes));
    let sum = checksum(&message).to_be_bytes();
    for (to, from) in message.iter_mut().skip(2).zip(sum) {
        *to = from;
    }
    message
}

fn payload(sequence: u16, bytes: u16) -> impl Iterator<Item = u8> {
    (sequence as u8..=u8::MAX).chain((0..=u8::MAX).cycle()).take(bytes.into())
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let sum: u32 = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let sum = sum + rest.first().map_or(0, |last| u32::from(*last) << 8);
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}

/// Requests under way.
struct Pings {
    socket: UdpSocket,
    bytes: u16,
    waiting: BTreeMap<u16, Instant>,
    result: Pinged,
}

impl Pings {
    /// Takes answers until `end`, or until none is missing where `early`.
    fn listen(&mut self, end: Instant, early: bool, latencies: &Histogram) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        while !(early && self.waiting.is_empty()) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => self.take(buffer.get(..length).unwrap_or_default(), latencies),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Counts what came, if it is an answer to this agent.
    fn take(&mut self, packet: &[u8], latencies: &Histogram) {
        let Some((sequence, payload_found)) = parse(packet) else { return };
        let ours = payload_found.iter().copied().eq(payload(sequence, self.bytes));
        match self.waiting.remove(&sequence) {
            Some(sent) if ours => {
                self.result.received += 1;
                latencies.record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
            _ => self.result.wrong += 1,
        }
    }
}

/// Sequence number and payload of an answer to this agent. A raw socket gives the IPv4 header, too.
fn parse(packet: &[u8]) -> Option<(u16, &[u8])> {
    let message = packet.get(usize::from(packet.first()? & 0xf) * 4..)?;
    let (head, payload) = message.split_first_chunk::<HEADER>()?;
    let [kind, 0, _, _, i1, i0, s1, s0] = *head else { return None };
    let ours = kind == ANSWER && u16::from_be_bytes([i1, i0]) == IDENTIFIER && checksum(message) == 0;
    ours.then_some((u16::from_be_bytes([s1, s0]), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sequence: u16, bytes: u16) -> Vec<u8> {
        let mut message = message(sequence, bytes);
        message[0] = ANSWER;
        message[2..4].fill(0);
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let mut packet = vec![0x46; 24];
        packet.extend(message);
        packet
    }

    #[test]
    fn an_answer_is_known_by_identifier_checksum_and_sequence() {
        for bytes in [0, 1, 56, 1473] {
            let packet = answer(300, bytes);
            assert_eq!(
                parse(&packet).map(|(sequence, rest)| (sequence, rest.len())),
                Some((300, bytes.into()))
            );
            let mut broken = packet.clone();
            *broken.last_mut().expect("not empty") ^= 1;
            assert_eq!(parse(&broken), None, "a wrong checksum");
        }
        let request = [vec![0x45; 20], message(1, 8)].concat();
        assert_eq!(parse(&request), None, "a request is no answer");
        assert_eq!(parse(&[0x4f; 30]), None, "cut off");
        assert_eq!(parse(&[]), None);
    }

    #[test]
    fn an_answer_counts_once_and_only_with_its_own_payload() -> io::Result<()> {
        let waiting = [(1, Instant::now()), (2, Instant::now())].into();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut pings = Pings { socket, bytes: 8, waiting, result: Pinged::default() };
        let latencies = Histogram::default();
        pings.take(&answer(1, 8), &latencies);
        assert_eq!((pings.result.received, pings.result.wrong), (1, 0));
        pings.take(&answer(1, 8), &latencies);
        pings.take(&answer(2, 9), &latencies);
        pings.take(&answer(7, 8), &latencies);
        assert_eq!((pings.result.received, pings.result.wrong), (1, 3));
        Ok(())
    }
}
