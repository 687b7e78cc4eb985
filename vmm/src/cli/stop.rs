//! `aerostat stop`: the end of a guest, in the best order that it lets us have.
//!
//! ```text
//! paused ─▶ resume ─▶ Ctrl-Alt-Del, until the guest takes it ─▶ its process ends
//!                                     │ not in time, or never started
//!                                     ▼
//!                         SIGTERM: power off ─▶ its process ends
//!                                     │ not in time
//!                                     ▼
//!                                  SIGKILL
//! ```
//! A process in another PID namespace can be sent the keys, but no signal.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Outcome, args::StopArgs, output, target::Address};
use crate::{
    api::{
        client::{Client, ClientError},
        types::{Action, ActionType, InstanceInfo, InstanceState, VmUpdate, WantedState},
    },
    registry::{Process, is_served},
};

/// How long a call may take: a guest that hangs is to be stopped, too.
const CALL: Duration = Duration::from_secs(2);
/// Between two tries of Ctrl-Alt-Del.
const STEP: Duration = Duration::from_millis(500);
/// How long a process may take for its end once it is told: it writes metrics and what the console said last.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the guest came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Ended {
    ShutDown,
    PoweredOff,
    Killed,
}

/// The answer, for machines.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Stopped {
    /// How the guest came to its end.
    ended: Ended,
}

/// Does it.
pub(super) fn stop(args: &StopArgs) -> Outcome {
    let ended = end(&args.target.address()?, Duration::from_secs(args.timeout.into()))?;
    output::answer(args.target.json, &Stopped { ended }, |stopped| {
        match stopped.ended {
            Ended::ShutDown => "The guest has shut down.\n",
            Ended::PoweredOff => "The guest is powered off.\n",
            Ended::Killed => "The guest's process did not end when it was told to, and was killed.\n",
        }
        .to_owned()
    })
}

fn end(guest: &Address, limit: Duration) -> anyhow::Result<Ended> {
    let client = guest.client()?.within(CALL);
    let deadline = Instant::now() + limit;
    // The first answer says whether that is a monitor, before anything is done to its process.
    let (is_started, answers) = match client.get::<InstanceInfo>("/") {
        Ok(info) => (info.state != InstanceState::NotStarted, true),
        Err(ClientError::Slow(_)) => (true, false),
        Err(error) => return Err(error.into()),
    };
    let process = Process::behind(&guest.socket, guest.user)
        .context("The guest's process cannot be found: end it where it was started, and by its user")?;
    let process = process.as_ref();
    // One that hangs does not say what it is.
    if let (false, Some(process)) = (answers, process.filter(|process| !process.is_monitor())) {
        bail!(
            "Nothing answers at {}, and process {} behind it does not run Aerostat: name another socket or id.",
            guest.socket.display(),
            process.number()
        );
    }
    if is_started && shuts_down(&client, guest, process, deadline)? {
        return Ok(Ended::ShutDown);
    }
    let Some(process) = process else {
        let why = match is_started {
            true => format!("did not shut down within {} s", limit.as_secs()),
            false => "was not started".to_owned(),
        };
        bail!(
            "The guest {why}, and its process runs on, because it is in another PID namespace, where this command \
             cannot power it off: run aerostat stop where the guest was started."
        );
    };
    for (signal, ended) in [(Signal::TERM, Ended::PoweredOff), (Signal::KILL, Ended::Killed)] {
        process
            .signal(signal)
            .context("The guest's process cannot be ended: run this command as its user or as root")?;
        if process.ends_within(PATIENCE)? {
            return Ok(ended);
        }
    }
    bail!(
        "The guest's process was killed and does not end: the host's kernel holds it; see the host's kernel log."
    )
}

/// Presses Ctrl-Alt-Del, and waits; whether the guest shuts down in time. A guest that boots takes the keys later.
fn shuts_down(
    client: &Client,
    guest: &Address,
    process: Option<&Process>,
    deadline: Instant,
) -> anyhow::Result<bool> {
    let mut is_pressed = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        is_pressed = is_pressed || press(client).is_ok();
        let step = left.min(STEP);
        let has_ended = match process {
            Some(process) => process.ends_within(step)?,
            None => {
                thread::sleep(step);
                !is_served(&guest.socket)
            }
        };
        if has_ended {
            return Ok(true);
        }
    }
}

/// Presses the keys where the guest can take them.
fn press(client: &Client) -> Result<(), ClientError> {
    let info: InstanceInfo = client.get("/")?;
    if info.state == InstanceState::Paused {
        client.patch("/vm", &VmUpdate { state: WantedState::Resumed })?;
    }
    client.put("/actions", &Action { action_type: ActionType::SendCtrlAltDel })
}
