//! System calls that fail when a test says so.

use rustix::io::Errno;

use crate::core::sync::{Mutex, MutexGuard, lock};

/// Which of the calls fail: `count` of them, after `spared`.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Plan>);

#[derive(Debug, Default)]
struct Plan {
    calls: u32,
    spared: u32,
    count: u32,
    error: Option<Errno>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Plan> {
        lock(&self.0)
    }

    /// The calls after the next `spared` fail, `count` of them.
    pub(crate) fn plan(&self, spared: u32, count: u32, error: Errno) {
        *self.lock() = Plan { calls: 0, spared, count, error: Some(error) };
    }

    /// No more fails. Says how many calls there were since the plan.
    pub(crate) fn clear(&self) -> u32 {
        std::mem::take(&mut *self.lock()).calls
    }

    /// The error of this call, if it is to fail.
    pub(crate) fn strikes(&self) -> Option<Errno> {
        let mut plan = self.lock();
        plan.calls += 1;
        let hit = plan.calls > plan.spared && plan.calls <= plan.spared.saturating_add(plan.count);
        plan.error.filter(|_| hit)
    }
}
