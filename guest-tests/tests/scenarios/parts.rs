//! The scenarios in parts, one in each nested host.

use std::io::{Seek, copy, stdout};
use std::process::Stdio;

use anyhow::Context;
use guest_tests::kvm_host;
use libtest_mimic::Trial;

/// Tells this program which part it is to run, `0/2` or `1/2`.
const VARIABLE: &str = "AEROSTAT_SCENARIOS_PART";

/// Those of this part: all, if nobody said which.
pub(crate) fn ours(trials: Vec<Trial>) -> Vec<Trial> {
    let part = std::env::var(VARIABLE).ok();
    let part = part.as_deref().and_then(|part| part.split_once('/'));
    let part = part.and_then(|(part, of)| Some((part.parse::<usize>().ok()?, of.parse::<usize>().ok()?)));
    let Some((part, of)) = part else { return trials };
    // Each part has some of every theme. By twos, as the parts come out as long as each other then.
    let is_ours = |at: usize| at / 2 % of == part;
    trials.into_iter().enumerate().filter(|(at, _)| is_ours(*at)).map(|(_, trial)| trial).collect()
}

/// Runs so many parts at once; gives the exit code. The first speaks at once, the others when it has ended.
pub(crate) fn run(count: usize) -> anyhow::Result<u8> {
    let start = |part: usize| {
        let mut command = kvm_host::child()?;
        command.env(VARIABLE, format!("{part}/{count}"));
        let said = if part > 0 { Some(tempfile::tempfile()?) } else { None };
        if let Some(said) = &said {
            command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
        }
        anyhow::Ok((command.spawn().context("cannot run ci/kvm-host")?, said))
    };
    let parts = (0..count).map(start).collect::<anyhow::Result<Vec<_>>>()?;
    let mut code = 0;
    for (mut process, said) in parts {
        let status = process.wait()?;
        if let Some(mut said) = said {
            said.rewind()?;
            copy(&mut said, &mut stdout())?;
        }
        let failed = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        code = code.max(failed);
    }
    Ok(code)
}
