//! The command line, described to shells and to readers of manuals.

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Outcome, args::Cli, output};

/// Prints a script by which a shell completes this command line.
pub(super) fn completions(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "aerostat", &mut script);
    output::print(&String::from_utf8(script).context("The completions are no text")?)
}

/// Writes a page of section 1 for each command into a directory.
pub(super) fn man(directory: &Path) -> Outcome {
    clap_mangen::generate_to(Cli::command(), directory).with_context(|| {
        format!(
            "The manual pages cannot be written to {}: name a directory that is there",
            directory.display()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
