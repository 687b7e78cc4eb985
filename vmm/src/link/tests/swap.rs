//! The link with swap behind it, the NBD session and the store that guests get, over links of all sorts. Each
//! page is what was written there last. Where a write was cut off, the page is what it was before or was to
//! be.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use memsvc::guard::Guard;
use memsvc::swap::{Codec, Swap, SwapConfig, TierConfig, Waker};

use super::net::{Faults, Net};
use super::swapper::Swapper;
use super::{ALL_OFFLOADS, NO_OFFLOADS, config};
use crate::swap::Served;
use crate::swap::known::{Known, PAGE};

const BAD: Faults = Faults { loss: 20, duplicate: 30, late: 100, scarce: true };
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Connections, each with pages of its own.
const CLIENTS: u64 = 3;
const PAGES: u64 = 200;

struct Rig {
    swap: Swap,
    net: Net<Served, Swapper>,
    known: Rc<RefCell<Known>>,
    random: fastrand::Rng,
}

impl Rig {
    fn new(faults: Faults, tiers: Vec<TierConfig>, seed: u64) -> Self {
        let bytes = CLIENTS * PAGES * PAGE as u64;
        let memory = if tiers.is_empty() { bytes } else { bytes / 4 };
        let config_of_swap = SwapConfig { name: "swap".into(), bytes, memory, codec: Codec::Lz4, tiers };
        let swap =
            Swap::standalone(&config_of_swap, &Guard::new(|why| panic!("{why}"))).expect("a swap device");
        let served = Served::new(&swap, &Arc::new(Waker::new().expect("a descriptor")));
        let net = Net::between(crate::link::Config { seed, ..config() }, served, ALL_OFFLOADS, faults);
        Self { swap, net, known: Known::new(seed), random: fastrand::Rng::with_seed(seed) }
    }

    /// One program for each share of the pages, that make so many requests.
    fn start(&mut self, requests: u64, buffer: usize) {
        for client in 0..CLIENTS {
            let pages = client * PAGES..(client + 1) * PAGES;
            self.net.guest.run(Swapper::new(&self.known, pages, requests), buffer, self.net.now);
        }
    }

    fn run_for_some_time(&mut self) {
        self.net.run(Duration::from_micros(self.random.u64(100..200_000)));
    }

    /// Another guest; the device is reset.
    fn reboot(&mut self) {
        self.net.guest.programs.iter_mut().for_each(|program| program.talk.lose());
        let offloads = if self.random.bool() { ALL_OFFLOADS } else { NO_OFFLOADS };
        self.net.reboot(Some(offloads));
    }

    /// As [`Self::finish`], and no connection was lost.
    fn finish_without_loss(mut self) {
        self.net.finish(DAY);
        let retries: u64 = self.net.guest.programs.iter().map(|program| program.retries).sum();
        assert_eq!((retries, self.net.peer.metrics().reset.get()), (0, 0));
        self.finish();
    }

    /// All that was asked is done, all pages have been read; nothing is left of connections, nor of what is trimmed.
    fn finish(mut self) -> Rc<RefCell<Known>> {
        self.net.finish(DAY);
        self.net.faults = Faults::default();
        self.net.run(Duration::from_secs(90));
        let metrics = self.net.peer.metrics();
        let ended = metrics.closed.get() + metrics.reset.get() + metrics.evicted.get();
        assert_eq!(metrics.opened.get(), ended, "{metrics:?}");
        let stats = self.swap.stats();
        let faults = (stats.nbd.malformed, stats.nbd.errors, stats.nbd.refused, stats.store.lost);
        assert_eq!(faults, (0, 0, 0, 0), "{stats:?}");
        if let [tier] = &stats.store.tiers[..] {
            assert!(tier.pages_written > 10 && tier.pages_read > 10, "{tier:?}");
        }
        let stored = self.known.borrow().stored();
        assert_eq!(stats.store.stored_pages, stored);
        self.known
    }
}

#[test]
fn pages_come_back_over_a_bad_link() {
    for seed in 0..4 {
        let mut rig = Rig::new(BAD, vec![], seed);
        rig.start(60, 65_535);
        rig.finish_without_loss();
    }
}

#[test]
fn pages_come_back_through_tiny_windows() {
    for (seed, window) in [537, 1461, 3000].into_iter().enumerate() {
        let mut rig = Rig::new(Faults { loss: 5, late: 50, ..Faults::default() }, vec![], seed as u64);
        rig.start(20, window);
        rig.finish_without_loss();
    }
}

#[test]
fn writes_that_are_cut_off_leave_pages_old_or_new() {
    let (mut old, mut new, mut cut) = (0, 0, 0);
    for seed in 0..6 {
        let mut rig = Rig::new(BAD, vec![], seed);
        rig.start(120, 65_535);
        for _ in 0..12 {
            rig.run_for_some_time();
            let now = rig.net.now;
            rig.net.guest.reset(rig.random.usize(..CLIENTS as usize), now);
        }
        let known = rig.finish();
        let known = known.borrow();
        (old, new, cut) = (old + known.old, new + known.new, cut + known.cut);
    }
    assert!(old > 50 && new > 50 && cut > 10, "{old} old, {new} new, {cut} cut off");
}

#[test]
fn a_guest_that_is_reset_in_the_middle_of_writes_finds_its_pages_old_or_new() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut old, mut new, mut cut) = (0, 0, 0);
    for seed in 0..8 {
        // On a tier, too, where no frame is lost: there a write may still wait for room.
        let on_tier = seed % 2 == 1;
        let tiers = on_tier.then(|| TierConfig::File(directory.path().to_path_buf()));
        let faults = if on_tier { Faults { scarce: true, ..Faults::default() } } else { BAD };
        let mut rig = Rig::new(faults, Vec::from_iter(tiers), seed);
        for _ in 0..6 {
            rig.start(100, 65_535);
            rig.run_for_some_time();
            rig.reboot();
        }
        rig.start(10, 65_535);
        let known = rig.finish();
        let known = known.borrow();
        (old, new, cut) = (old + known.old, new + known.new, cut + known.cut);
    }
    assert!(old > 50 && new > 50 && cut > 10, "{old} old, {new} new, {cut} cut off");
}
