//! Whether this process runs where KVM runs a stock kernel, and how to get there.
//!
//! `ci/kvm-host` knows which place that is: this machine, or a nested host. It sets a variable there.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::kernels::Kernel;
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

/// In the nested host, runs this with one CPU for this process and all that it starts: guest, monitor and server that
/// interrupt each other all the time do not live long on two that are emulated (ARCHITECTURE.md, "Where tests run").
///
/// # Errors
/// Those of `run`, or the CPUs could not be chosen.
pub fn on_one_cpu<T>(run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    pin("0")?;
    let result = run();
    pin("0,1")?;
    result
}

/// In the nested host, gives this process, and what it starts from now on, these of its two CPUs.
fn pin(cpus: &str) -> anyhow::Result<()> {
    if kind() == "nested" {
        let process = std::process::id().to_string();
        let pinned = Command::new("taskset").args(["-acp", cpus, &process]).output()?;
        ensure!(pinned.status.success(), "taskset: {pinned:?}");
    }
    Ok(())
}

/// Builds every initramfs, then starts this program again through `ci/kvm-host`. Comes back at once if
/// it is inside already, and does not come back otherwise.
///
/// # Errors
/// Something could not be built, or `ci/kvm-host` could not be started.
pub fn enter() -> anyhow::Result<()> {
    if inside() {
        return Ok(());
    }
    for kernel in Kernel::present() {
        initramfs::build(kernel)?;
    }
    let script = paths::repository().join("ci/kvm-host");
    let program = std::env::current_exe().context("cannot tell this program's own path")?;
    let error = Command::new(&script).arg(program).args(std::env::args_os().skip(1)).exec();
    Err(error).with_context(|| format!("cannot run {}", script.display()))
}
