//! Flags of the commands that talk to a running guest, and of `check`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{super::size, TuningArgs};
use crate::vm::config::Mib;

/// Whom a client command talks to, and how it answers.
#[derive(Debug, Args)]
pub(in crate::cli) struct Target {
    /// The guest, as aerostat list calls it [default: the only one that runs]
    #[arg(long = "id", value_name = "ID", conflicts_with = "api_sock", value_parser = size::guest)]
    pub(in crate::cli) guest: Option<String>,
    /// Socket of the guest's API, instead [default: $AEROSTAT_API_SOCK, if it is set]
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) api_sock: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BalloonArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: BalloonCommand,
}

/// Whom to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum WaitFor {
    /// The guest, which gives memory up or takes it back
    Guest,
    /// The host, too, which gets what was given up in pieces only when it has been compacted
    Host,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BalloonCommand {
    /// Ask the guest to give up this much memory in all; 0 gives all back
    Set {
        /// Size of the balloon: 256M, 1.5G, or a number of MiB
        #[arg(value_name = "SIZE", value_parser = size::size, allow_negative_numbers = true)]
        amount: Mib,
        /// Wait until the guest has done so, or, with "host", until the host has that memory, too: all that compaction wins
        /// of it. An error once it gets no further for 10 seconds
        #[arg(long, value_name = "WHOM", num_args = 0..=1, require_equals = true, default_missing_value = "guest")]
        wait: Option<WaitFor>,
        #[command(flatten)]
        target: Target,
    },
    /// Show the balloon
    Get(Target),
    /// Show the statistics that the guest told last
    Stats(Target),
}

impl BalloonArgs {
    pub(super) fn target(&self) -> &Target {
        match &self.command {
            BalloonCommand::Set { target, .. }
            | BalloonCommand::Get(target)
            | BalloonCommand::Stats(target) => target,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MemoryArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: MemoryCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum MemoryCommand {
    /// Show arena, blocks, frames, and counters
    Show(Target),
    /// Show free chunks by order and how fragmented memory is, as /proc/buddyinfo
    Buddy(Target),
    /// Show free chunks by migrate type, frames by page type and charges, as /proc/pagetypeinfo
    Types(Target),
    /// Show watermarks, reserve, per-CPU lists and counters, as /proc/zoneinfo
    Zone(Target),
    /// Show the slab caches, as /proc/slabinfo
    Slabs(Target),
    /// Show how compaction is tuned and what it did; with a flag, tune it first
    Compaction {
        #[command(flatten)]
        tuning: TuningArgs,
        #[command(flatten)]
        target: Target,
    },
    /// Make all the whole huge pages that can be made: for the guest, and for the host
    Compact(Target),
    /// Give memory that the guest does not use back to the host, in whole huge pages
    Reclaim {
        /// How much: 256M, 1.5G, or a number of MiB
        #[arg(value_name = "SIZE", value_parser = size::reclaim, allow_negative_numbers = true)]
        amount: Mib,
        #[command(flatten)]
        target: Target,
    },
}

impl MemoryArgs {
    pub(super) fn target(&self) -> &Target {
        match &self.command {
            MemoryCommand::Show(target)
            | MemoryCommand::Buddy(target)
            | MemoryCommand::Types(target)
            | MemoryCommand::Zone(target)
            | MemoryCommand::Slabs(target)
            | MemoryCommand::Compaction { target, .. }
            | MemoryCommand::Compact(target)
            | MemoryCommand::Reclaim { target, .. } => target,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    /// Answer in JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
