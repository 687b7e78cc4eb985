//! Waits until the guest has done what the balloon asks, and until the host has the memory. A line for each shows how far
//! it is.
//!
//! ```text
//!   guest: asked ─▶ actual = asked ─▶ host: all of it back, or compaction at rest ─▶ done
//!            └─ no progress for 10 s ─┴──▶ error
//! ```

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use memsvc::stats::CompactionInfo;

use super::{super::args::WaitFor, progress};
use crate::{
    api::{
        client::{Client, ClientError},
        types::BalloonProgress,
    },
    vm::config::Mib,
};

const POLL: Duration = Duration::from_millis(100);
/// Who makes no progress for this long will make none.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the guest has given up `amount`, and then, if that is wanted, for the host; an error once there is no progress
/// any more. `None` if the guest has no balloon.
pub(super) fn wait(client: &Client, amount: Mib, whom: WaitFor) -> anyhow::Result<Option<BalloonProgress>> {
    let Some(first) = progress(client)? else { return Ok(None) };
    let bars = Bars::new(first, amount, whom);
    let look = || {
        thread::sleep(POLL);
        let now = progress(client)?.unwrap_or(first);
        bars.show(&now);
        Ok(now)
    };
    let is_at_rest = || {
        let info: CompactionInfo = client.get("/memory/compaction")?;
        Ok(info.at_rest && !info.running)
    };
    let done = Wait { amount, whom, patience: PATIENCE }.until_done(first, look, is_at_rest);
    bars.end(done.is_ok());
    done.map(Some)
}

/// What is waited for.
struct Wait {
    amount: Mib,
    whom: WaitFor,
    patience: Duration,
}

impl Wait {
    /// Looks, again and again, at how far guest and host are, and once that is what is missing, whether compaction is at rest.
    fn until_done(
        &self,
        mut seen: BalloonProgress,
        look: impl Fn() -> Result<BalloonProgress, ClientError>,
        is_at_rest: impl Fn() -> Result<bool, ClientError>,
    ) -> anyhow::Result<BalloonProgress> {
        let Self { amount, whom, patience } = *self;
        let mut moved = Instant::now();
        loop {
            let is_given_up = seen.actual_mib == amount;
            if is_given_up && (whom == WaitFor::Guest || seen.host_freed_mib >= amount) {
                return Ok(seen);
            }
            // What it has won until now is looked at once more.
            if is_given_up && self.answered(is_at_rest())? {
                return self.answered(look());
            }
            if moved.elapsed() > patience {
                let (actual, freed) = (seen.actual_mib, seen.host_freed_mib);
                if is_given_up {
                    bail!(
                        "The guest has given up {actual}, and the host has {freed} of it back and gets no further: wait until the guest does less, or run aerostat memory compact."
                    );
                }
                bail!(
                    "The guest has given up {actual} of {amount} and goes no further: it may need the rest, or have no balloon driver."
                );
            }
            let now = self.answered(look())?;
            if now.target_mib != amount {
                bail!("Somebody else set the balloon to {} meanwhile.", now.target_mib)
            }
            if (now.actual_mib, now.host_freed_mib) != (seen.actual_mib, seen.host_freed_mib) {
                seen = now;
                moved = Instant::now();
            }
        }
    }

    fn answered<T>(&self, answer: Result<T, ClientError>) -> anyhow::Result<T> {
        match answer {
            Err(ClientError::NotThere(_) | ClientError::NoAnswer(_)) => {
                bail!("The guest ended before it had given up {}.", self.amount)
            }
            answer => Ok(answer?),
        }
    }
}

/// A line for the guest, and one for the host if it is waited for.
struct Bars {
    first: Mib,
    guest: ProgressBar,
    host: Option<ProgressBar>,
}

impl Bars {
    fn new(now: BalloonProgress, amount: Mib, whom: WaitFor) -> Self {
        let lines = MultiProgress::new();
        let bar = |len: u64, message: &'static str| {
            let bar = lines.add(ProgressBar::new(len)).with_message(message);
            if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} MiB {elapsed}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        };
        let first = now.actual_mib;
        let guest = bar(amount.0.abs_diff(first.0), if amount > first { "inflating" } else { "deflating" });
        let host = (whom == WaitFor::Host).then(|| bar(amount.0, "back at the host"));
        Self { first, guest, host }
    }

    fn show(&self, now: &BalloonProgress) {
        self.guest.set_position(now.actual_mib.0.abs_diff(self.first.0));
        if let Some(host) = &self.host {
            host.set_position(now.host_freed_mib.0);
        }
    }

    /// What did not come to its end stays to be seen.
    fn end(&self, is_done: bool) {
        for bar in [Some(&self.guest), self.host.as_ref()].into_iter().flatten() {
            if is_done { bar.finish_and_clear() } else { bar.abandon() }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn at(target: u64, actual: u64, freed: u64) -> BalloonProgress {
        BalloonProgress { target_mib: Mib(target), actual_mib: Mib(actual), host_freed_mib: Mib(freed) }
    }

    /// Waits for 64 MiB; what is seen, the last of it for ever, and after how many questions compaction is at rest.
    fn wait(
        whom: WaitFor,
        seen: &[BalloonProgress],
        rests_after: u32,
    ) -> (Result<BalloonProgress, String>, u32) {
        let left = RefCell::new(seen.iter());
        let last = seen.last().copied().expect("something is seen");
        let asked = Cell::new(0);
        let look = || Ok(left.borrow_mut().next().copied().unwrap_or(last));
        let is_at_rest = || {
            asked.set(asked.get() + 1);
            Ok(asked.get() > rests_after)
        };
        let wait = Wait { amount: Mib(64), whom, patience: Duration::from_millis(20) };
        let done = wait.until_done(at(64, 0, 0), look, is_at_rest);
        (done.map_err(|error| error.to_string()), asked.get())
    }

    #[test]
    fn who_waits_for_the_guest_does_not_wait_for_the_host() {
        let seen = [at(64, 10, 0), at(64, 64, 2)];
        assert_eq!(wait(WaitFor::Guest, &seen, 0), (Ok(at(64, 64, 2)), 0));
    }

    #[test]
    fn who_waits_for_the_host_waits_until_it_has_all() {
        let seen = [at(64, 64, 2), at(64, 64, 40), at(64, 64, 64)];
        assert_eq!(wait(WaitFor::Host, &seen, 99), (Ok(at(64, 64, 64)), 2));
    }

    #[test]
    fn compaction_at_rest_is_the_end_of_it_and_says_the_last() {
        let seen = [at(64, 64, 2), at(64, 64, 40), at(64, 64, 60)];
        assert_eq!(wait(WaitFor::Host, &seen, 1), (Ok(at(64, 64, 60)), 2));
        // It is not asked before the guest has given up all.
        let seen = [at(64, 3, 0), at(64, 4, 0), at(64, 64, 0)];
        assert_eq!(wait(WaitFor::Host, &seen, 0), (Ok(at(64, 64, 0)), 1));
    }

    #[test]
    fn who_goes_no_further_is_said() {
        for (whom, seen, sentence) in [
            (WaitFor::Guest, at(64, 3, 0), "The guest has given up 3 MiB of 64 MiB and goes no further"),
            (WaitFor::Host, at(64, 64, 9), "the host has 9 MiB of it back and gets no further"),
            (WaitFor::Host, at(32, 3, 0), "Somebody else set the balloon to 32 MiB meanwhile."),
        ] {
            let error = wait(whom, &[seen], u32::MAX).0.expect_err(sentence);
            assert!(error.contains(sentence), "{error}");
        }
    }
}
