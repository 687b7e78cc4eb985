//! The command line as operators use it: a guest is found without a socket, looked at, paused, spoken to, and stopped.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use guest_tests::console::{self, Transcript};
use guest_tests::testvm::wait_until;
use guest_tests::{AgentClient, TestVm, paths};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::RAM_MIB;
use crate::{guest, ours};

pub(super) fn trials() -> Vec<Trial> {
    [
        ours("operator::a_guest_is_found_spoken_to_and_stopped", whole),
        ours("operator::a_guest_without_a_keyboard_is_powered_off", no_keyboard),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A command on the host of this guest, which has no other.
fn command(vm: &TestVm, arguments: &[&str]) -> anyhow::Result<Command> {
    let guests = vm.control.socket()?.parent().context("a socket is in a directory")?;
    let mut command = Command::new(paths::aerostat());
    command.env("AEROSTAT_RUNTIME_DIR", guests).env_remove("AEROSTAT_API_SOCK").args(arguments);
    Ok(command)
}

/// The answer of a command.
fn says(vm: &TestVm, arguments: &[&str]) -> anyhow::Result<String> {
    let output = command(vm, arguments)?.output().context("cannot run aerostat")?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The guest's entry in the list.
fn listed(vm: &TestVm) -> anyhow::Result<Value> {
    let list: Value = serde_json::from_str(&says(vm, &["list", "--json"])?)?;
    match list["guests"].as_array().map(Vec::as_slice) {
        Some([guest]) => Ok(guest.clone()),
        _ => anyhow::bail!("not one guest: {list}"),
    }
}

fn whole() -> anyhow::Result<()> {
    let mut vm = guest()?.memory_mib(RAM_MIB).start()?;
    used(&mut vm).map_err(|error| vm.explain(&error))
}

fn used(vm: &mut TestVm) -> anyhow::Result<()> {
    vm.balloon(16)?;
    let guest = listed(vm)?;
    let known = json!({"id": guest["id"], "pid": guest["pid"], "state": guest["state"],
        "memory_mib": guest["memory_mib"], "balloon_mib": guest["balloon_mib"]});
    let right = json!({"id": "anonymous-instance", "pid": vm.pid(), "state": "Running",
        "memory_mib": RAM_MIB, "balloon_mib": 16});
    ensure!(known == right, "listed is {guest}");
    let resident = guest["resident_bytes"].as_u64().context("no resident memory")?;
    ensure!((1..=RAM_MIB << 20).contains(&resident), "{guest}");
    vm.balloon(0)?;

    says(vm, &["pause"])?;
    ensure!(listed(vm)?["state"] == "Paused", "{}", listed(vm)?);
    says(vm, &["resume"])?;
    vm.agent.ping()?;

    // The agent's own protocol on the console, beside the standard streams.
    let mut client = command(vm, &["console"])?;
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = client.spawn().context("cannot run aerostat console")?;
    let transcript = Transcript::default();
    let replies = console::replies(client.stdout.take().context("no output")?, &transcript);
    let keys = Box::new(client.stdin.take().context("no input")?);
    let mut through = AgentClient::new(keys, replies, transcript.clone(), Box::new(String::new));
    let version = through.read_file("/proc/version")?;
    ensure!(version.starts_with("Linux"), "{version}");
    let is_said = wait_until(|| Ok(vm.transcript().contains(version.trim())))?;
    ensure!(is_said, "standard output has less than the console");
    let second = command(vm, &["console"])?.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(said.contains("Another client is attached"), "{:?}: {said}", second.status);

    // It is stopped while it is paused.
    says(vm, &["pause"])?;
    let said = says(vm, &["stop"])?;
    ensure!(said == "The guest has shut down.\n", "{said}");
    let status = vm.wait_exit()?;
    ensure!(status.success(), "the monitor ended with {status}:\n{}", vm.transcript());
    ensure!(wait_until(|| Ok(client.try_wait()?.is_some()))?, "the console does not end with its guest");
    let heard = transcript.text();
    ensure!(heard.contains("Restarting system"), "the guest's last words are not on the console:\n{heard}");
    ensure!(!Path::new(&vm.control.socket()?).exists(), "the socket is left");
    ensure!(says(vm, &["list"])?.starts_with("No guest runs"), "it is listed still");
    Ok(())
}

fn no_keyboard() -> anyhow::Result<()> {
    let mut vm = guest()?.memory_mib(RAM_MIB).append("i8042.nokbd").start()?;
    let said = says(&vm, &["stop", "--timeout", "2"])?;
    ensure!(said == "The guest is powered off.\n", "{said}");
    let status = vm.wait_exit()?;
    ensure!(status.success(), "the monitor ended with {status}:\n{}", vm.transcript());
    Ok(())
}
