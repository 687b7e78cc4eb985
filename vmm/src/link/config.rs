//! The parts of a link, and the values that are refused.

use std::net::Ipv4Addr;

use smoltcp::wire::{EthernetAddress, Ipv4Cidr};

/// The far end of a link.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Hardware address of the peer; the guest's device has another.
    pub mac: [u8; 6],
    /// Address of the peer. The guest has any other of the subnet.
    pub address: Ipv4Addr,
    /// Bits of the subnet, 1 to 30.
    pub prefix: u8,
    /// TCP port that is answered.
    pub port: u16,
    /// Connections at a time, 1 to 256; each takes 320 KiB of address space.
    pub connections: usize,
    /// Bytes of the largest IP packet on the wire, 576 to 9000 (what smoltcp is made for).
    pub mtu: u16,
    /// Start of the random numbers from which connections get their first sequence numbers.
    pub seed: u64,
}

/// Offloads that the guest's driver has acknowledged (virtio 1.3, section 5.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// `VIRTIO_NET_F_CSUM`: what the guest sends may lack its TCP checksum.
    pub csum: bool,
    /// `VIRTIO_NET_F_GUEST_CSUM`: what the guest gets may lack it.
    pub guest_csum: bool,
    /// `VIRTIO_NET_F_GUEST_TSO4`: the guest takes TCP segments of up to 64 KiB. Means nothing without
    /// `guest_csum`, which it requires (section 5.1.3.1).
    pub guest_tso4: bool,
}

/// Why there is no such link.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A group address, or none.
    #[error("The swap link's MAC address is a group address or zero: give it one of a single device.")]
    Mac,
    /// Not the address of a host in a subnet with room for a guest.
    #[error("{0}/{1} is not the address of a host with a guest beside it: use one like 169.254.7.1/30.")]
    Address(Ipv4Addr, u8),
    /// Port 0.
    #[error("The swap link's port is 0: use 10809, where NBD clients look for a server.")]
    Port,
    /// No connections, or more than 256.
    #[error("The swap link is to take {0} connections at a time, but must take 1 to 256.")]
    Connections(usize),
    /// An MTU that IPv4 or smoltcp cannot work with.
    #[error("The swap link's MTU is {0}, but must be 576 to 9000.")]
    Mtu(u16),
}

impl Config {
    /// Says what is wrong, if anything.
    ///
    /// # Errors
    /// The first thing that is not as the fields say.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !EthernetAddress(self.mac).is_unicast() || self.mac == [0; 6] {
            return Err(ConfigError::Mac);
        }
        if !(1..=30).contains(&self.prefix) || !is_host(self.cidr(), self.address) {
            return Err(ConfigError::Address(self.address, self.prefix));
        }
        if self.port == 0 {
            return Err(ConfigError::Port);
        }
        if !(1..=256).contains(&self.connections) {
            return Err(ConfigError::Connections(self.connections));
        }
        if !(576..=9000).contains(&self.mtu) {
            return Err(ConfigError::Mtu(self.mtu));
        }
        Ok(())
    }

    /// Address and subnet. The prefix must be valid.
    pub(super) fn cidr(&self) -> Ipv4Cidr {
        Ipv4Cidr::new(self.address, self.prefix)
    }
}

/// Whether an address is that of a single host of the subnet.
pub(super) fn is_host(subnet: Ipv4Cidr, address: Ipv4Addr) -> bool {
    subnet.contains_addr(&address)
        && address != subnet.network().address()
        && Some(address) != subnet.broadcast()
        && !address.is_multicast()
        && !address.is_unspecified()
}
