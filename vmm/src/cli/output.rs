//! The program's words: answers on standard output, errors on standard error.

use std::{error::Error, io::Write, process::ExitCode};

use anyhow::Context;
use serde::Serialize;

use super::Outcome;
use crate::{api::sentence, vm::exit::Exit};

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
        let text = serde_json::to_string_pretty(value).context("The answer is no JSON")?;
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

/// Says what failed.
pub(super) fn failure(error: &(dyn Error + 'static), json: bool) -> ExitCode {
    let text = sentence(error);
    if json {
        let _ = writeln!(std::io::stderr(), "{}", serde_json::json!({ "error": text }));
    } else {
        complain(&text);
    }
    ExitCode::FAILURE
}

/// Says why the guest ended.
pub(super) fn ended(exit: &Exit, json: bool) -> ExitCode {
    if json {
        let line = serde_json::json!({
            "exit": exit.name(),
            "code": exit.code(),
            "message": exit.to_string(),
        });
        let _ = writeln!(std::io::stderr(), "{line}");
    } else {
        complain(&exit.to_string());
    }
    ExitCode::from(exit.code())
}
