//! The `aerostat` binary: see [`vmm::cli`].

use std::{process::ExitCode, sync::Arc};

use vmm::{
    api::control::{LaunchError, Launcher, RunningVm},
    cli::check::{CheckReport, KvmReport},
    vm::{config::VmConfig, exit::ExitSlot},
};

fn main() -> ExitCode {
    vmm::cli::main(Arc::new(NoMachine), no_check)
}

/// Stands in until there is a machine to launch.
struct NoMachine;

impl Launcher for NoMachine {
    fn launch(
        &self,
        _: &str,
        _: &VmConfig,
        _: &Arc<ExitSlot>,
    ) -> Result<Box<dyn RunningVm>, LaunchError> {
        Err(LaunchError::new("this build has no machine in it."))
    }
}

fn no_check() -> CheckReport {
    let kvm = KvmReport {
        present: false,
        api_version: None,
        stock_kernel: false,
        detail: "this build has no machine in it".to_owned(),
        remedy: None,
    };
    CheckReport::new("unknown".to_owned(), kvm, Vec::new())
}
