//! The ways a guest ends.

use rustix::system::{RebootCommand, reboot};

/// How the machine is to end once the answer is out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// ACPI power-off.
    PowerOff,
    /// Machine reset.
    Reset,
    /// Kernel panic.
    Panic,
}

impl Ending {
    /// Ends the machine.
    pub(crate) fn run(self) -> ! {
        match self {
            Ending::PowerOff => off(),
            Ending::Reset => finally(RebootCommand::Restart),
            Ending::Panic => {
                let _ = super::kernel::write("/proc/sys/kernel/sysrq", "1");
                let _ = super::kernel::write("/proc/sysrq-trigger", "c");
                wait_for_ever()
            }
        }
    }
}

/// Powers the machine off.
pub(crate) fn off() -> ! {
    finally(RebootCommand::PowerOff)
}

fn finally(command: RebootCommand) -> ! {
    rustix::fs::sync();
    let _ = reboot(command);
    wait_for_ever()
}

fn wait_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}
