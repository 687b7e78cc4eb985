//! The API's needs of the rest of the monitor: something that starts a guest, and the guest that runs. The
//! [`Controller`](super::controller::Controller) calls them, one call at a time, never from an event loop. No
//! call waits for a device or for the guest, but for [`RunningVm::pause`], which has a limit.

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use memsvc::{
    MemoryStats,
    core::compact::Tuning,
    stats::{BuddyInfo, Compacted, CompactionInfo, Reclaimed, SlabInfo, TypeInfo, ZoneInfo},
    swap::SwapStats,
};

use super::types::{GuestStats, HintingStatus, SwapFrontCounters};
use crate::devices::legacy::Attached;
use crate::devices::virtio::net::Taps;
use crate::vm::{
    config::{Mib, RateLimiter, VmConfig},
    exit::ExitSlot,
};

/// Starts guests.
pub trait Launcher: Send + Sync {
    /// Builds the machine that `config` describes and lets its vCPUs run. The configuration has been
    /// validated. On an error nothing is left behind. Its TAP interfaces are in `taps`, or are opened, and stay there. The reason
    /// for a later end of the guest is said in `exit`.
    fn launch(
        &self,
        id: &str,
        config: &VmConfig,
        taps: &mut Taps,
        exit: &Arc<ExitSlot>,
    ) -> Result<Box<dyn RunningVm>, LaunchError>;
}

/// A guest that was started. Dropping it stops its threads, gives its memory back and restores the
/// terminal. Balloon calls come only if the configuration has a balloon with what they need.
pub trait RunningVm: Send {
    /// Stops all vCPUs; returns when none is in the guest any more, or after this time. How many have not stopped:
    /// they will as soon as they can.
    fn pause(&mut self, limit: Duration) -> usize;
    /// Lets the vCPUs go on, whether all have stopped or not. No-op if running.
    fn resume(&mut self);
    /// Whether all vCPUs have stopped.
    fn is_paused(&self) -> bool;

    /// Asks the guest for this much memory; does not wait for it. At most the guest's memory.
    fn set_balloon(&mut self, amount: Mib) -> Result<(), ActionError>;
    /// Frames that the guest has given up to the balloon, by our own ledger.
    fn balloon_pages(&self) -> u64;
    /// Of these, frames that the host has back.
    fn host_freed_pages(&self) -> u64;
    /// The statistics that the guest told last; only if an interval is set.
    fn balloon_stats(&self) -> Result<GuestStats, ActionError>;
    /// Sets the seconds between two readings of statistics, and has the guest asked now; never 0.
    fn set_stats_interval(&mut self, seconds: u16) -> Result<(), ActionError>;
    /// The way to ask the guest for statistics, if it has a balloon.
    fn statistics(&self) -> Option<Arc<dyn Statistics>>;
    /// Begins a run of free page hinting.
    fn hinting_start(&mut self, acknowledge_on_stop: bool) -> Result<(), ActionError>;
    /// Ends the run of free page hinting.
    fn hinting_stop(&mut self) -> Result<(), ActionError>;
    /// The commands of host and guest.
    fn hinting_status(&self) -> Result<HintingStatus, ActionError>;

    /// Puts another file, if one is named, behind a drive that the guest has, and sets new limits. Those left out stay.
    fn update_drive(
        &mut self,
        drive_id: &str,
        path: Option<&Path>,
        limits: RateLimiter,
    ) -> Result<(), ActionError>;
    /// Sets new limits on what the guest receives and sends through a network interface that it has. What is
    /// left out stays.
    fn limit_network(&mut self, iface_id: &str, rx: RateLimiter, tx: RateLimiter) -> Result<(), ActionError>;

    /// What the memory service has and did.
    fn memory_stats(&self) -> MemoryStats;
    /// The allocator's free chunks by order.
    fn buddy_info(&self) -> BuddyInfo;
    /// Its free chunks and frames by type, and who is charged.
    fn type_info(&self) -> TypeInfo;
    /// Its watermarks, reserve, per-CPU lists and counters.
    fn zone_info(&self) -> ZoneInfo;
    /// Its slab caches.
    fn slab_info(&self) -> SlabInfo;
    /// What its swap device stores, and what the guest sees of it did; `None` if it has none.
    fn swap_stats(&self) -> Option<(SwapStats, SwapFrontCounters)>;
    /// How its compaction is tuned, and what it did.
    fn compaction_info(&self) -> CompactionInfo;
    /// Tunes it, from the next block on.
    fn tune_compaction(&mut self, tuning: Tuning) -> Result<(), ActionError>;
    /// What compacts it.
    fn compaction(&self) -> Arc<dyn Compaction>;
    /// Presses Ctrl+Alt+Del on the guest's keyboard controller.
    fn send_ctrl_alt_del(&mut self) -> Result<(), ActionError>;
    /// Attaches a client to the guest's console.
    fn attach_console(&mut self) -> Result<Attached, ActionError>;
    /// All counters of devices and vCPUs, as one JSON object.
    fn metrics(&self) -> serde_json::Map<String, serde_json::Value>;
}

/// Asks the guest for statistics. It takes its time to tell them: the controller hands this out, and is free meanwhile.
pub trait Statistics: Send + Sync {
    /// Has it asked now; says how often it has told some before.
    fn ask(&self) -> u64;
    /// How often it has told some.
    fn told(&self) -> u64;
}

/// Makes whole blocks of a guest's memory. That takes long: the controller hands this out, and is free
/// for other calls meanwhile. `goes_on` is asked before each block.
pub trait Compaction: Send + Sync {
    /// Makes all that can be made.
    fn compact(&self, goes_on: &dyn Fn() -> bool) -> Compacted;
    /// Gives so many bytes back to the host, if there are as many that nobody uses.
    fn reclaim(&self, bytes: u64, goes_on: &dyn Fn() -> bool) -> Reclaimed;
}

/// Why a guest could not be started. The source is one clear sentence that says what to do.
#[derive(Debug, thiserror::Error)]
#[error("The microVM cannot be started")]
pub struct LaunchError(#[source] Box<dyn Error + Send + Sync>);

impl LaunchError {
    /// Wraps what went wrong: an error, or a sentence.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Why a running guest could not do what it was asked: one sentence, and the cause if there is one.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct ActionError {
    sentence: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ActionError {
    /// A refusal that needs no further cause.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), source: None }
    }

    /// A failure with its cause; the sentence has no full stop, the cause follows.
    pub fn caused(sentence: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { sentence: sentence.into(), source: Some(cause.into()) }
    }
}
