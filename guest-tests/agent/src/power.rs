//! The ways a guest ends.

#![allow(unsafe_code, reason = "kill(2) with a signal of the realtime range is called directly")]

use rustix::system::{RebootCommand, reboot};

/// How the machine is to end once the answer is out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// ACPI power-off; after an orderly shutdown, if the agent is not init itself.
    PowerOff,
    /// Machine reset, at once. In an orderly one a guest that still swaps may lock up in Linux: it breaks virtio queues
    /// under who cleans the one that sends, which then ends no more (mended in 2026-08 by "virtio_ring: fix infinite loop in
    /// virtnet_poll_cleantx when device is broken").
    Reset,
    /// Kernel panic.
    Panic,
}

impl Ending {
    /// Ends the machine.
    pub(crate) fn run(self) -> ! {
        match self {
            Ending::PowerOff => off(),
            Ending::Reset => sysrq("b"),
            Ending::Panic => sysrq("c"),
        }
    }
}

/// Whether the agent is process 1.
pub(crate) fn is_init() -> bool {
    std::process::id() == 1
}

/// Powers the machine off.
pub(crate) fn off() -> ! {
    if !is_init() {
        // What systemd takes for poweroff.target (systemd(1), "Signals").
        // SAFETY: a signal to process 1, whose answer is that it ends this one.
        unsafe { libc::kill(1, libc::SIGRTMIN() + 4) };
        wait_for_ever()
    }
    finally(RebootCommand::PowerOff)
}

fn finally(command: RebootCommand) -> ! {
    rustix::fs::sync();
    let _ = reboot(command);
    wait_for_ever()
}

/// What the key does (Documentation/admin-guide/sysrq.rst).
fn sysrq(key: &str) -> ! {
    let _ = super::kernel::write("/proc/sys/kernel/sysrq", "1");
    let _ = super::kernel::write("/proc/sysrq-trigger", key);
    wait_for_ever()
}

fn wait_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}
