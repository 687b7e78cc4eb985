//! What the concurrent heart synchronizes with: std's, or loom's when checked under `--cfg memsvc_loom`.
//!
//! A private cfg, because `--cfg loom` would reach every crate below and breaks some of them.

#[cfg(memsvc_loom)]
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(memsvc_loom))]
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, atomic};

use std::sync::PoisonError;

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
