//! The command line. Two forms share one program:
//!
//! ```text
//! aerostat --api-sock PATH [--id ID] [--config-file F] [--no-api]   as Firecracker: serve.rs
//! aerostat run | balloon | memory | swap | check | bench            for people
//! ```
//!
//! Exit codes: 0 all is well (also: the guest powered off or reset, or a signal ended us), 1 an
//! error, which one sentence on standard error explains, 3 the guest's kernel panicked. Wrong arguments: 2, and without a
//! command Firecracker's 153.

mod args;
mod balloon;
mod bench;
pub mod check;
mod memory;
mod memory_failure;
mod output;
mod run;
mod serve;
mod session;
mod signals;
mod size;
mod swap;
mod table;

use std::{ffi::OsString, process::ExitCode, sync::Arc};

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::api::{
    control::Launcher,
    controller::{API_VERSION, VERSION},
    openapi,
};
use args::{Cli, Command};
use check::CheckReport;

/// Exit code for wrong arguments of Firecracker's form; its clients know it.
const BAD_ARGUMENTS: u8 = 153;
/// The same for a command, as is usual.
const BAD_USAGE: u8 = 2;

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
        Err(error) => return usage(&error, &args),
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
        Some(Command::Openapi) => {
            openapi::generate().map_err(Into::into).and_then(|text| output::print(&text))
        }
    };
    outcome.unwrap_or_else(|error| output::failure(error.as_ref(), json))
}

/// Help and version go to standard output; a mistake is said in one sentence.
fn usage(error: &clap::Error, args: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp => {
            // Nobody to tell if standard output is closed.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayVersion => {
            let _ = output::print(&version());
            ExitCode::SUCCESS
        }
        _ => {
            let json = args.iter().any(|arg| arg == "--json");
            output::failure(anyhow::anyhow!(mistake(error)).as_ref(), json);
            ExitCode::from(if names_command(args) { BAD_USAGE } else { BAD_ARGUMENTS })
        }
    }
}

/// What `--version` says. Clients read the version of Firecracker off the first line, in which nothing else may be.
fn version() -> String {
    format!(
        "Firecracker v{API_VERSION}\n\nAerostat v{VERSION}, with the API of that version of Firecracker\n"
    )
}

/// Whether the arguments are those of a command.
fn names_command(args: &[OsString]) -> bool {
    let command = args.get(1).and_then(|arg| arg.to_str());
    command.is_some_and(|name| Cli::command().find_subcommand(name).is_some())
}

/// The first paragraph of clap's message, as one sentence.
fn mistake(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "The command is incomplete; see aerostat --help.".to_owned();
    }
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut words = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let first = words.next().unwrap_or_default();
    let mut sentence = first.chars().take(1).flat_map(char::to_uppercase).collect::<String>();
    sentence.extend(first.chars().skip(1));
    for line in words {
        sentence.push(' ');
        sentence.push_str(line);
    }
    format!("{}; see aerostat --help.", sentence.trim_end_matches('.'))
}

#[cfg(test)]
mod tests;
