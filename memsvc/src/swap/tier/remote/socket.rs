//! The way to a server: addresses, and a socket that keeps nobody waiting.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, send,
    socket_with, sockopt,
};

use super::super::NbdServer;
use super::broken::Broken;

/// Where a server listens.
#[derive(Clone, Debug)]
pub(super) enum Address {
    Unix(SocketAddrUnix),
    Tcp(SocketAddr),
}

/// The addresses of a server. Waits for the resolver, where that is needed; later connections use what was
/// found here.
///
/// # Errors
/// There are none.
pub(super) fn resolve(server: &NbdServer) -> Result<Vec<Address>, Broken> {
    let addresses: Vec<_> = match server {
        NbdServer::Unix(path) => {
            let address = SocketAddrUnix::new(path).map_err(|error| Broken::Unreachable(error.into()))?;
            vec![Address::Unix(address)]
        }
        NbdServer::Tcp(host, port) => {
            let found = (host.as_str(), *port).to_socket_addrs().map_err(Broken::Unreachable)?;
            found.map(Address::Tcp).collect()
        }
    };
    match addresses.is_empty() {
        true => Err(Broken::Unreachable(io::Error::new(io::ErrorKind::NotFound, "no such host"))),
        false => Ok(addresses),
    }
}

/// Longest time until the kernel looks whether an idle peer is still there.
const LONGEST_IDLE: Duration = Duration::from_secs(5);

/// Begins a connection. It may still be on its way: nothing can be received until it is made, and what went
/// wrong is seen by who receives. A peer that acknowledges nothing for half of `timeout` counts as lost, so
/// that there is time to try again.
///
/// # Errors
/// There is nobody.
pub(super) fn dial(address: &Address, timeout: Duration) -> Result<OwnedFd, Broken> {
    dial_errno(address, timeout).map_err(|errno| Broken::Unreachable(errno.into()))
}

fn dial_errno(address: &Address, timeout: Duration) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let open = |family| socket_with(family, SocketType::STREAM, flags, None);
    match address {
        Address::Unix(address) => {
            let socket = open(AddressFamily::UNIX)?;
            connect(&socket, address)?;
            Ok(socket)
        }
        Address::Tcp(address) => {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = open(family)?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            let half = timeout / 2;
            // The kernel counts these in seconds.
            let idle = half.clamp(Duration::from_secs(1), LONGEST_IDLE);
            sockopt::set_socket_keepalive(&socket, true)?;
            sockopt::set_tcp_keepidle(&socket, idle)?;
            sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(1))?;
            let half = u32::try_from(half.as_millis()).unwrap_or(u32::MAX).clamp(1, i32::MAX as u32);
            sockopt::set_tcp_user_timeout(&socket, half)?;
            match connect(&socket, address) {
                Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
                Err(errno) => Err(errno),
            }
        }
    }
}

/// Sends what fits; 0 when nothing does now.
///
/// # Errors
/// The connection is lost.
pub(super) fn send_some(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Broken> {
    match send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(errno) => Err(Broken::Failed(errno.into())),
    }
}

/// Receives what is there; 0 when nothing is now.
///
/// # Errors
/// The connection is lost.
pub(super) fn receive_some(socket: &OwnedFd, room: &mut [u8]) -> Result<usize, Broken> {
    match recv(socket, room, RecvFlags::empty()) {
        Ok((0, _)) => Err(Broken::Closed),
        Ok((received, _)) => Ok(received),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(Errno::CONNREFUSED) => Err(Broken::Unreachable(Errno::CONNREFUSED.into())),
        Err(errno) => Err(Broken::Failed(errno.into())),
    }
}
