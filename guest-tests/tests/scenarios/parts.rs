//! The scenarios in parts, one in each nested host.
//!
//! ```text
//! claims/                         a directory in target/, which both hosts write
//!   balloon::statistics_move ─▶ 0     part 0 runs it
//!   boot::more_than_4_gib ────▶ 1
//! ```
//! Each part goes through all scenarios and runs those that nobody has claimed, so that both end at the same time. A part
//! that starts anew, because its host died, runs what it had claimed once more.

use std::fs::read_link;
use std::io::{ErrorKind, Seek, copy, stdout};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use guest_tests::{kvm_host, paths};

/// Tells this program which part it is, and where parts claim what they run.
const PART: &str = "AEROSTAT_SCENARIOS_PART";
const CLAIMS: &str = "AEROSTAT_SCENARIOS_CLAIMS";

/// Whether a scenario is this part's: all are, if there are no parts.
pub(crate) fn is_ours(name: &str) -> anyhow::Result<bool> {
    let (Ok(part), Ok(claims)) = (std::env::var(PART), std::env::var(CLAIMS)) else { return Ok(true) };
    let claim = Path::new(&claims).join(name);
    // A link is made in one step, whoever else tries, and says whose it is.
    match symlink(&part, &claim) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match read_link(&claim) {
            Ok(owner) => Ok(owner.to_str() == Some(&part)),
            // This host remembers that there was none: the other has made it since.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", claim.display())),
        },
        Err(error) => Err(error).with_context(|| format!("cannot claim a scenario by {}", claim.display())),
    }
}

/// Runs so many parts at once; gives the exit code. The first speaks at once, the others when it has ended.
pub(crate) fn run(count: usize) -> anyhow::Result<u8> {
    let claims = tempfile::Builder::new().prefix("claims-").tempdir_in(paths::target())?;
    let start = |part: usize| {
        let mut command = kvm_host::child()?;
        command.env(PART, part.to_string()).env(CLAIMS, claims.path());
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
