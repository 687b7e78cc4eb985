//! The `aerostat` binary: see [`vmm::cli`].

use std::process::ExitCode;
use std::sync::Arc;

use memsvc::space::host::ksm;
use vmm::heap;
use vmm::vm::{check, machine::KvmLauncher};

fn main() -> ExitCode {
    ksm::keep_out();
    heap::stay_in_memory();
    heap::share();
    vmm::cli::main(Arc::new(KvmLauncher), check::run)
}
