//! The guest's network: up, and TCP there and back. Ping and floods have files of their own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use guest_agent::interface::{self, Cidr};
use guest_agent::{Answer, Echoed, Link, NetRequest, pattern};

use crate::flood::Floods;
use crate::{boot, ping};

/// Longest wait for a driver to bring its interface, and for that to see its other end.
const APPEAR: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(2);
/// Longest wait for a TCP server to say anything.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of one read or write.
const CHUNK: u64 = 64 << 10;

/// Serves one request.
pub(crate) fn serve(floods: &mut Floods, request: NetRequest) -> Result<Answer, String> {
    match request {
        NetRequest::Up { interface, address } => up(interface, &address).map(Answer::Link),
        NetRequest::Ping { address, count, interval_ms, bytes } => {
            ping::ping(&address, count, Duration::from_millis(interval_ms), bytes).map(Answer::Pinged)
        }
        NetRequest::Echo { server, bytes, seed } => echo(&server, bytes, seed).map(Answer::Echoed),
        NetRequest::FloodStart { kind, bytes } => floods.start(&kind, bytes).map(|()| Answer::Done),
        NetRequest::FloodStop => Ok(Answer::Flooded(floods.stop())),
    }
}

fn up(name: Option<String>, address: &str) -> Result<Link, String> {
    let cidr: Cidr = address.parse()?;
    boot::load_set("net").map_err(|error| format!("cannot load the driver: {error}"))?;
    let name = wait(|| chosen(name.as_deref()))?;
    interface::bring_up(&name, cidr).map_err(|error| format!("cannot bring {name} up: {error}"))?;
    let sysfs = |file: &str| {
        interface::sysfs(&name, file).map_err(|error| format!("{name} does not tell its {file}: {error}"))
    };
    // A carrier alone does not do: until the kernel has looked at it, a second later, packets are dropped.
    wait(|| match sysfs("operstate")?.as_str() {
        "up" | "unknown" => Ok(()),
        state => Err(format!("{name} does not come up: its state is {state}")),
    })?;
    let mac = sysfs("address")?;
    let mtu = sysfs("mtu")?.parse().map_err(|_| format!("the MTU of {name} is no number"))?;
    // One digit a feature, feature 0 first (drivers/virtio/virtio.c).
    let bits = sysfs("device/features").unwrap_or_default();
    let features = (0..).zip(bits.bytes()).filter(|(_, digit)| *digit == b'1').map(|(bit, _)| bit).collect();
    Ok(Link { interface: name, mac, mtu, features })
}

/// The interface of this name, or the only one beside `lo`.
fn chosen(name: Option<&str>) -> Result<String, String> {
    let entries = std::fs::read_dir("/sys/class/net").map_err(|error| format!("no interfaces: {error}"))?;
    let names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|found| name.map_or(found != "lo", |name| found == name))
        .collect();
    match names.as_slice() {
        [only] => Ok(only.clone()),
        _ => Err(format!("of the interfaces {names:?} none is the one to bring up ({name:?})")),
    }
}

/// Looks again and again until there is something, for a bounded time.
fn wait<T>(mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let end = Instant::now() + APPEAR;
    loop {
        match look() {
            Err(_) if Instant::now() < end => std::thread::sleep(INTERVAL),
            other => return other,
        }
    }
}

fn echo(server: &str, bytes: u64, seed: u64) -> Result<Echoed, String> {
    if !bytes.is_multiple_of(8) {
        return Err("a transfer is a multiple of 8 bytes".to_owned());
    }
    let attempt = || -> io::Result<Echoed> {
        let address: SocketAddr = server.parse().map_err(io::Error::other)?;
        let start = Instant::now();
        let stream = TcpStream::connect_timeout(&address, SILENCE)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        // The server sends back while it still receives: one thread for each way.
        let (sent, mut echoed) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| send(&stream, bytes, seed));
            let echoed = receive(&stream, bytes, seed);
            (sender.join(), echoed)
        });
        sent.unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))?;
        if let Ok(echoed) = &mut echoed {
            echoed.micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        }
        echoed
    };
    attempt().map_err(|error| format!("no transfer to {server} and back: {error}"))
}

/// The pattern's bytes from one offset to another, both multiples of 8.
fn sequence(seed: u64, from: u64, to: u64) -> impl Iterator<Item = u8> {
    (from / 8..to / 8).flat_map(move |word| pattern::base(seed, word).to_le_bytes())
}

fn send(mut stream: &TcpStream, bytes: u64, seed: u64) -> io::Result<()> {
    for from in (0..bytes).step_by(CHUNK as usize) {
        let chunk: Vec<u8> = sequence(seed, from, bytes.min(from + CHUNK)).collect();
        stream.write_all(&chunk)?;
    }
    Ok(())
}

fn receive(mut stream: impl Read, bytes: u64, seed: u64) -> io::Result<Echoed> {
    let mut echoed = Echoed::default();
    let mut buffer = vec![0; CHUNK as usize];
    while echoed.bytes < bytes {
        let (from, to) = (echoed.bytes, bytes.min(echoed.bytes + CHUNK));
        let Some(chunk) = buffer.get_mut(..(to - from) as usize) else { break };
        stream.read_exact(chunk)?;
        let wrong = chunk.iter().copied().zip(sequence(seed, from, to)).position(|(got, sent)| got != sent);
        if let Some(at) = wrong {
            echoed.first_wrong.get_or_insert((from + at as u64) / 8 * 8);
        }
        echoed.bytes = to;
    }
    Ok(echoed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_changed_is_found_where_it_was_changed() -> io::Result<()> {
        let bytes = CHUNK * 2 + 16;
        let mut sent: Vec<u8> = sequence(4, 0, bytes).collect();
        let good = receive(sent.as_slice(), bytes, 4)?;
        assert_eq!((good.bytes, good.first_wrong), (bytes, None));
        sent[CHUNK as usize + 13] ^= 1;
        assert_eq!(receive(sent.as_slice(), bytes, 4)?.first_wrong, Some(CHUNK + 8));
        assert!(receive(&sent[8..], bytes, 4).is_err(), "what is missing is an error");
        Ok(())
    }
}
