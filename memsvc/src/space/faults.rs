//! System calls that change mappings, which fail when a test says so.

use rustix::io::Errno;

use crate::core::sync::{Mutex, MutexGuard, lock};

/// A system call that changes what is mapped, or behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// `mmap` over a block.
    Map,
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
    /// All calls, if it is none.
    only: Option<Call>,
    /// A `mremap` fails halfway, not before.
    is_sparing_remap: bool,
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
        *self.lock() = Plan { spared, count, only: Some(call), error: Some(error), ..Plan::default() };
    }

    /// The next `mremap` fails when it has unmapped what was there, and so does the `mmap` after it.
    pub(crate) fn plan_halfway_then_all(&self, error: Errno) {
        *self.lock() =
            Plan { count: u32::MAX, is_sparing_remap: true, error: Some(error), ..Plan::default() };
    }

    /// No more fails. Says how many calls there were since the plan.
    pub(crate) fn clear(&self) -> u32 {
        std::mem::take(&mut *self.lock()).calls
    }

    /// The error of this call, if it is to fail.
    pub(crate) fn strikes(&self, call: Call) -> Option<Errno> {
        let mut plan = self.lock();
        let is_spared = plan.is_sparing_remap && call == Call::Remap;
        if is_spared || plan.only.is_some_and(|only| only != call) {
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
