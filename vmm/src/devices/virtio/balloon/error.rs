//! Why the balloon cannot do what the operator asks.

/// One sentence for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BalloonError {
    /// More than the guest has.
    #[error("a balloon of {asked} MiB does not fit into {ram} MiB of guest memory; ask for less")]
    TooLarge {
        /// What was asked, in MiB.
        asked: u32,
        /// Guest RAM, in MiB.
        ram: u32,
    },
    /// There is no statistics queue.
    #[error("statistics are off; give the balloon a stats_polling_interval_s above 0 before the start")]
    StatsOff,
    /// The statistics queue cannot be taken away from a running guest.
    #[error("statistics cannot be turned off after the start; choose an interval above 0")]
    StatsStayOn,
    /// There is no hinting queue.
    #[error("free page hinting is off; set free_page_hinting on the balloon before the start")]
    HintingOff,
    /// The guest's driver has not said that it knows hinting.
    #[error("the guest's driver does not do free page hinting, or is not loaded yet")]
    HintingNotDriven,
}
