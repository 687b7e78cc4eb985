//! Swap on a network block device: what can be asked of it, and the answer.

use serde::{Deserialize, Serialize};

/// What the host can ask of the guest's swap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapRequest {
    /// Connects the kernel's NBD client; answered with [`Connected`](super::Answer::Connected).
    Connect {
        /// `ADDRESS:PORT`.
        server: String,
        /// Name of the export.
        export: String,
        /// Number of connections, 1 to 16. More than one needs a server that says that it can.
        connections: u32,
    },
    /// Disconnects a device.
    Disconnect {
        /// Name without `/dev/`.
        device: String,
    },
    /// Writes a swap header and turns swap on. The agent locks itself into memory first, and whatever it
    /// has mapped by then, so no region may exist.
    On {
        /// Name without `/dev/`.
        device: String,
        /// Whether slots that become free are discarded.
        discard: bool,
    },
    /// Turns swap off, which brings all pages back.
    Off {
        /// Name without `/dev/`.
        device: String,
    },
}

/// A network block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NbdDevice {
    /// Name without `/dev/`.
    pub device: String,
    /// Size of the export.
    pub bytes: u64,
    /// The server's transmission flags.
    pub flags: u16,
}
