//! The monitor's own memory, which the allocator in `memsvc` has no part in.
#![allow(unsafe_code)] // mallopt(3)

/// One heap for all threads, of which nothing is given back once it was used. To be called before there is a second
/// thread.
///
/// glibc has a heap for each thread, and what is free in one is no use to the others: 1.3 MiB of a monitor's 13.5
/// (`ci/bench loop`). A heap that shrinks and grows again takes pages that were freed a moment before (the host's
/// per-CPU lists hand out last what came last), and each keeps the 2 MiB around it from being whole. What is large stays
/// a mapping of its own, and goes back. No path of guest memory or swap allocates from it, so nobody waits for its one
/// lock.
pub fn keep_together() {
    /// What is not smaller than this is large; glibc's own value, which stays as it is now.
    const LARGE: libc::c_int = 128 << 10;
    for (option, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, libc::c_int::MAX), (libc::M_MMAP_THRESHOLD, LARGE)]
    {
        // SAFETY: only sets numbers of malloc's, and takes malloc's lock for it.
        let set = unsafe { libc::mallopt(option, value) };
        debug_assert_eq!(set, 1, "option {option}");
    }
}
