//! The kernel's samepage merging, which a process inherits (`PR_SET_MEMORY_MERGE`; systemd: `MemoryKSM=`). The kernel
//! moves no page that it has merged, and splits huge pages to merge what is in them.
#![allow(unsafe_code)] // prctl(2)

use super::{Advice, Finding, Host};

// include/uapi/linux/prctl.h; since Linux 6.4.
const PR_SET_MEMORY_MERGE: i32 = 67;
const PR_GET_MEMORY_MERGE: i32 = 68;

/// Keeps this process out of it, whatever it has inherited. To be called before memory is mapped: nothing that is
/// merged already is to be parted. Kernels without samepage merging refuse it, which is as well.
pub fn keep_out() {
    // SAFETY: changes no memory of ours but in where the kernel keeps it, and takes numbers only.
    unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0) };
}

/// Whether the kernel may merge pages of this process.
fn is_in() -> bool {
    // SAFETY: tells a flag of this process, and takes numbers only.
    unsafe { libc::prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1 }
}

impl Host {
    pub(super) fn merged(&self) -> Option<Advice> {
        is_in().then(|| Advice {
            what: "the kernel may merge pages of this process, and does not move them then".to_owned(),
            remedy: "take MemoryKSM=yes out of the unit that starts it, or write 0 to /sys/kernel/mm/ksm/run"
                .to_owned(),
        })
    }

    pub(super) fn ksm(&self) -> Finding {
        match self.merged() {
            Some(advice) => Finding::Poor(advice),
            None if self.read_number("/sys/kernel/mm/ksm/run") == Some(1) => Finding::Good(
                "the kernel merges pages (KSM), but none of Aerostat's, which switches that off for itself"
                    .to_owned(),
            ),
            None => Finding::Good("the kernel merges no pages".to_owned()),
        }
    }
}
