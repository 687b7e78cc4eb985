//! The command line. Two forms share one program:
//!
//! ```text
//! aerostat --api-sock PATH [--id ID] [--config-file F] [--no-api]   as Firecracker: serve.rs
//! aerostat run | balloon | memory | swap | check | bench            for people
//! ```
//!
//! Exit codes: 0 all is well (also: the guest powered off or reset, or a signal ended us), 1 an
//! error, which one sentence on standard error explains, 3 the guest's kernel panicked.

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

use clap::{Parser, error::ErrorKind};

use crate::api::{control::Launcher, openapi};
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
        Err(error) => return usage(&error, args.iter().any(|arg| arg == "--json")),
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
fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Nobody to tell if standard output is closed.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    output::failure(anyhow::anyhow!(mistake(error)).as_ref(), json)
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
