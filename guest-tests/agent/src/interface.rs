//! Network interfaces: an address, up, and what the kernel says of them.

#![allow(unsafe_code, reason = "ioctl(2) is called directly")]

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::str::FromStr;

/// An IPv4 address and how many of its bits are the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of the prefix, 0 to 32.
    pub prefix: u8,
}

impl Cidr {
    fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0))
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
            Some(Self { address: address.parse().ok()?, prefix })
        });
        parsed.ok_or_else(|| format!("{text:?} is no address with a prefix, as 10.0.0.2/24"))
    }
}

/// Gives an interface its address and brings it up.
///
/// # Errors
/// It is not there, or this process may not.
pub fn bring_up(name: &str, cidr: Cidr) -> io::Result<()> {
    // Any socket will do.
    let socket =
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_addr = socket_address(cidr.address);
    ioctl(&socket, libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_netmask = socket_address(cidr.mask());
    ioctl(&socket, libc::SIOCSIFNETMASK, &mut request)?;
    ioctl(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has just written the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // IFF_UP is 1.
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    ioctl(&socket, libc::SIOCSIFFLAGS, &mut request)
}

/// A request about the interface of this name.
///
/// # Errors
/// The name has more than 15 bytes or none.
pub fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq is plain numbers and unions of such; all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is no name of an interface"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// An ioctl that takes an `ifreq`: those of netdevice(7), and `TUNSETIFF`.
///
/// # Errors
/// As the kernel says.
pub fn ioctl(file: &impl AsFd, command: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads and writes one ifreq, which is ours.
    match unsafe { libc::ioctl(file.as_fd().as_raw_fd(), command, std::ptr::from_mut(request)) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets().map(u8::cast_signed);
    // AF_INET is 2. As sockaddr_in: port (2 bytes), address (4 bytes), padding.
    let sa_data = [0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0];
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data }
}

/// A file of the interface in sysfs, as text without the end of line.
///
/// # Errors
/// The interface is not there, or is down and cannot tell.
pub fn sysfs(name: &str, file: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(format!("/sys/class/net/{name}/{file}"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_with_a_prefix_of_at_most_32_bits() -> Result<(), String> {
        let cidr: Cidr = "10.1.2.3/20".parse()?;
        assert_eq!((cidr.address, cidr.prefix), (Ipv4Addr::new(10, 1, 2, 3), 20));
        assert_eq!(cidr.mask(), Ipv4Addr::new(255, 255, 240, 0));
        assert_eq!("0.0.0.0/0".parse::<Cidr>()?.mask(), Ipv4Addr::UNSPECIFIED);
        assert_eq!("1.1.1.1/32".parse::<Cidr>()?.mask(), Ipv4Addr::BROADCAST);
        for wrong in ["10.1.2.3", "10.1.2.3/33", "10.1.2/8", "/8", "10.1.2.3/"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong:?}");
        }
        Ok(())
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        assert!(request("eth0").is_ok() && request("fifteen-letters").is_ok());
        assert!(request("").is_err() && request("sixteen--letters").is_err());
    }
}
