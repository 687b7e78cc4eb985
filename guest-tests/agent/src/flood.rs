//! Threads that send packets which nobody needs, until they are told to stop.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use guest_agent::{Flood, Flooded};

use crate::ping;

/// A send that waits for room longer than this counts as refused, so that a flood can always be ended.
const PATIENCE: Duration = Duration::from_millis(100);

/// Running floods. Dropping it ends them.
#[derive(Debug, Default)]
pub(crate) struct Floods {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<Sent>>,
}

/// Packets of one flood.
#[derive(Debug, Default)]
struct Sent {
    packets: u64,
    refused: u64,
}

impl Floods {
    /// Starts one more.
    pub(crate) fn start(&mut self, kind: &Flood, bytes: u16) -> Result<(), String> {
        if bytes > ping::MOST_BYTES {
            return Err(format!("a packet holds at most {} bytes", ping::MOST_BYTES));
        }
        let (socket, packet) = match kind {
            Flood::Icmp(address) => (ping::connect(address), ping::message(0, bytes)),
            Flood::Udp(address) => (connect_udp(address), vec![0x55; bytes.into()]),
        };
        let failed = |error: io::Error| format!("cannot send {kind:?}: {error}");
        let socket = socket.map_err(failed)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let stop = Arc::clone(&self.stop);
        let thread = std::thread::Builder::new().spawn(move || flood(&socket, &packet, &stop));
        self.handles.push(thread.map_err(failed)?);
        Ok(())
    }

    /// Ends all; says what they did.
    pub(crate) fn stop(&mut self) -> Flooded {
        std::mem::take(&mut self.stop).store(true, Ordering::Relaxed);
        let mut flooded = Flooded::default();
        for handle in self.handles.drain(..) {
            let sent = handle.join().unwrap_or_default();
            flooded.packets.push(sent.packets);
            flooded.refused += sent.refused;
        }
        flooded
    }
}

impl Drop for Floods {
    fn drop(&mut self) {
        self.stop();
    }
}

fn connect_udp(address: &str) -> io::Result<UdpSocket> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    Ok(socket)
}

fn flood(socket: &UdpSocket, packet: &[u8], stop: &AtomicBool) -> Sent {
    let mut sent = Sent::default();
    while !stop.load(Ordering::Relaxed) {
        // An error is the kernel's "not now", or the answer of the last packet's receiver.
        let count = if socket.send(packet).is_ok() { &mut sent.packets } else { &mut sent.refused };
        *count += 1;
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_arrive_until_the_flood_is_stopped_and_are_counted() -> io::Result<()> {
        let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        sink.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut floods = Floods::default();
        let kind = Flood::Udp(sink.local_addr()?.to_string());
        floods.start(&kind, 40).expect("a flood");
        let mut buffer = [0; 64];
        assert_eq!(sink.recv(&mut buffer)?, 40);
        floods.start(&kind, 41).expect("another");
        while sink.recv(&mut buffer)? != 41 {}
        let flooded = floods.stop();
        assert!(
            flooded.packets.len() == 2 && flooded.packets.iter().all(|packets| *packets > 0),
            "{flooded:?}"
        );
        assert_eq!(floods.stop(), Flooded::default(), "none runs any more");
        assert!(floods.start(&Flood::Udp("nowhere".into()), 1).is_err());
        Ok(())
    }
}
