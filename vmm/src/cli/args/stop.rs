//! Flags of `stop`.

use clap::Args;

use super::{super::size, Target};

#[derive(Debug, Args)]
pub(in crate::cli) struct StopArgs {
    /// Time for the guest to shut down by itself; 0: power it off at once
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = size::seconds, allow_negative_numbers = true)]
    pub(in crate::cli) timeout: u16,
    #[command(flatten)]
    pub(in crate::cli) target: Target,
}
