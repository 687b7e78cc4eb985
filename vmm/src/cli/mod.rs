//! The command line. Two forms share one program:
//!
//! ```text
//! aerostat --api-sock PATH [--id ID] [--config-file F] [--no-api]   as Firecracker: serve.rs
//! aerostat run | list | pause | resume | stop | balloon | …         for people
//! aerostat completions | man                                       for ci/install
//! ```
//!
//! Exit codes: 0 all is well (also: the guest powered off or reset, or a signal ended us), 1 an
//! error, which one sentence on standard error explains, 3 the guest's kernel panicked. Wrong arguments: 2, and without a
//! command Firecracker's 153.

mod args;
mod balloon;
mod bench;
pub mod check;
mod console;
mod described;
mod list;
mod memory;
mod memory_failure;
mod mistake;
mod output;
mod run;
mod serve;
mod session;
mod signals;
mod size;
mod state;
mod stop;
mod swap;
mod table;
mod target;

pub use output::JSON_VERSION;

use std::{ffi::OsString, process::ExitCode, sync::Arc};

use clap::Parser;

use crate::api::{control::Launcher, openapi, types::WantedState};
use args::{Cli, Command};
use check::CheckReport;

/// What a command comes to: an exit code, or an error that [`main`] prints.
type Outcome = anyhow::Result<ExitCode>;

/// The whole program: reads the arguments of the process and does what they say.
pub fn main(launcher: Arc<dyn Launcher>, check: fn() -> CheckReport) -> ExitCode {
    main_with(std::env::args_os(), launcher, check)
}

fn main_with(
    args: impl IntoIterator<Item = OsString>,
    launcher: Arc<dyn Launcher>,
    check: fn() -> CheckReport,
) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return mistake::answer(&error, &args),
    };
    let json = cli.json();
    let outcome = match cli.command {
        None => serve::serve(cli.serve, launcher),
        Some(Command::Run(args)) => run::run(args, launcher),
        Some(Command::Balloon(args)) => balloon::balloon(args),
        Some(Command::Memory(args)) => memory::memory(args),
        Some(Command::Swap(args)) => swap::swap(args),
        Some(Command::Check(args)) => check::check(&args, check()),
        Some(Command::Bench(args)) => bench::bench(args),
        Some(Command::Completions { shell }) => described::completions(shell),
        Some(Command::Man { directory }) => described::man(&directory),
        Some(Command::List(args)) => list::list(&args),
        Some(Command::Pause(target)) => state::set(&target, WantedState::Paused),
        Some(Command::Resume(target)) => state::set(&target, WantedState::Resumed),
        Some(Command::Console(target)) => console::console(&target),
        Some(Command::Stop(args)) => stop::stop(&args),
        Some(Command::Openapi) => {
            openapi::generate().map_err(Into::into).and_then(|text| output::print(&text))
        }
    };
    outcome.unwrap_or_else(|error| output::failure(error.as_ref(), json))
}

#[cfg(test)]
mod tests;
