//! Why the controller refuses a call.

use super::super::control::{ActionError, LaunchError};
use crate::vm::config::{ConfigError, Mib};

/// Why a call is refused. The phase sentences are those that clients of Firecracker know.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Too late.
    #[error("The requested operation is not supported after starting the microVM.")]
    AfterStart,
    /// Too early.
    #[error("The requested operation is not supported before starting the microVM.")]
    BeforeStart,
    /// A change that changes nothing.
    #[error("PATCH /machine-config names no field: name one that is to change.")]
    NothingToChange,
    /// The log has a place.
    #[error("The log was configured before, which can be done once: start Aerostat anew to change it.")]
    LoggerTwice,
    /// Metrics have a place.
    #[error("Metrics were configured before, which can be done once: start Aerostat anew to change them.")]
    MetricsTwice,
    /// There is none.
    #[error("This guest has no swap device; configure one before it starts.")]
    NoSwap,
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The guest cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The guest cannot do it.
    #[error(transparent)]
    Action(#[from] ActionError),
    /// There is no balloon.
    #[error("The guest has no balloon: give it one with PUT /balloon (or --balloon) before it starts.")]
    NoBalloon,
    /// There is no such drive.
    #[error("The guest has no drive \"{0}\": it has those that PUT /drives (or --disk) gave it.")]
    NoDrive(String),
    /// There is no such network interface.
    #[error(
        "The guest has no network interface \"{0}\": it has those that PUT /network-interfaces (or --net) gave it."
    )]
    NoInterface(String),
    /// The balloon was started without statistics.
    #[error(
        "Statistics of the balloon are off: set stats_polling_interval_s (--balloon-stats) before the guest starts."
    )]
    StatsOff,
    /// Statistics cannot be turned on while the guest runs.
    #[error(
        "Statistics of the balloon cannot be turned on while the guest runs: stats_polling_interval_s must stay 0."
    )]
    StatsStayOff,
    /// Statistics cannot be turned off while the guest runs.
    #[error(
        "Statistics of the balloon cannot be turned off while the guest runs: stats_polling_interval_s cannot become 0."
    )]
    StatsStayOn,
    /// The balloon was started without hinting.
    #[error("Free page hinting is off: set free_page_hinting (--balloon-hinting) before the guest starts.")]
    HintingOff,
    /// Somebody wants no memory back.
    #[error("mib is 0: say how much memory you want back.")]
    ReclaimNothing,
    /// Somebody wants more back than there is.
    #[error("The guest has {memory} of memory, and {asked} cannot be had back from it: ask for less.")]
    ReclaimTooMuch {
        /// What is wanted.
        asked: Mib,
        /// Size of guest memory.
        memory: Mib,
    },
    /// The guest did not pause.
    #[error(
        "The guest could not be paused: {cpus} of its vCPUs did not leave it in time, because they wait for a device or \
         for memory. It runs on. Wait, or give it memory, and try again."
    )]
    NotPaused {
        /// How many have not left it.
        cpus: usize,
    },
    /// The metrics file cannot be written.
    #[error("Metrics cannot be written")]
    Metrics(#[from] std::io::Error),
}
