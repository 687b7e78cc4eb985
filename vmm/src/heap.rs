//! The monitor's own memory, which the allocator in `memsvc` has no part in.
#![allow(unsafe_code)] // mallopt(3)

use rustix::mm::{MlockAllFlags, mlockall};

/// One heap for all threads. To be called before there is a second thread.
///
/// glibc has a heap for each thread, and what is free in one is no use to the others (`ci/bench loop` shows what the
/// monitor has). The price is one lock: faults in split blocks and movers take it for their small tables, for less than
/// the system calls beside them.
pub fn share() {
    // SAFETY: only sets a number of malloc's, and takes malloc's lock for it.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    debug_assert_eq!(set, 1);
}

/// The program's code and data stay in memory once they have been used. To be called before a guest's memory is mapped.
///
/// Where memory is short, the kernel drops code that it can read from the file again. Beyond `memory.high` of its control
/// group each thread then waits for the disk for its own code, and those that free memory do, too: calls of the API took a
/// minute. The kernel refuses where the process has neither `CAP_IPC_LOCK` nor a limit (`RLIMIT_MEMLOCK`) as large as the
/// program. The monitor does without then.
pub fn stay_in_memory() {
    let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT);
}
