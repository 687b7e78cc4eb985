//! Whether this process runs where KVM runs a stock kernel, and how to get there.
//!
//! `ci/kvm-host` knows which place that is: this machine, or a nested host. It sets a variable there.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

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
