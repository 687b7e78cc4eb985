//! The `aerostat` binary: see [`vmm::cli`].

use std::process::ExitCode;
use std::sync::Arc;

use vmm::heap;
use vmm::vm::{check, machine::KvmLauncher};

fn main() -> ExitCode {
    heap::share();
    vmm::cli::main(Arc::new(KvmLauncher), check::run)
}
