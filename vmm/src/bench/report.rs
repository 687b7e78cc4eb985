//! The benchmark's report, field by field: `--json`, and the source of table and chart.

use memsvc::stats::LatencyStats;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Policy, pattern::Pattern, times::Summary};

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// The host's kernel.
    pub kernel_release: String,
    /// Threads of the load.
    pub load_threads: usize,
    /// Memory that is filled, bytes.
    pub memory_bytes: u64,
    /// Pause before each request under load, microseconds.
    pub delay_us: u64,
    /// What was measured, policy by policy for each share and pattern.
    pub runs: Vec<Run>,
}

/// One policy with one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// What was given back.
    pub pattern: Pattern,
    /// Of memory, hundredths filled with what cannot be moved.
    pub unmovable_percent: u32,
    /// Who made whole pages.
    pub policy: Policy,
    /// Frames that nobody used when the first page was asked for: free, or given back.
    pub unused_frames: u64,
    /// Blocks that these would make: 100 % of what is asked for.
    pub all_blocks: u64,
    /// Blocks that can be had at most.
    pub attainable_blocks: u64,
    /// Whole blocks that were free.
    pub free_blocks: u64,
    /// Frames of the guest in use.
    pub live_frames: u64,
    /// Frames in use that cannot be moved.
    pub unmovable_frames: u64,
    /// `rest`, `load_1`, `load_2` and `rested`, in this order.
    pub phases: Vec<Phase>,
}

/// Requests one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Whole pages (2 MiB) asked for, those beyond 100 % with them.
    pub asked: u64,
    /// Whole pages won: the guest does not use them, and the host could have them.
    pub won: u64,
    /// Of what was asked for, 100 % of the unused memory at most, hundredths.
    pub success_of_request: f64,
    /// The same, of what can be had at most.
    pub success_of_attainable: f64,
    /// Huge pages made; for `kernel` those with them by which it takes back what had been given up.
    pub made: u64,
    /// What a request took by which one was made.
    pub latency: Summary,
    /// What the others took.
    pub failure_latency: Summary,
    /// What was done for it. None for `kernel`, which does not say.
    pub work: Option<WorkDone>,
    /// What it took the load's threads to write or read a page in use. None without load.
    pub touches: Option<Summary>,
    /// As it went.
    pub steps: Vec<Step>,
}

/// What was done to make whole pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkDone {
    /// Frames moved so that blocks become free.
    pub migrated_frames: u64,
    /// The same, for each page won.
    pub migrated_per_success: f64,
    /// Bytes copied, for that or for whatever else.
    pub copied_bytes: u64,
    /// The same, for each page won.
    pub copied_per_success: f64,
    /// The fewest live frames that could have been moved for as many pages. None under load and after it: there
    /// is no one state of memory then.
    pub fewest_frames: Option<u64>,
    /// Frames moved, by the fewest. None where there was nothing to move.
    pub migrated_vs_fewest: Option<f64>,
    /// Blocks chosen to be emptied.
    pub sources: u64,
    /// Blocks won by that.
    pub emptied: u64,
    /// Blocks won for each chosen. None if none was.
    pub scan_efficiency: Option<f64>,
    /// Chances passed because attempts before had won nothing.
    pub deferred: u64,
    /// Waits for a page on the move, as the service counts them.
    pub stalls: Stalls,
}

const BUCKETS: usize = LatencyStats::BUCKETS;

/// Waits for a page on the move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stalls {
    /// How many.
    pub count: u64,
    /// 99 of 100 took less, microseconds; a power of two.
    pub p99_below_us: u64,
    /// None took longer, microseconds.
    pub max_us: u64,
    #[serde(skip)]
    counts: [u64; BUCKETS],
}

impl Stalls {
    /// By how many took less than 2^n µs, and at least half of it.
    pub(super) fn new(counts: [u64; BUCKETS], max_us: u64) -> Self {
        let count: u64 = counts.iter().sum();
        let mut seen = 0;
        let p99 = counts.iter().position(|more| {
            seen += more;
            count > 0 && seen >= (count * 99).div_ceil(100)
        });
        let last = counts.iter().rposition(|count| *count > 0);
        let below = |bit: Option<usize>| bit.map_or(0, |bit| 1 << bit);
        Self { count, p99_below_us: below(p99), max_us: max_us.min(below(last)), counts }
    }

    /// Those that came after `before`.
    pub(super) fn since(&self, before: &Stalls) -> Self {
        Self::new(std::array::from_fn(|bit| self.counts[bit] - before.counts[bit]), self.max_us)
    }
}

/// Some requests, and how memory stood after them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// Whole pages asked for so far in this phase, by the unused memory, hundredths.
    pub asked_percent: f64,
    /// Whole pages asked for so far in this phase.
    pub asked: u64,
    /// Whole pages won so far.
    pub won: u64,
    /// Of what was asked for so far, 100 % of the unused memory at most, hundredths.
    pub success_of_request: f64,
    /// The same, of what can be had at most.
    pub success_of_attainable: f64,
    /// What each request of this step took by which a page was made.
    pub latency: Summary,
    /// Bytes behind the guest's memory.
    pub resident_bytes: u64,
    /// Of these, in huge pages.
    pub huge_bytes: u64,
    /// Whole pages in all: those won, and huge ones behind the guest, less what is behind the guest and not in
    /// use (in pages of 2 MiB).
    pub whole_pages: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_of_a_phase_are_those_that_came_in_it() {
        let mut counts = [0; BUCKETS];
        counts[20] = 1;
        let before = Stalls::new(counts, 600_000);
        counts[3] = 99;
        counts[10] = 1;
        let stalls = Stalls::new(counts, 600_000).since(&before);
        assert_eq!((stalls.count, stalls.p99_below_us, stalls.max_us), (100, 8, 1024));
        let none = before.since(&before);
        assert_eq!((none.count, none.p99_below_us, none.max_us), (0, 0, 0));
    }
}
