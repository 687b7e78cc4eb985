//! A call that takes long, with a line on a terminal that shows what it comes to meanwhile. If the command
//! ends before, the guest's process stops at the next block.

use std::{
    io::IsTerminal,
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use memsvc::MemoryStats;
use serde::{Serialize, de::DeserializeOwned};

use super::super::args::Target;
use crate::api::{
    client::{Client, ClientError},
    types::MemoryReport,
};

const POLL: Duration = Duration::from_millis(200);

/// Makes the call, and meanwhile lets `show` draw how far it is: from what the guest's memory was before,
/// and what it is now. Without a terminal it only makes the call.
pub(super) fn put<T: DeserializeOwned + Send>(
    target: &Target,
    path: &str,
    body: &(impl Serialize + Sync),
    bar: ProgressBar,
    show: impl Fn(&ProgressBar, &MemoryStats, &MemoryStats),
) -> anyhow::Result<T> {
    let address = target.address()?;
    let client = address.client()?;
    if !std::io::stderr().is_terminal() {
        return Ok(client.put(path, body)?);
    }
    let before = memory(&client)?;
    let (sender, answered) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let answer = address.client().and_then(|client| client.put(path, body));
            // Who listens does so until this is sent.
            let _ = sender.send(answer);
        });
        let answer = loop {
            match answered.recv_timeout(POLL) {
                Ok(answer) => break answer,
                Err(RecvTimeoutError::Timeout) => {
                    // If the guest has ended meanwhile, the call says so.
                    if let Ok(now) = memory(&client) {
                        show(&bar, &before, &now);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => bail!("The call failed inside this command."),
            }
        };
        bar.finish_and_clear();
        Ok(answer?)
    })
}

fn memory(client: &Client) -> Result<MemoryStats, ClientError> {
    let report: MemoryReport = client.get("/memory")?;
    Ok(report.memory)
}

/// The style of a line.
pub(super) fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// How much a counter has grown.
pub(super) fn since(before: &MemoryStats, now: &MemoryStats, counter: fn(&MemoryStats) -> u64) -> u64 {
    counter(now).saturating_sub(counter(before))
}
