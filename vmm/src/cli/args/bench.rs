//! Flags of the benchmarks.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::super::size;
use crate::{
    bench::{Pattern, Policy},
    vm::config::Mib,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchArgs {
    #[command(subcommand)]
    pub(in crate::cli) command: BenchCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BenchCommand {
    /// Ask for whole 2 MiB pages of memory that was given back in pieces. Figures say how many can be had, how long
    /// each takes, and how much is copied. Needs no guest and no KVM, but with --guest
    Hugepages(HugepagesArgs),
}

impl BenchArgs {
    pub(super) fn json(&self) -> bool {
        let BenchCommand::Hugepages(args) = &self.command;
        args.json
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HugepagesArgs {
    /// Memory to fill: 512M, 1.5G, or a number of MiB; 128 MiB at least. The host must have it free
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::memory)]
    pub(in crate::cli) memory: Mib,
    /// Policies that make whole pages, each in turn: off, scanner, occupancy, or kernel (plain memory, MADV_COLLAPSE)
    #[arg(
        long,
        value_name = "POLICY,...",
        value_delimiter = ',',
        default_value = "off,scanner,occupancy,kernel"
    )]
    pub(in crate::cli) policy: Vec<Policy>,
    /// Shares of the memory that are filled with pages that cannot be moved: percentages, 0 to 50
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', default_value = "0,1,5", value_parser = size::share)]
    pub(in crate::cli) unmovable: Vec<u32>,
    /// Parts of the memory that are given back: every second group of 128 frames (group), every second frame
    /// (every), or a random half (half)
    #[arg(long, value_name = "PATTERN,...", value_delimiter = ',', default_value = "group")]
    pub(in crate::cli) pattern: Vec<Pattern>,
    /// A real guest of 1 GiB fragments itself, is ballooned by half, takes that back and uses it, beside QEMU. Figures
    /// say what the host has back in whole pages, and what the guest is backed with. Takes some minutes, in a
    /// repository where ci/build has run, which `aerostat-bench` beside this program comes from
    #[arg(long, conflicts_with_all = ["memory", "policy", "unmovable", "pattern", "svg"])]
    pub(in crate::cli) guest: bool,
    /// Draw success and latency, step by step, into this file
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) svg: Option<PathBuf>,
    /// Answer in JSON; times are in microseconds
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
