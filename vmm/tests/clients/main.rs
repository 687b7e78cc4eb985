//! Programs that drive Firecracker, against the real binary. A test starts the binary as each program starts Firecracker,
//! and sends the first requests of the program, byte for byte.
//!
//! ```text
//! data/NAME.json ─▶ client ─▶ stage: files, FIFOs ─▶ aerostat ◀─ wire: requests as the client writes them
//! ```
//!
//! What is read from the source of each program, where it stands there, and what is still refused, is data. Outside a place
//! where KVM runs guests (`ci/kvm-host`), a client's requests are sent up to the first that needs one.

mod client;
mod stage;
mod version;
mod wire;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use client::{Client, Needs, Request};
use libtest_mimic::{Arguments, Trial};
use serde_json::Value;
use stage::{Monitor, Stage};
use wire::Wire;

/// The monitor's exit code, and Firecracker's, after arguments that it does not take.
const BAD_ARGUMENTS: i32 = 153;
/// A monitor that nobody asks for anything runs after so long.
const LIVELY: Duration = Duration::from_secs(1);

fn main() -> anyhow::Result<()> {
    let mut trials = version::trials();
    for client in Client::all()? {
        trials.push(trial(&format!("{}_is_answered_as_its_data_say", client.name), move || talk(&client)));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// One test, whose error is told with its causes.
fn trial(name: &str, run: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || run().map_err(|error| format!("{error:#}").into()))
}

/// Starts the monitor as the client does, and sends what it sends.
fn talk(client: &Client) -> anyhow::Result<()> {
    let stage = Stage::set(client)?;
    refuses(client, &stage)?;
    let Some(mut monitor) = starts(client, &stage)? else { return Ok(()) };
    if client.requests.is_empty() {
        std::thread::sleep(LIVELY);
        return monitor.check();
    }
    let mut wire = Wire::connect(&stage, &mut monitor)?;
    let mut wrong = String::new();
    for request in &client.requests {
        if request.needs == Some(Needs::Kvm) && !Needs::Kvm.is_there() {
            break;
        }
        if request.needs.is_some_and(|needs| !needs.is_there()) {
            continue;
        }
        if let Err(error) = answer(client, &stage, &mut wire, request) {
            wrong += &format!("{}: {error:#}\n", request.send);
        }
    }
    ensure!(wrong.is_empty(), "{wrong}{}", monitor.said());
    Ok(())
}

/// Arguments and sections of a configuration file that are not there yet end the monitor, and it says which.
fn refuses(client: &Client, stage: &Stage) -> anyhow::Result<()> {
    let is_taken = |name: &String| !client.refused_sections.contains_key(name);
    for (argument, sentence) in &client.refused_arguments {
        stage.write_config(client, is_taken)?;
        let ended = Monitor::start(stage, &client.arguments(Some(argument)))?.end()?;
        ensure!(ended.code == Some(BAD_ARGUMENTS), "{argument}: {ended:?}");
        ensure!(ended.said.contains(sentence), "{argument}: {ended:?}");
    }
    for (section, sentence) in &client.refused_sections {
        stage.write_config(client, |name| name == section || is_taken(name))?;
        let ended = Monitor::start(stage, &client.arguments(None))?.end()?;
        ensure!(ended.code != Some(0), "{section} in the configuration file: {ended:?}");
        ensure!(ended.said.contains(sentence), "{section} in the configuration file: {ended:?}");
    }
    Ok(())
}

/// The monitor, without what is refused. None where it has to have KVM for that, which is not here: then it must
/// have come as far as to want it.
fn starts(client: &Client, stage: &Stage) -> anyhow::Result<Option<Monitor>> {
    let arguments = client.arguments(None);
    if client.config.is_none() {
        return Monitor::start(stage, &arguments).map(Some);
    }
    stage.write_config(client, |name| !client.refused_sections.contains_key(name))?;
    let monitor = Monitor::start(stage, &arguments)?;
    if Needs::Kvm.is_there() {
        return Ok(Some(monitor));
    }
    let ended = monitor.end()?;
    let wants_kvm = ended.said.contains("/dev/kvm");
    ensure!(wants_kvm || ended.said.contains(stage::NO_KERNEL_SAYS), "the configuration file: {ended:?}");
    Ok(None)
}

/// Sends one request and looks at what comes back, as the client does.
fn answer(client: &Client, stage: &Stage, wire: &mut Wire, request: &Request) -> anyhow::Result<()> {
    let sent = client.bytes(request, stage)?;
    let answer = wire.exchange(&sent)?;
    ensure!(answer.status == request.status, "expected {}, got {answer:?}", request.status);
    if answer.status == 204 {
        ensure!(answer.body.is_empty(), "204 with a body: {answer:?}");
        return Ok(());
    }
    // Clients choose their parser by it.
    ensure!(answer.is_json, "no Content-Type: application/json: {answer:?}");
    let body: Value = serde_json::from_str(&answer.body).with_context(|| format!("not JSON: {answer:?}"))?;
    if let Some(sentence) = &request.refused {
        let told = body.get("fault_message").and_then(Value::as_str).unwrap_or_default();
        ensure!(told.contains(sentence), "expected \"{sentence}\", got {body}");
    }
    for (key, value) in request.holds.iter().flatten() {
        ensure!(body.get(key) == Some(value), "expected {key} to be {value}, got {body}");
    }
    Ok(())
}

/// The repository.
fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
