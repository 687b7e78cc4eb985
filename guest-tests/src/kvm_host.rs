//! Whether this process runs where KVM runs a stock kernel, and how to get there.
//!
//! `ci/kvm-host` knows which place that is: this machine, or a nested host. It sets a variable there.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::kernels::Kernel;
use crate::process::die_with_parent;
use crate::{initramfs, paths};

/// Set by `ci/kvm-host` to "native" or "nested".
pub const VARIABLE: &str = "AEROSTAT_KVM_HOST";

/// "native", "nested", or "none" outside.
#[must_use]
pub fn kind() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| "none".to_owned())
}

/// Whether KVM is at hand. With the variable set to anything else, QEMU subjects are emulated, which is
/// enough to try out a scenario itself.
#[must_use]
pub fn has_kvm() -> bool {
    matches!(kind().as_str(), "native" | "nested")
}

/// Whether this is the place to run in.
#[must_use]
pub fn inside() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// "native" or "nested": where [`enter`] goes.
///
/// # Errors
/// `ci/kvm-host` could not be started.
pub fn would_be() -> anyhow::Result<String> {
    let said = Command::new(script()).arg("--kind").output().context("cannot run ci/kvm-host")?;
    ensure!(said.status.success(), "ci/kvm-host --kind: {said:?}");
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}

/// Builds every initramfs; they cannot be built in the nested host.
///
/// # Errors
/// Something could not be built.
pub fn prepare() -> anyhow::Result<()> {
    Kernel::present().into_iter().try_for_each(|kernel| initramfs::build(kernel).map(drop))
}

/// This program once more, with its arguments, through `ci/kvm-host`: a child that does not outlive us.
///
/// # Errors
/// It cannot tell its own path.
pub fn child() -> anyhow::Result<Command> {
    let mut command = again()?;
    die_with_parent(&mut command);
    Ok(command)
}

fn again() -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot tell this program's own path")?;
    let mut command = Command::new(script());
    command.arg(program).args(std::env::args_os().skip(1));
    Ok(command)
}

/// [`prepare`]s, then starts this program again through `ci/kvm-host`. Comes back at once if it is inside
/// already, and does not come back otherwise.
///
/// # Errors
/// Something could not be built, or `ci/kvm-host` could not be started.
pub fn enter() -> anyhow::Result<()> {
    if inside() {
        return Ok(());
    }
    prepare()?;
    Err(again()?.exec()).context("cannot run ci/kvm-host")
}

fn script() -> PathBuf {
    paths::repository().join("ci/kvm-host")
}
