//! The kernel's NBD client: connections are made and negotiated here, and then the kernel's own.
//!
//! Commands and attributes are those of the generic netlink family "nbd" (`include/uapi/linux/nbd-netlink.h`).
//! There is no process behind the device: what the agent does later cannot hold it up.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use guest_agent::{NbdDevice, nbd};

use crate::boot;
use crate::netlink::{Attributes, Family};

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;

const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

/// Swap goes by pages.
const BLOCK_SIZE: u32 = 4096;
/// Linux takes as many as there are; more than this measures nothing new.
const MOST_CONNECTIONS: u32 = 16;
/// Longest wait for a server while connecting.
const SILENCE: Duration = Duration::from_secs(30);

/// Connects a new device to an export.
pub(crate) fn connect(server: &str, export: &str, connections: u32) -> Result<NbdDevice, String> {
    if !(1..=MOST_CONNECTIONS).contains(&connections) {
        return Err(format!("a device has 1 to {MOST_CONNECTIONS} connections"));
    }
    boot::load_set("swap").map_err(|error| format!("cannot load the driver: {error}"))?;
    let streams = (0..connections)
        .map(|_| negotiate(server, export))
        .collect::<Result<Vec<_>, String>>()
        .map_err(|error| format!("{server}: {error}"))?;
    let (_, export) = streams.first().ok_or("a device has a connection")?;
    if connections > 1 && export.flags & nbd::CAN_MULTI_CONN == 0 {
        return Err(format!("{server} does not take several connections: ask for one"));
    }
    if export.smallest > BLOCK_SIZE {
        return Err(format!("{server} takes no requests as small as a page"));
    }
    let sockets = streams.iter().fold(Attributes::default(), |all, (stream, _)| {
        let item = Attributes::default().with(SOCK_FD, &stream.as_raw_fd().to_ne_bytes());
        all.nested(SOCK_ITEM, &item)
    });
    let wanted = Attributes::default()
        .with(SIZE_BYTES, &export.bytes.to_ne_bytes())
        .with(BLOCK_SIZE_BYTES, &u64::from(BLOCK_SIZE).to_ne_bytes())
        .with(SERVER_FLAGS, &u64::from(export.flags).to_ne_bytes())
        .nested(SOCKETS, &sockets);
    let answer = command(CONNECT, &wanted, "connect")?;
    let index = answer.get(INDEX).and_then(|value| value.first_chunk().copied()).map(u32::from_ne_bytes);
    let index = index.ok_or("the kernel does not tell which device it has connected")?;
    Ok(NbdDevice { device: format!("nbd{index}"), bytes: export.bytes, flags: export.flags })
}

/// Disconnects a device.
pub(crate) fn disconnect(device: &str) -> Result<(), String> {
    let index = device.strip_prefix("nbd").and_then(|index| index.parse::<u32>().ok());
    let index = index.ok_or_else(|| format!("{device:?} is no network block device"))?;
    command(DISCONNECT, &Attributes::default().with(INDEX, &index.to_ne_bytes()), "disconnect").map(drop)
}

fn command(command: u8, attributes: &Attributes, what: &str) -> Result<Attributes, String> {
    Family::find("nbd")
        .and_then(|family| family.command(command, attributes))
        .map_err(|error| format!("the kernel does not {what}: {error}"))
}

fn negotiate(server: &str, export: &str) -> Result<(TcpStream, nbd::Export), String> {
    let connect = || {
        let address: SocketAddr = server.parse().map_err(std::io::Error::other)?;
        let stream = TcpStream::connect_timeout(&address, SILENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok::<_, std::io::Error>(stream)
    };
    let mut stream = connect().map_err(|error| format!("no connection: {error}"))?;
    let export = nbd::go(&mut stream, export)?;
    // The kernel waits for replies as long as it takes.
    stream.set_read_timeout(None).map_err(|error| error.to_string())?;
    Ok((stream, export))
}
