//! The program's words: answers on standard output, errors on standard error.

use std::{error::Error, io::Write, process::ExitCode};

use anyhow::Context;
use serde::Serialize;
use utoipa::ToSchema;

use super::Outcome;
use crate::{api::sentence, vm::exit::Exit};

/// Version of what `--json` prints: docs/json.md. It rises when a field goes away or means something else.
pub const JSON_VERSION: u32 = 1;

/// An answer, after the version of its form.
#[derive(Serialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    answer: T,
}

impl<T> Versioned<T> {
    const fn of(answer: T) -> Self {
        Self { version: JSON_VERSION, answer }
    }
}

/// On standard error: why a command failed.
#[derive(Serialize, ToSchema)]
pub(super) struct Failure {
    /// One sentence.
    error: String,
}

/// On standard error: why the guest ended.
#[derive(Serialize, ToSchema)]
pub(super) struct End {
    /// `power_off`, `reset`, `panic`, `error` or `signal`.
    exit: &'static str,
    /// Exit code of the process.
    code: u8,
    /// One sentence.
    message: String,
}

/// Columns of the terminal on which answers are printed; none where that is a file or a pipe.
pub(super) fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// Prints an answer as it is.
pub(super) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("The answer cannot be written to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// Prints an answer as JSON, or as the text that `human` makes of it.
pub(super) fn answer<T: Serialize>(json: bool, value: &T, human: impl FnOnce(&T) -> String) -> Outcome {
    if json {
        let text = serde_json::to_string_pretty(&Versioned::of(value)).context("The answer is no JSON")?;
        print(&format!("{text}\n"))
    } else {
        print(&human(value))
    }
}

/// Says one sentence on standard error.
pub(super) fn complain(text: &str) {
    // Nobody to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "aerostat: {text}");
}

/// The same for a program: one line.
fn complain_in_json(what: impl Serialize) {
    // All that is told here can be written as JSON.
    if let Ok(line) = serde_json::to_string(&Versioned::of(what)) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Says what failed.
pub(super) fn failure(error: &(dyn Error + 'static), json: bool) -> ExitCode {
    let text = sentence(error);
    if json {
        complain_in_json(Failure { error: text });
    } else {
        complain(&text);
    }
    ExitCode::FAILURE
}

/// Says why the guest ended.
pub(super) fn ended(exit: &Exit, json: bool) -> ExitCode {
    if json {
        complain_in_json(End { exit: exit.name(), code: exit.code(), message: exit.to_string() });
    } else {
        complain(&exit.to_string());
    }
    ExitCode::from(exit.code())
}
