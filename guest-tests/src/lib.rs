//! Real guests for tests, demo and benchmarks.
//!
//! ```text
//!  Spec ──start──▶ TestVm ─┬─ AgentClient ◀─ serial over stdio ─▶ guest agent (init of the initramfs)
//!  (subject, kernel,       ├─ Control     ◀─ API socket or QMP ─▶ monitor
//!   memory, disks, …)      └─ host        ◀─ /proc/PID          ─  what the host pays for it
//!   with a SwapLink, where it is to swap
//! ```
//!
//! A subject is Aerostat or, as the measure beside it, QEMU; both get the same kernel and initramfs.

pub mod agent_client;
pub mod bench;
pub mod console;
pub mod control;
pub mod cpio;
pub mod debian;
pub mod demo;
pub mod docs;
pub mod echo;
pub mod host;
pub mod http;
pub mod initramfs;
pub mod interrupted;
pub mod kernels;
pub mod kvm_host;
pub mod nbd_server;
pub mod noise;
pub mod paths;
mod process;
pub mod progress;
pub mod qmp;
pub mod report;
pub mod stats;
pub mod subject;
pub mod swap_link;
pub mod tap;
pub mod testvm;
pub mod threads;

pub use agent_client::AgentClient;
pub use guest_agent::{Answer, Churn, Content, Flood, Pages, Request};
pub use kernels::Kernel;
pub use subject::{Balloon, Disk, Image, Spec, Subject};
pub use swap_link::SwapLink;
pub use testvm::TestVm;
