//! System calls that change mappings, which fail when a test says so.

use rustix::io::Errno;

use crate::core::sync::{Mutex, MutexGuard, lock};

/// A system call that changes what is mapped, or behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `mmap` over a block, which leaves what was there.
    Map,
    /// `mmap` that fails when it has unmapped what was there.
    MapHalfway,
    /// `mmap` that keeps the address space of a block.
    Hold,
    /// `mremap`, which leaves what was there.
    Remap,
    /// `mremap` that fails when it has unmapped what was there.
    RemapHalfway,
    /// `madvise` that says how memory is backed.
    Advise,
    /// `madvise(MADV_DONTNEED)`.
    Discard,
    /// `madvise(MADV_COLD)`, which splits a huge page.
    Split,
    /// `madvise(MADV_POPULATE_WRITE)`.
    Populate,
    /// `UFFDIO_REGISTER`.
    Register,
    /// `UFFDIO_UNREGISTER`.
    Unregister,
    /// `UFFDIO_MOVE`.
    Move,
}

/// Which of the calls fail: `count` of them, after `spared`.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Plan>);

#[derive(Debug, Default)]
struct Plan {
    calls: u32,
    spared: u32,
    count: u32,
    /// All calls, if there is none here.
    only: Vec<Call>,
    error: Option<Errno>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Plan> {
        lock(&self.0)
    }

    /// The calls after the next `spared` fail, `count` of them.
    pub(crate) fn plan(&self, spared: u32, count: u32, error: Errno) {
        *self.lock() = Plan { spared, count, error: Some(error), ..Plan::default() };
    }

    /// As [`Self::plan`], of calls of one sort; others succeed and do not count.
    pub(crate) fn plan_for(&self, call: Call, spared: u32, count: u32, error: Errno) {
        *self.lock() = Plan { spared, count, only: vec![call], error: Some(error), ..Plan::default() };
    }

    /// All calls of these sorts fail; others succeed.
    pub(crate) fn plan_all(&self, calls: &[Call], error: Errno) {
        *self.lock() = Plan { count: u32::MAX, only: calls.to_vec(), error: Some(error), ..Plan::default() };
    }

    /// No more fails. Says how many calls there were since the plan.
    pub(crate) fn clear(&self) -> u32 {
        std::mem::take(&mut *self.lock()).calls
    }

    /// The error of this call, if it is to fail.
    pub(crate) fn strikes(&self, call: Call) -> Option<Errno> {
        let mut plan = self.lock();
        if !plan.only.is_empty() && !plan.only.contains(&call) {
            return None;
        }
        plan.calls += 1;
        let hit = plan.calls > plan.spared && plan.calls <= plan.spared.saturating_add(plan.count);
        plan.error.filter(|_| hit)
    }

    /// An error if this call is to fail.
    pub(crate) fn check(&self, call: Call) -> std::io::Result<()> {
        self.strikes(call).map_or(Ok(()), |error| Err(error.into()))
    }
}
