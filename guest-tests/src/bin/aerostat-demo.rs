//! README's first command, behind `ci/demo`: see [`guest_tests::demo`].

use std::process::ExitCode;

use clap::Parser;
use guest_tests::{demo, kvm_host};

/// Launches a stock Debian guest, takes half of its memory by balloon and gives it back.
#[derive(Debug, Parser)]
struct Arguments {
    /// The guest's memory in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u64,
    /// The guest's vCPUs.
    #[arg(long, default_value_t = 2)]
    cpus: u32,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aerostat-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    kvm_host::enter()?;
    demo::run(arguments.memory, arguments.cpus)
}
