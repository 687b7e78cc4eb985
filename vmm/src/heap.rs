//! The monitor's own memory, which the allocator in `memsvc` has no part in.
#![allow(unsafe_code)] // mallopt(3)

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
