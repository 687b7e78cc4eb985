//! Waits until the guest has done what the balloon asks, with a line that shows how far it is.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};

use super::progress;
use crate::{
    api::{
        client::{Client, ClientError},
        types::BalloonProgress,
    },
    vm::config::Mib,
};

const POLL: Duration = Duration::from_millis(100);
/// A guest that gives up nothing for this long will not.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the guest has given up `amount`; an error once it makes no progress any more.
pub(super) fn wait(client: &Client, amount: Mib) -> anyhow::Result<Option<BalloonProgress>> {
    let Some(mut seen) = progress(client)? else { return Ok(None) };
    let bar = ProgressBar::new(amount.0.abs_diff(seen.actual_mib.0));
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} MiB {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(if amount > seen.actual_mib { "inflating" } else { "deflating" });
    let first = seen.actual_mib.0;
    let mut moved = Instant::now();
    while seen.actual_mib != amount {
        if moved.elapsed() > PATIENCE {
            bar.abandon();
            bail!(
                "The guest has given up {} of {amount} and goes no further: it may need the rest, or have no balloon driver.",
                seen.actual_mib
            );
        }
        thread::sleep(POLL);
        let now = match progress(client) {
            Err(ClientError::NotThere(_) | ClientError::NoAnswer(_)) => {
                bar.abandon();
                bail!("The guest ended before it had given up {amount}.")
            }
            now => now?,
        };
        match now {
            Some(now) if now.target_mib != amount => {
                bar.abandon();
                bail!("Somebody else set the balloon to {} meanwhile.", now.target_mib)
            }
            Some(now) if now.actual_mib != seen.actual_mib => {
                seen = now;
                moved = Instant::now();
            }
            _ => {}
        }
        bar.set_position(seen.actual_mib.0.abs_diff(first));
    }
    bar.finish_and_clear();
    Ok(Some(seen))
}
