//! Threads that write and check counters while the host moves the memory under them.
//!
//! Each thread has a region of its own. In round r every page must hold r − 1 in two places, together
//! with the page's index; the thread checks and writes r. Only a lost or a foreign page can break that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use guest_agent::{Churn, Pages, pattern};

use crate::region::Region;

/// The places in a page where a counter lies: first word and last.
const PLACES: [usize; 2] = [0, pattern::WORDS - 1];

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    pages: AtomicU64,
    errors: AtomicU64,
    longest_ns: AtomicU64,
}

/// Running churn threads. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Threads {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts `threads` threads over `mib` MiB.
    pub(crate) fn start(mib: u64, threads: u32) -> Result<Self, String> {
        if !(1..=64).contains(&threads) || mib < u64::from(threads) {
            return Err("churn takes 1 to 64 threads with at least 1 MiB each".to_owned());
        }
        let shared = Arc::new(Shared::default());
        let mut running = Self { shared: Arc::clone(&shared), handles: Vec::new() };
        for _ in 0..threads {
            let region = Region::map(mib / u64::from(threads), Pages::Any)?;
            let shared = Arc::clone(&shared);
            let handle = std::thread::Builder::new().spawn(move || churn(region, &shared));
            running.handles.push(handle.map_err(|error| format!("cannot start a thread: {error}"))?);
        }
        Ok(running)
    }

    /// Work so far.
    pub(crate) fn status(&self) -> Churn {
        Churn {
            pages: self.shared.pages.load(Ordering::Relaxed),
            errors: self.shared.errors.load(Ordering::Relaxed),
            longest_ns: self.shared.longest_ns.load(Ordering::Relaxed),
        }
    }

    /// Ends the threads; says what they did.
    pub(crate) fn stop(mut self) -> Churn {
        self.end();
        self.status()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for handle in self.handles.drain(..) {
            if handle.join().is_err() {
                self.shared.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}

fn churn(mut region: Region, shared: &Shared) {
    let mut round = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        for page in 0..region.pages() {
            let words = region.page_mut(page);
            let start = Instant::now();
            let tag = pattern::base(0, page as u64);
            for place in PLACES {
                let Some(word) = words.get_mut(place) else { continue };
                let expected = if round == 0 { 0 } else { tag.wrapping_add(round) };
                if *word != expected {
                    shared.errors.fetch_add(1, Ordering::Relaxed);
                }
                *word = tag.wrapping_add(round + 1);
            }
            let taken = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            shared.longest_ns.fetch_max(taken, Ordering::Relaxed);
            shared.pages.fetch_add(1, Ordering::Relaxed);
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
        }
        round += 1;
    }
}
