//! Guests are found and stopped. The operator's calls are answered whatever the guest does, and a monitor of which a
//! thread fails ends and says so.

mod commands;
mod wedged;

use anyhow::{Context, bail, ensure};
use guest_tests::{host, interrupted};
use libtest_mimic::Trial;

use crate::{guest, ours};

const RAM_MIB: u64 = 128;

/// Threads that wait in a system call, which can be made to fail from outside; what the monitor says then, and how it calls
/// the thread.
const FAILING: [(&str, &str, &str); 6] = [
    ("devices", "devices are not served any more", "\"devices\""),
    ("reclaim", "devices are not served any more", "\"reclaim\""),
    ("fault", "guest memory cannot be provided any more", "\"fault\""),
    ("api", "the API does not answer any more", "\"api\""),
    ("signals", "no signal could end this process any more", "\"signals\""),
    ("vcpu0", "KVM could not run the guest", "CPU 0:"),
];

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    trials.extend(wedged::trial());
    trials.extend(commands::trials());
    trials.extend(ours("operator::a_thread_that_fails_ends_the_monitor", failing));
    trials
}

/// Each of these threads has its system call fail once, in a monitor of its own.
fn failing() -> anyhow::Result<()> {
    for (name, said, called) in FAILING {
        let mut vm = guest()?.memory_mib(RAM_MIB).start()?;
        let threads = host::threads(vm.pid())?;
        let Some(thread) = threads.iter().find(|thread| thread.name == name) else {
            bail!("no thread is called {name}: {threads:?}");
        };
        interrupted::fail(thread.id, libc::EBADF).with_context(|| format!("{name} cannot be interrupted"))?;
        let status = vm.wait_exit().with_context(|| format!("{name} failed"))?;
        let transcript = vm.transcript();
        ensure!(
            status.code() == Some(1),
            "{name} failed, and the monitor ended with {status}:\n{transcript}"
        );
        ensure!(
            transcript.contains(said) && transcript.contains(called),
            "{name} failed, and the monitor does not say so:\n{transcript}"
        );
    }
    Ok(())
}
