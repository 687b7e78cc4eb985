//! Benchmarks, behind `ci/bench NAME`: see [`guest_tests::bench`].

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use guest_tests::bench::{self, Run};
use guest_tests::kvm_host;

/// Measures Aerostat and its peers in turn; prints a table and writes target/bench/NAME.json.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure.
    name: Name,
    /// How often every subject is measured [default: 5, costs and swap: 3, hugepages, swap-guest and loop: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Print the report instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Time until the agent in the guest is ready, and the monitor's own memory.
    Boot,
    /// Host memory of a guest, by its size.
    Costs,
    /// Speed and cost of inflate and deflate, and what the host gets back.
    Balloon,
    /// The frame allocator: get and put, beside simpler allocators and the kernel. Needs no KVM.
    Alloc,
    /// The mover: harvest and promotion beside memcpy of the same bytes, and who waits for it. Needs no KVM.
    Migrate,
    /// Whole huge pages of memory that was given back in pieces, policy by policy. Needs no KVM.
    Hugepages,
    /// A real guest fragments itself and is ballooned by half: whole pages won back, and what stays huge.
    HugepagesGuest,
    /// Swap over NBD on a unix socket, beside other servers. Needs no KVM.
    Swap,
    /// A guest that swaps: page-in latency, swap-out speed, and what the host pays by page.
    SwapGuest,
    /// A guest with cold data shrinks by balloon and swap: what it costs the host, and whole pages won.
    Loop,
}

impl Name {
    fn needs_kvm(self) -> bool {
        !matches!(self, Name::Alloc | Name::Migrate | Name::Hugepages | Name::Swap)
    }

    /// Rounds that take some minutes.
    fn rounds(self) -> u32 {
        match self {
            Name::Hugepages | Name::SwapGuest | Name::Loop => 1,
            Name::Costs | Name::Swap => 3,
            Name::Boot | Name::Balloon | Name::Alloc | Name::Migrate | Name::HugepagesGuest => 5,
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aerostat-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let rounds = arguments.rounds.unwrap_or(arguments.name.rounds());
    let run = Run { rounds, json: arguments.json };
    if arguments.name.needs_kvm() {
        kvm_host::enter()?;
    }
    match arguments.name {
        Name::Boot => bench::boot::run(run),
        Name::Costs => bench::costs::run(run),
        Name::Balloon => bench::balloon::run(run),
        Name::Alloc => bench::alloc::run(run),
        Name::Migrate => bench::migrate::run(run),
        Name::Hugepages => bench::hugepages::run(run),
        Name::HugepagesGuest => bench::hugepages_guest::run(run),
        Name::Swap => bench::swap::run(run),
        Name::SwapGuest => bench::swap_guest::run(run),
        Name::Loop => bench::swap_loop::run(run),
    }
}
