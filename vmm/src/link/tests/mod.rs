//! The peer against a guest whose TCP is smoltcp's, too, over links of all sorts.

mod alloc;
mod crowd;
mod filter;
mod frames;
mod guest;
mod hostile;
mod net;
mod netsim;
mod offload;
mod pattern;
mod rabble;
mod room;
mod swap;
mod swapper;

use std::net::Ipv4Addr;

use super::{Config, Offloads};

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEER: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 2);
const PORT: u16 = 10809;
const MTU: usize = 1500;

const NO_OFFLOADS: Offloads = Offloads { csum: false, guest_csum: false, guest_tso4: false };
const ALL_OFFLOADS: Offloads = Offloads { csum: true, guest_csum: true, guest_tso4: true };

fn config() -> Config {
    Config { mac: PEER_MAC, address: PEER, prefix: 30, port: PORT, connections: 4, mtu: MTU as u16, seed: 7 }
}
