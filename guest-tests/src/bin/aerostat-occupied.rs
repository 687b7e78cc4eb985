//! Aerostat whose memory is used up on request: for the scenario of a host that has none but the reserve.
//!
//! It is the monitor as it is, with somebody beside the guest who wants memory. From when the file that
//! [`OCCUPIED_WHEN`] names is there, they take every frame above the min watermark, twenty times a second, for good.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, sleep};
use std::time::Duration;

use guest_tests::subject::OCCUPIED_WHEN;
use vmm::api::control::{LaunchError, Launcher, RunningVm};
use vmm::devices::virtio::net::Taps;
use vmm::heap;
use vmm::vm::config::VmConfig;
use vmm::vm::exit::ExitSlot;
use vmm::vm::{check, machine::Machine};

/// How soon somebody wants what was released.
const OTHERS: Duration = Duration::from_millis(50);

struct Occupied {
    when: PathBuf,
}

impl Launcher for Occupied {
    fn launch(
        &self,
        id: &str,
        config: &VmConfig,
        taps: &mut Taps,
        exit: &Arc<ExitSlot>,
    ) -> Result<Box<dyn RunningVm>, LaunchError> {
        let machine = Machine::launch(id, config, taps, exit)?;
        let (when, memory) = (self.when.clone(), Arc::downgrade(machine.memory()));
        thread::spawn(move || {
            while let Some(memory) = memory.upgrade() {
                if when.exists() {
                    memory.occupy();
                }
                drop(memory);
                sleep(OTHERS);
            }
        });
        Ok(Box::new(machine))
    }
}

fn main() -> ExitCode {
    heap::stay_in_memory();
    heap::share();
    let Some(when) = std::env::var_os(OCCUPIED_WHEN) else {
        eprintln!("{OCCUPIED_WHEN} is not set: it names the file with which memory is used up.");
        return ExitCode::FAILURE;
    };
    vmm::cli::main(Arc::new(Occupied { when: when.into() }), check::run)
}
