//! Bodies on the socket, apart from the configuration itself (see [`crate::vm::config`]). The names of fields
//! are Firecracker's.

use std::{borrow::Cow, path::PathBuf};

use memsvc::{
    core::page_type::PageType,
    stats::{FramesByType, ReserveInfo},
    swap::SwapStats,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::devices::virtio::balloon::{GuestStats, HintingStatus};
use crate::vm::config::{HugePages, Mib, RateLimiter};

/// `GET /`: what this process is and what its guest is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceInfo {
    /// The id given on the command line.
    pub id: String,
    /// Whether the guest runs.
    pub state: InstanceState,
    /// Version of Firecracker whose API this program speaks.
    pub vmm_version: String,
    /// Name of this program.
    pub app_name: String,
}

/// Whether the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum InstanceState {
    /// It is being configured.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its vCPUs run.
    Running,
    /// Its vCPUs are stopped.
    Paused,
}

impl InstanceState {
    /// The state as the API calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotStarted => "Not started",
            Self::Running => "Running",
            Self::Paused => "Paused",
        }
    }
}

/// `GET /version`. The field has the name that Firecracker's clients look for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Version of Firecracker whose API this program speaks.
    pub firecracker_version: String,
}

/// `GET /swap`: the swap device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SwapReport {
    /// What is stored, what the guest asked for, and how long that took.
    #[serde(flatten)]
    pub stats: SwapStats,
    /// The reserve from which swap goes on when memory is short, as in `GET /memory/zone`.
    pub reserve: ReserveInfo,
    /// Counters of what the guest sees of it.
    #[serde(flatten)]
    pub front: SwapFrontCounters,
}

/// Counters of what the guest sees of its swap device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SwapFrontCounters {
    /// Of the link on which the guest asks: what came and went, and what was dropped.
    #[schema(value_type = Object)]
    Link(serde_json::Value),
    /// Of the disk.
    #[schema(value_type = Object)]
    Disk(serde_json::Value),
}

/// `PATCH /vm`: stop the vCPUs or let them go on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmUpdate {
    /// What is wanted.
    pub state: WantedState,
}

/// What `PATCH /vm` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum WantedState {
    /// Stop the vCPUs.
    Paused,
    /// Let the vCPUs go on.
    Resumed,
}

/// What `GET /console` turns a connection into.
pub const CONSOLE_PROTOCOL: &str = "aerostat-console";

/// `PATCH /machine-config`: what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineConfigUpdate {
    /// Number of vCPUs, 1 to 32; with `smt` 1 or even.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpu_count: Option<u32>,
    /// Guest memory in MiB. Less than 64, or an odd number, is rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_size_mib: Option<Mib>,
    /// Simultaneous multithreading: kept, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smt: Option<bool>,
    /// Dirty page tracking: kept, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track_dirty_pages: Option<bool>,
    /// Which huge pages are asked for: kept, and without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huge_pages: Option<HugePages>,
    /// CPU template: only `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<String>,
}

/// `PATCH /drives/{drive_id}`: another file behind a disk, or the same one, which has grown or shrunk; the guest hears of
/// the size. New limits, as for a network interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DriveUpdate {
    /// The drive, as in the path.
    pub drive_id: String,
    /// A raw image or a block device; the one that is there stays if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub path_on_host: Option<PathBuf>,
    /// Limits on requests and what they move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<RateLimiter>,
}

/// `PATCH /network-interfaces/{iface_id}`: new limits. Buckets that are left out stay as they are, those that
/// are given begin full; one whose `size` or `refill_time` is 0 takes the limit away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterfaceUpdate {
    /// The interface, as in the path.
    pub iface_id: String,
    /// Limits on what the guest receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_rate_limiter: Option<RateLimiter>,
    /// Limits on what the guest sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// `PUT /actions`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// What is to be done.
    pub action_type: ActionType,
}

/// What `PUT /actions` can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum ActionType {
    /// Start the guest.
    InstanceStart,
    /// Write metrics now.
    FlushMetrics,
    /// Press Ctrl+Alt+Del on the guest's keyboard.
    SendCtrlAltDel,
}

/// `PATCH /balloon`: give the balloon a new size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BalloonUpdate {
    /// What the guest is asked to give up; at most its memory.
    pub amount_mib: Mib,
}

/// `PATCH /balloon/statistics`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BalloonStatsUpdate {
    /// Seconds between two readings; cannot go between 0 and another value.
    pub stats_polling_interval_s: u16,
}

/// `PATCH /balloon/hinting/start`; the body may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HintingStart {
    /// Whether the guest may use its pages again as soon as its list is complete.
    #[serde(default = "yes")]
    pub acknowledge_on_stop: bool,
}

impl Default for HintingStart {
    fn default() -> Self {
        Self { acknowledge_on_stop: true }
    }
}

fn yes() -> bool {
    true
}

/// `GET /balloon/statistics`: ours, and what the guest told last. Unset fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BalloonStats {
    /// Pages of 4 KiB that the guest is asked to give up.
    pub target_pages: u64,
    /// Pages of 4 KiB that it has given up.
    pub actual_pages: u64,
    /// The target in MiB.
    pub target_mib: Mib,
    /// What it has given up, in MiB.
    pub actual_mib: Mib,
    /// Of that, what the host has back, in MiB: all but pages given up in huge pages that are still whole, and free pages in
    /// pieces of others. Those count whoever gave them up. Compaction brings them, seconds later.
    pub host_freed_mib: Mib,
    /// What the guest told last.
    #[serde(flatten)]
    pub guest: GuestStats,
}

/// `PUT /memory/compact`; the body may be left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompactRequest {}

/// `PUT /memory/reclaim`: memory that the host wants back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReclaimRequest {
    /// How much: more than 0, and at most the guest's memory.
    pub mib: Mib,
}

/// `GET /memory`: what the memory service has and did, and how far the balloon is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MemoryReport {
    /// How far the balloon is; left out if the guest has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon_device: Option<BalloonProgress>,
    /// What the memory service says.
    #[serde(flatten)]
    pub memory: memsvc::MemoryStats,
}

/// How far the balloon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BalloonProgress {
    /// What the guest is asked to give up.
    pub target_mib: Mib,
    /// What it has given up.
    pub actual_mib: Mib,
    /// Of that, what the host has back, as in `GET /balloon/statistics`.
    pub host_freed_mib: Mib,
}

/// Frames by page type, as pairs; in the order of the types' values.
pub(crate) fn by_page_type(frames: &FramesByType) -> [(PageType, u64); PageType::COUNT] {
    let &FramesByType { buddy, stash, guest, balloon, r#return, kmem, slab, movable_slab } = frames;
    let counts = [buddy, stash, guest, balloon, r#return, kmem, slab, movable_slab];
    std::array::from_fn(|index| (PageType::ALL[index], counts[index]))
}

/// Who is charged, by number, as people call it.
pub(crate) fn owner_name(owner: u8) -> Cow<'static, str> {
    match owner {
        0 => "monitor".into(),
        1 => "guest".into(),
        other => other.to_string().into(),
    }
}

/// The body of every answer that is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FaultMessage {
    /// One sentence that says what is wrong.
    pub fault_message: String,
}
