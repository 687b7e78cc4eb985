//! Network: what can be asked of it, and the answers.

use serde::{Deserialize, Serialize};

use super::Latency;

/// What the host can ask of the guest's network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetRequest {
    /// Loads the driver where it is not there yet, and brings an interface up; answered with
    /// [`Link`](super::Answer::Link).
    Up {
        /// Its name; where it is missing, the only one beside `lo`.
        #[serde(default)]
        interface: Option<String>,
        /// IPv4 address and prefix, as `10.0.0.2/24`.
        address: String,
    },
    /// ICMP echo requests; answered with [`Pinged`](super::Answer::Pinged) when the last one is answered or a
    /// second old.
    Ping {
        /// IPv4 address.
        address: String,
        /// How many, at most 65536.
        count: u32,
        /// Time from one to the next.
        interval_ms: u64,
        /// Payload, at most 65507 (what IPv4 holds behind 8 bytes of ICMP header).
        bytes: u16,
    },
    /// Sends a pattern over TCP to a server that sends back what it gets, and checks it; answered with
    /// [`Echoed`](super::Answer::Echoed).
    Echo {
        /// `ADDRESS:PORT`.
        server: String,
        /// How many; a multiple of 8.
        bytes: u64,
        /// Seed of the pattern.
        seed: u64,
    },
    /// Starts a thread that sends packets as fast as they go, until all are stopped.
    FloodStart {
        /// What they are.
        kind: Flood,
        /// Payload, at most 65507.
        bytes: u16,
    },
    /// Ends all floods; answered with [`Flooded`](super::Answer::Flooded).
    FloodStop,
}

/// Packets that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flood {
    /// ICMP echo requests to an IPv4 address.
    Icmp(String),
    /// UDP datagrams to `ADDRESS:PORT`.
    Udp(String),
}

/// An interface that is up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name.
    pub interface: String,
    /// Its address, as `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Virtio feature bits that driver and device agreed on.
    pub features: Vec<u32>,
}

/// What came of a ping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinged {
    /// Requests that went out.
    pub sent: u32,
    /// Requests that were answered with their own payload, each counted once.
    pub received: u32,
    /// Answers with another payload, to nothing that was sent, or a second time.
    pub wrong: u32,
    /// From request to answer.
    pub latency: Latency,
}

/// What came of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echoed {
    /// Bytes that came back.
    pub bytes: u64,
    /// Offset of the first 8 bytes that are not what was sent.
    pub first_wrong: Option<u64>,
    /// From connecting until the last byte was back.
    pub micros: u64,
}

/// What floods did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flooded {
    /// Packets that the kernel took, of each flood in the order in which they were started.
    pub packets: Vec<u64>,
    /// Packets that it did not take, of all: no room, no memory.
    pub refused: u64,
}
