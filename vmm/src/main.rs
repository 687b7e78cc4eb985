//! The `aerostat` binary: see [`vmm::cli`].

use std::process::ExitCode;
use std::sync::Arc;

use vmm::vm::{check, machine::KvmLauncher};

fn main() -> ExitCode {
    vmm::cli::main(Arc::new(KvmLauncher), check::run)
}
