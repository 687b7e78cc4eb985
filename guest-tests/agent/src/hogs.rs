//! Processes that use more memory than there is: what they write goes to swap and has to come back right.
//!
//! ```text
//! agent: map ── fork ──▶ Writing ──all written──▶ Ready ──Read──▶ Reading ⟲ ──Stop──▶ gone
//!                           └───────────────── killed ───────────────┴─────▶ lost
//! ```
//! Each is a process of its own, so that the OOM killer may take one; the agent is process 1, which it never
//! takes. A hog uses its pages, its stack and one shared page run, made before the fork; it never allocates.

#![allow(unsafe_code, reason = "fork(2), getrusage(2), and reads that the compiler must not drop")]

mod board;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guest_agent::latency;
use guest_agent::{Answer, Content, Hogs, HogsRequest, content};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use self::board::{Board, Told};
use crate::child;
use crate::region::Region;

const MOST: u32 = 64;
/// A touch that took less cannot have been a major fault: no look at the counter is needed.
const SHORTEST_FAULT: Duration = Duration::from_micros(2);
/// Between two looks of a hog at what it is to do.
const INTERVAL: Duration = Duration::from_millis(1);

/// Running hogs. Dropping it ends them.
pub(crate) struct Herd {
    board: Board,
    alive: Vec<Pid>,
    lost: u32,
    pages: u64,
}

/// Serves one request.
pub(crate) fn serve(herd: &mut Option<Herd>, request: HogsRequest) -> Result<Answer, String> {
    const NONE: &str = "no hogs run";
    match request {
        HogsRequest::Start { .. } if herd.is_some() => Err("hogs run already".to_owned()),
        HogsRequest::Start { processes, mib, pages, seed, content } => {
            let map = || Region::map(mib, pages);
            *herd = Some(Herd::start(processes, map, seed, content)?);
            Ok(Answer::Done)
        }
        HogsRequest::Read => {
            let board = &herd.as_ref().ok_or(NONE)?.board;
            for told in board.told() {
                told.page_in.clear();
                told.longest_ns.store(0, Ordering::Relaxed);
            }
            board.reading().store(true, Ordering::Relaxed);
            Ok(Answer::Done)
        }
        HogsRequest::Status => Ok(Answer::Hogs(herd.as_mut().ok_or(NONE)?.status())),
        HogsRequest::Stop => Ok(Answer::Hogs(herd.take().ok_or(NONE)?.status())),
    }
}

impl Herd {
    fn start(
        processes: u32,
        map: impl Fn() -> Result<Region, String>,
        seed: u64,
        content: Content,
    ) -> Result<Self, String> {
        if !(1..=MOST).contains(&processes) || content.zero_percent > 100 || content.ratio == 0 {
            return Err(format!("hogs: 1 to {MOST} processes, 0 to 100 % zero pages, a ratio of 1 or more"));
        }
        let board = Board::new(processes as usize).map_err(|error| format!("no shared memory: {error}"))?;
        let mut herd = Self { board, alive: Vec::new(), lost: 0, pages: 0 };
        for (index, told) in (0..).zip(herd.board.told()) {
            let region = map()?;
            herd.pages = region.pages() as u64;
            // Each has pages of its own kind, so that one hog's page in another shows.
            let hog =
                Hog { region, told, reading: herd.board.reading(), seed: seed.wrapping_add(index), content };
            // SAFETY: the child only uses system calls and memory that is mapped already, and never returns.
            match unsafe { libc::fork() } {
                -1 => return Err(format!("cannot fork: {}", std::io::Error::last_os_error())),
                0 => hog.live(),
                pid => herd.alive.extend(Pid::from_raw(pid)),
            }
        }
        Ok(herd)
    }

    fn status(&mut self) -> Hogs {
        let before = self.alive.len();
        self.alive.retain(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
        self.lost += u32::try_from(before - self.alive.len()).unwrap_or(u32::MAX);
        let told = self.board.told();
        let sum = |value: fn(&Told) -> &AtomicU64| {
            told.iter().map(|told| value(told).load(Ordering::Acquire)).sum()
        };
        let each =
            |value: fn(&Told) -> &AtomicU64| told.iter().map(move |told| value(told).load(Ordering::Acquire));
        Hogs {
            alive: u32::try_from(self.alive.len()).unwrap_or(u32::MAX),
            lost: self.lost,
            written: sum(|told| &told.written),
            ready: each(|told| &told.written).map(|written| u32::from(written == self.pages)).sum(),
            write_micros: each(|told| &told.write_micros).max().unwrap_or(0),
            passes: each(|told| &told.passes).min().unwrap_or(0),
            verified: sum(|told| &told.verified),
            wrong: sum(|told| &told.wrong),
            page_in: latency::summary(told.iter().map(|told| &told.page_in)),
            longest_ns: each(|told| &told.longest_ns).max().unwrap_or(0),
        }
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        for pid in &self.alive {
            let _ = kill_process(*pid, Signal::KILL);
        }
        for pid in &self.alive {
            let _ = waitpid(Some(*pid), WaitOptions::empty());
        }
    }
}

/// One process.
struct Hog<'a> {
    region: Region,
    told: &'a Told,
    reading: &'a AtomicBool,
    seed: u64,
    content: Content,
}

impl Hog<'_> {
    fn live(mut self) -> ! {
        child::prefer_for_oom();
        let start = Instant::now();
        for page in 0..self.region.pages() {
            content::write(self.region.page_mut(page), self.seed, page as u64, self.content);
            if page + 1 == self.region.pages() {
                // Before it counts as ready.
                self.told.write_micros.store(micros(start.elapsed()), Ordering::Relaxed);
            }
            self.told.written.fetch_add(1, Ordering::Release);
        }
        while !self.reading.load(Ordering::Relaxed) {
            std::thread::sleep(INTERVAL);
        }
        loop {
            self.pass();
            self.told.passes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn pass(&self) {
        let mut faults = major_faults();
        for page in 0..self.region.pages() {
            let words = self.region.page(page);
            let start = Instant::now();
            if let Some(first) = words.first() {
                // SAFETY: a reference is valid to read from; volatile, so that it is read here and now.
                unsafe { std::ptr::read_volatile(first) };
            }
            let taken = start.elapsed();
            self.told.longest_ns.fetch_max(nanos(taken), Ordering::Relaxed);
            if taken >= SHORTEST_FAULT {
                let now = major_faults();
                if now != faults {
                    self.told.page_in.record(nanos(taken));
                }
                faults = now;
            }
            let right = content::matches(words, self.seed, page as u64, self.content);
            self.told.verified.fetch_add(1, Ordering::Relaxed);
            self.told.wrong.fetch_add(u64::from(!right), Ordering::Relaxed);
        }
    }
}

/// Faults of this process that had to wait for a device.
fn major_faults() -> i64 {
    // SAFETY: an rusage is plain numbers, so all zero is valid, and it is ours to be written.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage.ru_majflt
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use guest_agent::Pages;

    use super::*;

    const CONTENT: Content = Content { zero_percent: 10, ratio: 3 };

    fn until(herd: &mut Option<Herd>, done: impl Fn(&Hogs) -> bool) -> Hogs {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match serve(herd, HogsRequest::Status) {
                Ok(Answer::Hogs(hogs)) if done(&hogs) => return hogs,
                Ok(Answer::Hogs(hogs)) if Instant::now() > end => panic!("nothing more happens: {hogs:?}"),
                Ok(Answer::Hogs(_)) => std::thread::sleep(INTERVAL),
                other => panic!("{other:?}"),
            }
        }
    }

    fn start(processes: u32) -> HogsRequest {
        HogsRequest::Start { processes, mib: 1, pages: Pages::Base, seed: 5, content: CONTENT }
    }

    #[test]
    fn hogs_write_wait_to_be_told_to_read_and_find_every_page_right() {
        let mut herd = None;
        serve(&mut herd, start(2)).expect("hogs");
        assert!(serve(&mut herd, start(2)).is_err(), "only one herd");
        let ready = until(&mut herd, |hogs| hogs.ready == 2);
        assert_eq!((ready.alive, ready.lost, ready.written, ready.verified), (2, 0, 512, 0));
        serve(&mut herd, HogsRequest::Read).expect("reading");
        let read = until(&mut herd, |hogs| hogs.passes >= 2);
        assert!(read.verified >= 1024 && read.wrong == 0, "{read:?}");
        assert!(matches!(serve(&mut herd, HogsRequest::Stop), Ok(Answer::Hogs(hogs)) if hogs.alive == 2));
        assert!(serve(&mut herd, HogsRequest::Status).is_err(), "none runs any more");
    }

    #[test]
    fn one_that_is_killed_is_lost() {
        let mut herd = None;
        serve(&mut herd, start(2)).expect("hogs");
        let first = herd.as_ref().and_then(|herd| herd.alive.first().copied()).expect("a process");
        kill_process(first, Signal::KILL).expect("killed");
        let left = until(&mut herd, |hogs| hogs.lost > 0);
        assert_eq!((left.alive, left.lost), (1, 1));
    }

    #[test]
    fn a_page_that_was_changed_is_counted_wrong() {
        let board = Board::new(1).expect("shared memory");
        let mut region = Region::map(1, Pages::Base).expect("a region");
        for page in 0..region.pages() {
            content::write(region.page_mut(page), 5, page as u64, CONTENT);
        }
        region.page_mut(7)[100] ^= 1;
        let told = &board.told()[0];
        let hog = Hog { region, told, reading: board.reading(), seed: 5, content: CONTENT };
        hog.pass();
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed);
        assert_eq!((count(&told.verified), count(&told.wrong)), (256, 1));
        assert!(count(&told.longest_ns) > 0, "no touch was timed");
    }
}
