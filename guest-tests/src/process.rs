//! Child processes that do not outlive the test.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// A test that is killed leaves no child behind.
pub(crate) fn die_with_parent(command: &mut Command) {
    let set = || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
            .map_err(Into::into)
    };
    #[allow(unsafe_code, reason = "Command offers the hook between fork and exec only as unsafe")]
    // SAFETY: the hook makes one system call and does not allocate.
    unsafe {
        command.pre_exec(set)
    };
}

/// A child that is killed and waited for when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Reaped(pub(crate) Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
