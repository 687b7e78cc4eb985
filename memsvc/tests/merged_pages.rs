//! The host merges pages that hold the same (KSM), as fast as it can, while a synthetic guest's pages go and come. The
//! monitor keeps its memory from that; here everything is open to it, as if that had failed.
//!
//! It changes the host's settings, so it needs root, and a kernel with KSM.
#![allow(unsafe_code)] // plays the guest: raw reads and writes in guest space

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memsvc::core::compact::Tuning;
use memsvc::core::units::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK};
use memsvc::{Config, Gfn, MemoryService, RegionSpec};

const BLOCKS: usize = 8;
const PAGES: usize = BLOCKS * FRAMES_PER_BLOCK;
/// Longest time for a touch; more is a hang.
const LONGEST: Duration = Duration::from_secs(10);
/// How long it goes on, in seconds; `ci/soak` sets it to minutes.
const SECONDS: &str = "MEMSVC_NOISE_SECONDS";

/// KSM at full speed. Dropping it sets everything back.
struct Ksm(Vec<(&'static str, String)>);

impl Ksm {
    const SETTINGS: &str = "/sys/kernel/mm/ksm";
    const FULL_SPEED: [(&str, &str); 5] = [
        ("sleep_millisecs", "0"),
        ("pages_to_scan", "4096"),
        ("smart_scan", "0"),
        ("use_zero_pages", "1"),
        ("run", "1"),
    ];

    /// Nothing where this host has none that we may set.
    fn at_full_speed() -> Option<Self> {
        let mut ksm = Self(Vec::new());
        for (name, value) in Self::FULL_SPEED {
            let path = Path::new(Self::SETTINGS).join(name);
            let before = fs::read_to_string(&path).ok()?;
            fs::write(&path, value).ok()?;
            ksm.0.push((name, before));
        }
        Some(ksm)
    }
}

impl Drop for Ksm {
    fn drop(&mut self) {
        for (name, value) in self.0.iter().rev() {
            let _ = fs::write(Path::new(Self::SETTINGS).join(name), value);
        }
    }
}

/// Pages of this process that are merged now, with each other or with the zero page.
fn merged() -> u64 {
    let text = fs::read_to_string("/proc/self/ksm_stat").unwrap_or_default();
    let number = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok());
    let counted = |line: &&str| line.starts_with("ksm_merging_pages") || line.starts_with("ksm_zero_pages");
    text.lines().filter(counted).filter_map(number).sum()
}

fn word(service: &MemoryService, page: usize, word: usize) -> &AtomicU64 {
    let address = service.regions()[0].host + page * FRAME_SIZE + 8 * word;
    // SAFETY: inside guest RAM, which lives as long as the service.
    unsafe { AtomicU64::from_ptr(address as *mut u64) }
}

/// Whether a page is never given up.
fn is_kept(page: usize) -> bool {
    page % 4 < 2
}

/// Of the kept pages one half is unlike any other, and the other half is all alike.
fn value(page: usize, round: u64) -> u64 {
    if page.is_multiple_of(4) { (page as u64) << 32 | round } else { 7 }
}

/// Reads every kept page, and writes those that are unlike others; gives the longest that one took.
fn pass(service: &MemoryService, round: u64) -> Duration {
    let mut longest = Duration::ZERO;
    for page in (0..PAGES).filter(|&page| is_kept(page)) {
        let start = Instant::now();
        for at in [0, 511] {
            let word = word(service, page, at);
            assert_eq!(word.load(Ordering::Relaxed), value(page, round), "page {page}");
            if page.is_multiple_of(4) {
                word.store(value(page, round + 1), Ordering::Relaxed);
            }
        }
        longest = longest.max(start.elapsed());
    }
    longest
}

/// Gives up the pages between, and takes them back; the compactor has its work all the while.
fn up_and_down(service: &MemoryService, stop: &AtomicBool) {
    let given: Vec<Gfn> = (0..PAGES).filter(|&page| !is_kept(page)).map(|page| Gfn(page as u64)).collect();
    while !stop.load(Ordering::Relaxed) {
        for batch in given.chunks(256) {
            assert_eq!(service.inflate(batch).refused, 0);
        }
        service.compact(|| !stop.load(Ordering::Relaxed));
        for batch in given.chunks(256) {
            assert_eq!(service.deflate(batch).refused, 0);
        }
        for gfn in &given {
            // What was given up reads as zero, or as it was: alike.
            let value = word(service, gfn.0 as usize, 0).swap(9, Ordering::Relaxed);
            assert!(value == 0 || value == 9, "page {gfn:?} holds {value}");
        }
        service.compact(|| !stop.load(Ordering::Relaxed));
    }
}

#[test]
fn no_page_changes_while_the_host_merges_pages_and_they_move() {
    let Some(_ksm) = Ksm::at_full_speed() else {
        eprintln!("not tried: this host has no KSM that we may set");
        return;
    };
    // SAFETY: changes how this process's memory is backed, nothing else.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_MEMORY_MERGE, 1, 0, 0, 0) }, 0);
    let seconds = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let regions = vec![RegionSpec { gpa: 0, len: (BLOCKS * BLOCK_SIZE) as u64 }];
    let config = Config { compaction: Tuning::default(), ..Config::new(regions) };
    let service: Arc<MemoryService> =
        MemoryService::new(&config, |why| panic!("{why}")).expect("a service on this host");
    for page in (0..PAGES).filter(|&page| is_kept(page)) {
        for at in [0, 511] {
            word(&service, page, at).store(value(page, 0), Ordering::Relaxed);
        }
    }
    let (stop, start) = (AtomicBool::new(false), Instant::now());
    let (mut round, mut longest, mut most) = (0, Duration::ZERO, 0);
    thread::scope(|scope| {
        let other = scope.spawn(|| up_and_down(&service, &stop));
        while (start.elapsed() < Duration::from_secs(seconds) || most == 0) && !other.is_finished() {
            assert!(start.elapsed() < Duration::from_secs(seconds + 60), "nothing is merged");
            longest = longest.max(pass(&service, round));
            round += 1;
            most = most.max(merged());
            // Time to be merged.
            thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    pass(&service, round);
    let stats = service.stats();
    eprintln!("{round} rounds, up to {most} pages merged, longest touch {longest:?}: {stats:?}");
    assert!(longest < LONGEST, "a touch took {longest:?}");
    assert_eq!(stats.moves.poison_lost, 0, "somebody wrote to a free frame");
}
