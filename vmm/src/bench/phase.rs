//! One phase: whole pages are asked for, step by step, and what came of it.

use std::{
    thread,
    time::{Duration, Instant},
};

use memsvc::core::units::{BLOCK_SIZE, FRAME_SIZE};

use super::{
    bounds::Ledger,
    memory::{Memory, Work},
    report::{Phase, Step, WorkDone},
    times::Times,
};

/// What is asked for.
#[derive(Debug)]
pub(super) struct Asking<'a> {
    pub(super) name: &'a str,
    /// Requests of each step.
    pub(super) steps: Vec<u64>,
    /// Pause before each.
    pub(super) delay: Duration,
    /// Memory is as the ledger says when the phase begins.
    pub(super) is_fresh: bool,
}

impl Asking<'_> {
    /// Asks, and calls back after each step. What was done `before` does not count.
    pub(super) fn measure(
        &self,
        memory: &dyn Memory,
        ledger: &Ledger,
        live_frames: u64,
        before: Option<Work>,
        mut after_step: impl FnMut(),
    ) -> anyhow::Result<Phase> {
        let (mut asked, mut made, mut steps) = (0, 0, Vec::new());
        let (mut all, mut failed) = (Times::default(), Times::default());
        for &requests in &self.steps {
            let mut times = Times::default();
            for _ in 0..requests {
                thread::sleep(self.delay);
                let start = Instant::now();
                let is_made = memory.ask()?;
                if is_made { &mut times } else { &mut failed }.add(start.elapsed());
                made += u64::from(is_made);
            }
            asked += requests;
            all.merge(&times);
            memory.is_well()?;
            steps.push(step(memory, ledger, live_frames, asked, &times)?);
            after_step();
        }
        let won = steps.last().map_or(0, |step| step.won);
        let (success_of_request, success_of_attainable) = success(ledger, asked, won);
        Ok(Phase {
            name: self.name.to_owned(),
            asked,
            won,
            success_of_request,
            success_of_attainable,
            made,
            latency: all.summary(),
            failure_latency: failed.summary(),
            work: before
                .zip(memory.work())
                .map(|(before, after)| done(&before, &after, won, self.is_fresh.then(|| ledger.fewest(won)))),
            touches: None,
            steps,
        })
    }
}

fn percent(part: f64, of: f64) -> f64 {
    if of > 0.0 { 100.0 * part / of } else { 0.0 }
}

/// Of what was asked for, and of what could be had.
fn success(ledger: &Ledger, asked: u64, won: u64) -> (f64, f64) {
    let of = |limit: u64| percent(won as f64, asked.min(limit) as f64);
    (of(ledger.all()), of(ledger.attainable()))
}

fn step(
    memory: &dyn Memory,
    ledger: &Ledger,
    live_frames: u64,
    asked: u64,
    times: &Times,
) -> anyhow::Result<Step> {
    let standing = memory.standing()?;
    let unused = standing.resident.saturating_sub(live_frames * FRAME_SIZE as u64);
    let blocks = |bytes: u64| bytes as f64 / BLOCK_SIZE as f64;
    let (success_of_request, success_of_attainable) = success(ledger, asked, standing.won);
    Ok(Step {
        asked_percent: percent(asked as f64, ledger.all() as f64),
        asked,
        won: standing.won,
        success_of_request,
        success_of_attainable,
        latency: times.summary(),
        resident_bytes: standing.resident,
        huge_bytes: standing.huge,
        whole_pages: standing.won as f64 + blocks(standing.huge) - blocks(unused),
    })
}

fn done(before: &Work, after: &Work, won: u64, fewest: Option<u64>) -> WorkDone {
    let migrated = after.migrated - before.migrated;
    let copied = after.copied - before.copied;
    let (sources, emptied) = (after.sources - before.sources, after.emptied - before.emptied);
    let by = |count: u64, by: u64| (by > 0).then(|| count as f64 / by as f64);
    WorkDone {
        migrated_frames: migrated,
        migrated_per_success: by(migrated, won).unwrap_or(0.0),
        copied_bytes: copied,
        copied_per_success: by(copied, won).unwrap_or(0.0),
        fewest_frames: fewest,
        migrated_vs_fewest: fewest.and_then(|fewest| by(migrated, fewest)),
        sources,
        emptied,
        scan_efficiency: by(emptied, sources),
        deferred: after.deferred - before.deferred,
        stalls: after.stalls.since(&before.stalls),
    }
}
