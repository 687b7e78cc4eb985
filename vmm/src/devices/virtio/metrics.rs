//! Counters that any thread may raise and any thread may read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows. It serializes as a plain number.
#[derive(Debug, Default, serde::Serialize)]
#[serde(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
