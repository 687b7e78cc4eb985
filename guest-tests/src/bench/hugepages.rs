//! Whole huge pages of memory that was given back in pieces: `aerostat bench hugepages` for every pattern and
//! every unmovable share. The results are numbers that have a target.
//!
//! | ratio | what it is |
//! | --- | --- |
//! | `rest_success_uN`, `load_success_uN` | pages won by `occupancy` of those that can be had at most, every second group given back, N % unmovable; the worse of both times under load. `..._of_request`: of those asked for |
//! | `copy_vs_lower_bound` | frames moved by `occupancy` at rest, by the fewest that could have been; the worst case |
//! | `copy_vs_scanner` | the same for each page won, by those that `scanner` moved; the worst case |
//! | `lower_bound_vs_scanner` | the fewest, by those that `scanner` moved; the best case: no policy could do better |
//! | `huge_vs_kernel_min` | pages won by `occupancy`, by those of `kernel` (one at least); the least of all steps |
//! | `whole_vs_kernel_min` | whole pages in all, those that are behind the guest and used with them, where `kernel` has any; the least of all steps |

use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::{Run, Samples};
use crate::paths;
use crate::progress::Progress;
use crate::report::Ratio;

const MEMORY: &str = "1G";
const GROUP: &str = "group";
const PATTERNS: [&str; 3] = [GROUP, "every", "half"];
const SHARES: [u32; 3] = [0, 1, 5];
const OFF: &str = "off";
const SCANNER: &str = "scanner";
const OCCUPANCY: &str = "occupancy";
const KERNEL: &str = "kernel";
const POLICIES: [&str; 4] = [OFF, SCANNER, OCCUPANCY, KERNEL];
const REST: &str = "rest";
const LOAD: [&str; 2] = ["load_1", "load_2"];

const OF_ATTAINABLE: &str = "success, of attainable";
const OF_REQUEST: &str = "success, of the request";
const BY_FEWEST: &str = "frames moved, by the fewest";
const MOVED: &str = "frames moved a page";

/// What the program says, as far as it is used here.
#[derive(Debug, Deserialize)]
struct Report {
    runs: Vec<PolicyRun>,
}

#[derive(Debug, Deserialize)]
struct PolicyRun {
    policy: String,
    phases: Vec<Phase>,
}

#[derive(Debug, Deserialize)]
struct Phase {
    name: String,
    success_of_request: f64,
    success_of_attainable: f64,
    latency: Times,
    work: Option<Work>,
    touches: Option<Times>,
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Times {
    count: u64,
    mean_us: f64,
    sd_us: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

#[derive(Debug, Deserialize)]
struct Work {
    migrated_per_success: f64,
    copied_per_success: f64,
    migrated_vs_fewest: Option<f64>,
    scan_efficiency: Option<f64>,
    deferred: f64,
    stalls: Stalls,
}

#[derive(Debug, Deserialize)]
struct Stalls {
    count: f64,
    p99_below_us: f64,
    max_us: f64,
}

#[derive(Debug, Deserialize)]
struct Step {
    won: f64,
    whole_pages: f64,
}

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// The program failed, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    let mut least = Least::default();
    for round in 1..=run.rounds {
        for pattern in PATTERNS {
            for share in SHARES {
                let words = format!("round {round} of {}, {pattern}, {share} % unmovable", run.rounds);
                let progress = Progress::start(&words);
                let report = measure(pattern, share)?;
                least.see(&report)?;
                for policy in &report.runs {
                    add(&mut samples, pattern, share, policy)?;
                }
                progress.done("");
            }
        }
    }
    let ratios = ratios(&samples, &least)?;
    run.publish("hugepages", &samples, ratios)
}

fn measure(pattern: &str, share: u32) -> anyhow::Result<Report> {
    let program = paths::aerostat();
    let output = Command::new(&program)
        .args(["bench", "hugepages", "--json", "--memory", MEMORY, "--policy", &POLICIES.join(",")])
        .args(["--pattern", pattern, "--unmovable", &share.to_string()])
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "aerostat bench hugepages failed: {}", complaint.trim());
    serde_json::from_slice(&output.stdout).context("aerostat bench hugepages gave no report")
}

fn case(pattern: &str, share: u32, phase: &str) -> String {
    format!("{pattern}/u{share}/{phase}")
}

fn add(samples: &mut Samples, pattern: &str, share: u32, run: &PolicyRun) -> anyhow::Result<()> {
    let policy = POLICIES.into_iter().find(|policy| *policy == run.policy);
    let policy = policy.with_context(|| format!("an unknown policy: {}", run.policy))?;
    for phase in &run.phases {
        let case = case(pattern, share, &phase.name);
        let mut add = |metric, unit, value| samples.add(&case, policy, metric, unit, value);
        add(OF_ATTAINABLE, "%", phase.success_of_attainable);
        add(OF_REQUEST, "%", phase.success_of_request);
        let latency = &phase.latency;
        if latency.count > 0 {
            add("latency, mean", "µs", latency.mean_us);
            add("latency, standard deviation", "µs", latency.sd_us);
            add("latency, p50", "µs", latency.p50_us);
            add("latency, p99", "µs", latency.p99_us);
            add("latency, max", "µs", latency.max_us);
        }
        if let Some(work) = &phase.work {
            add(MOVED, "1", work.migrated_per_success);
            add("copied a page", "KiB", work.copied_per_success / 1024.0);
            work.migrated_vs_fewest.into_iter().for_each(|by| add(BY_FEWEST, "1", by));
            work.scan_efficiency.into_iter().for_each(|by| add("won by chosen", "1", by));
            add("deferred", "1", work.deferred);
            add("stalls", "1", work.stalls.count);
            add("stalls, p99 below", "µs", work.stalls.p99_below_us);
            add("stalls, max", "µs", work.stalls.max_us);
        }
        if let Some(touches) = &phase.touches {
            add("writers' touches, p99", "µs", touches.p99_us);
            add("writers' touches, max", "µs", touches.max_us);
        }
        let whole = phase.steps.last().map_or(0.0, |step| step.whole_pages);
        add("whole pages at the end", "1", whole);
    }
    Ok(())
}

/// The least that `occupancy` had more than `kernel`.
#[derive(Debug)]
struct Least {
    won: f64,
    whole: f64,
}

impl Default for Least {
    fn default() -> Self {
        Self { won: f64::INFINITY, whole: f64::INFINITY }
    }
}

impl Least {
    fn see(&mut self, report: &Report) -> anyhow::Result<()> {
        let steps = |policy: &str| {
            let run = report.runs.iter().find(|run| run.policy == policy);
            let run = run.with_context(|| format!("{policy} was not measured"))?;
            anyhow::Ok(run.phases.iter().flat_map(|phase| &phase.steps))
        };
        for (ours, theirs) in steps(OCCUPANCY)?.zip(steps(KERNEL)?) {
            self.won = self.won.min(ours.won / theirs.won.max(1.0));
            if theirs.whole_pages > 0.0 {
                self.whole = self.whole.min(ours.whole_pages / theirs.whole_pages);
            }
        }
        Ok(())
    }
}

fn ratios(samples: &Samples, least: &Least) -> anyhow::Result<Vec<Ratio>> {
    let median = |case: &str, policy: &str, metric: &str| {
        let value = samples.median(case, policy, metric);
        value.with_context(|| format!("{metric} of {policy} was not measured in {case}"))
    };
    let mut ratios = Vec::new();
    let mut add = |name: String, value: f64| ratios.push(Ratio { name, value });
    for share in SHARES {
        for (name, phases) in [("rest", &[REST][..]), ("load", &LOAD[..])] {
            for (suffix, metric) in [("", OF_ATTAINABLE), ("_of_request", OF_REQUEST)] {
                let success = |phase: &&str| median(&case(GROUP, share, phase), OCCUPANCY, metric);
                let worst = phases
                    .iter()
                    .map(success)
                    .try_fold(f64::INFINITY, |worst, success| anyhow::Ok(success?.min(worst)))?;
                add(format!("{name}_success_u{share}{suffix}"), worst / 100.0);
            }
        }
    }
    let (mut by_fewest, mut by_scanner, mut bound) = (0.0_f64, 0.0_f64, f64::INFINITY);
    for pattern in PATTERNS {
        for share in SHARES {
            let case = case(pattern, share, REST);
            by_fewest = by_fewest.max(median(&case, OCCUPANCY, BY_FEWEST)?);
            by_scanner = by_scanner.max(median(&case, OCCUPANCY, MOVED)? / median(&case, SCANNER, MOVED)?);
            bound = bound.min(1.0 / median(&case, SCANNER, BY_FEWEST)?);
        }
    }
    add("copy_vs_lower_bound".to_owned(), by_fewest);
    add("copy_vs_scanner".to_owned(), by_scanner);
    add("lower_bound_vs_scanner".to_owned(), bound);
    add("huge_vs_kernel_min".to_owned(), least.won);
    add("whole_vs_kernel_min".to_owned(), least.whole);
    Ok(ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_of_all_steps_and_the_kernel_has_one_page_at_least() -> anyhow::Result<()> {
        let run = |policy: &str, steps: &[(f64, f64)]| {
            let step = |(won, whole): &(f64, f64)| serde_json::json!({ "won": won, "whole_pages": whole });
            let steps: Vec<_> = steps.iter().map(step).collect();
            let times = serde_json::json!({
                "count": 0, "mean_us": 0.0, "sd_us": 0.0, "p50_us": 0.0, "p99_us": 0.0, "max_us": 0.0
            });
            serde_json::json!({ "policy": policy, "phases": [{
                "name": REST, "success_of_request": 0.0, "success_of_attainable": 0.0,
                "latency": times, "work": null, "touches": null, "steps": steps,
            }]})
        };
        let runs = [
            run(OCCUPANCY, &[(6.0, 30.0), (12.0, 30.0), (40.0, 30.0)]),
            run(KERNEL, &[(0.0, -5.0), (4.0, 5.0), (4.0, 20.0)]),
        ];
        let mut least = Least::default();
        least.see(&serde_json::from_value(serde_json::json!({ "runs": runs }))?)?;
        assert!((least.won - 3.0).abs() < 1e-9 && (least.whole - 1.5).abs() < 1e-9, "{least:?}");
        Ok(())
    }
}
