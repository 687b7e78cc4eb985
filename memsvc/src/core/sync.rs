//! Primitives with which the concurrent heart synchronizes: std's, or loom's when checked under `--cfg
//! memsvc_loom`.
//!
//! A private cfg, because `--cfg loom` would reach every crate below and breaks some of them.

#[cfg(memsvc_loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(memsvc_loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};

use std::sync::PoisonError;
use std::time::Duration;
#[cfg(not(memsvc_loom))]
use std::time::Instant;

/// Locks. A panic under a lock of the core is a bug of ours; state is kept consistent step by step, so
/// others go on with it rather than stop the guest.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks if nobody else has it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

/// The time that a thread is ready to sleep. Loom has no time: there a limit of [`Duration::MAX`] is never
/// over, and any other ends with the first sleep, at any moment that loom can think of.
#[derive(Debug)]
pub(crate) struct Timer {
    limit: Duration,
    #[cfg(not(memsvc_loom))]
    start: Instant,
    #[cfg(memsvc_loom)]
    slept: bool,
}

#[cfg(not(memsvc_loom))]
impl Timer {
    /// Time runs from now.
    pub(crate) fn start(limit: Duration) -> Self {
        Self { limit, start: Instant::now() }
    }

    /// Since start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// True when the limit is reached.
    pub(crate) fn is_over(&self) -> bool {
        self.elapsed() >= self.limit
    }

    /// Sleeps until woken, until the limit is reached, or for no reason at all.
    pub(crate) fn sleep<'a, T>(
        &mut self,
        condvar: &Condvar,
        _mutex: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
    ) -> MutexGuard<'a, T> {
        let rest = self.limit.saturating_sub(self.elapsed());
        condvar.wait_timeout(guard, rest).unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(memsvc_loom)]
impl Timer {
    pub(crate) fn start(limit: Duration) -> Self {
        Self { limit, slept: false }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    pub(crate) fn is_over(&self) -> bool {
        self.slept && self.limit != Duration::MAX
    }

    pub(crate) fn sleep<'a, T>(
        &mut self,
        condvar: &Condvar,
        mutex: &'a Mutex<T>,
        guard: MutexGuard<'a, T>,
    ) -> MutexGuard<'a, T> {
        self.slept = true;
        if self.limit == Duration::MAX {
            return condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        loom::thread::yield_now();
        lock(mutex)
    }
}

macro_rules! zeroed {
    ($($(#[$doc:meta])* $name:ident: $atomic:ident, $int:ty;)*) => {$(
        $(#[$doc])*
        #[cfg(not(memsvc_loom))]
        pub(crate) fn $name(count: usize) -> Box<[atomic::$atomic]> {
            match <[atomic::$atomic] as zerocopy::FromZeros>::new_box_zeroed_with_elems(count) {
                Ok(zeroed) => zeroed,
                Err(_) => std::alloc::handle_alloc_error(
                    std::alloc::Layout::array::<$int>(count).unwrap_or(std::alloc::Layout::new::<$int>()),
                ),
            }
        }

        #[cfg(memsvc_loom)]
        pub(crate) fn $name(count: usize) -> Box<[atomic::$atomic]> {
            (0..count).map(|_| atomic::$atomic::new(0)).collect()
        }
    )*};
}

zeroed! {
    /// So many zeroes, which cost memory only once they are written.
    zeroed_u16: AtomicU16, u16;
    /// So many zeroes, which cost memory only once they are written.
    zeroed_u32: AtomicU32, u32;
}
