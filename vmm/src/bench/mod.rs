//! `aerostat bench hugepages`: whole 2 MiB pages of memory that a guest has given back in pieces. The figures
//! are how many can be had, how long each takes and what is copied. The experiments are those of the series
//! that brought compaction to Linux (2010); no guest is needed.
//!
//! ```text
//!   fill, group by group ─▶ give half back ─▶ rest                               (A)
//!   fill, group by group ─▶ give half back ─▶ load: load_1, load_2 ─▶ rested     (B, C)
//! ```
//! | phase | asks for |
//! | --- | --- |
//! | `rest` | 5 % of the unused memory at a time, to 100 %, and 10 steps beyond |
//! | `load_1`, `load_2` | 90 % of it, one page at a time with a small delay, while the guest does what it does (`load`); what was won is given back in between |
//! | `rested` | the same once more, with the load stopped |
//!
//! What the figures mean:
//!
//! - *Filled* is all of memory (`--memory`): a share of it with what cannot be moved (`Kmem`), the rest by a
//!   synthetic guest, group by group of 128 frames, both at the same time. Of both a *pattern* says which half is
//!   given back. 1 % more, at least the high watermark, is free to begin with; what else the arena has is put
//!   aside.
//! - *Unused* is what is free and what was given back; whole blocks of that are 100 % of what is asked for. What
//!   is live stays live, so a guest that uses half of its memory leaves half of its blocks.
//! - *Attainable* are the blocks in which nothing is unmovable, if what is live in them fits into the rest and
//!   the min watermark stays free (`bounds`).
//! - *Won* are pages that the guest does not use and the host could have. `kernel` gets those that were free, and
//!   2 MiB of which nothing is left; where it makes a huge page by taking back what had been given up
//!   (`MADV_COLLAPSE`), that is not won, but its latency is what a huge page costs there.
//! - *Whole pages* of a step are those won and the huge ones behind the guest, less what is behind the guest that
//!   it does not use: what a collapse takes, and holes in huge pages.
//! - The *fewest* frames are those live in the cheapest blocks, as many as were won, by the ledger of what was
//!   given back.
//!
//! Memory is compacted when a page is asked for (`proactiveness` is 0), and for what load gives to the balloon.

mod bounds;
mod chart;
mod guest;
mod kernel;
mod load;
mod memory;
mod pages;
mod pattern;
mod phase;
mod report;
mod served;
mod times;

use std::{
    fmt,
    str::FromStr,
    thread::{self, available_parallelism},
    time::Duration,
};

use anyhow::{Context, ensure};
use memsvc::core::{
    compact::PolicyKind,
    units::{BLOCK_SIZE, FRAMES_PER_BLOCK},
    watermark::Watermarks,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::{
    bounds::{Ledger, of_step},
    guest::{Fill, Guest},
    kernel::Kernel,
    load::Load,
    memory::Memory,
    phase::Asking,
    served::Served,
};

pub use self::{
    chart::svg,
    pattern::Pattern,
    report::{Phase, Report, Run, Stalls, Step, WorkDone},
    times::Summary,
};

/// Steps to 100 % at rest.
const STEPS: u64 = 20;
/// And beyond.
const BEYOND: u64 = 10;
/// Steps into which requests under load are divided, for the chart: 5 % each.
const LOAD_STEPS: u64 = 18;
/// Of the unused memory, what is asked for under load, hundredths.
const LOAD_PERCENT: u64 = 90;
/// Pause before each request under load.
const DELAY: Duration = Duration::from_millis(2);
/// The load has so long to get going, and to mix what was given back.
const WARM_UP: Duration = Duration::from_secs(1);
/// Least memory: steps of 5 % are whole pages.
const LEAST_BLOCKS: u64 = 64;

/// Who makes whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Nobody.
    Off,
    /// The service, with two scanners that come towards each other.
    Scanner,
    /// The service, with the cheapest blocks first.
    Occupancy,
    /// The kernel, for plain memory of which pages are discarded one by one.
    Kernel,
}

impl Policy {
    /// All of them, in the order of a round.
    pub const ALL: [Policy; 4] = [Policy::Off, Policy::Scanner, Policy::Occupancy, Policy::Kernel];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Off => "off",
            Policy::Scanner => "scanner",
            Policy::Occupancy => "occupancy",
            Policy::Kernel => "kernel",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == text);
        found.ok_or_else(|| format!("\"{text}\" is no policy: write off, scanner, occupancy or kernel"))
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Memory that is filled, bytes; a multiple of 2 MiB.
    pub memory_bytes: u64,
    /// Who makes whole pages; each in turn.
    pub policies: Vec<Policy>,
    /// Of memory, hundredths that cannot be moved.
    pub unmovable_percents: Vec<u32>,
    /// What is given back.
    pub patterns: Vec<Pattern>,
}

/// How far it is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What is done now.
    pub now: String,
    /// Steps done.
    pub done: u64,
    /// Of so many.
    pub all: u64,
}

/// Measures. `progress` is told after each step.
///
/// # Errors
/// Memory cannot be had, is not as the guest has written it, or the plan is none.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(&Progress)) -> anyhow::Result<Report> {
    let block = BLOCK_SIZE as u64;
    let blocks = plan.memory_bytes / block;
    ensure!(
        plan.memory_bytes.is_multiple_of(block) && blocks >= LEAST_BLOCKS,
        "The memory to fill must be an even number of MiB, {} at least",
        (LEAST_BLOCKS * block) >> 20
    );
    let available = available_bytes().unwrap_or(u64::MAX);
    ensure!(
        plan.memory_bytes <= available,
        "The host has {} MiB to spare, and {} MiB are to be filled; ask for less with --memory",
        available >> 20,
        plan.memory_bytes >> 20
    );
    let blocks = u32::try_from(blocks).context("That is more memory than any machine has")?;
    let load_threads = available_parallelism().map_or(1, usize::from);
    let steps_of_run = STEPS + BEYOND + 3 * LOAD_STEPS;
    let cases = plan.patterns.len() * plan.unmovable_percents.len() * plan.policies.len();
    let mut at = Progress { now: String::new(), done: 0, all: cases as u64 * steps_of_run };
    let mut runs = Vec::new();
    for &pattern in &plan.patterns {
        for &unmovable in &plan.unmovable_percents {
            for &policy in &plan.policies {
                let fill = Fill { blocks, unmovable, pattern, parts: load_threads };
                let mut after_step = |phase: &str| {
                    at.done += 1;
                    at.now = format!("{pattern}, {unmovable} % unmovable, {policy}: {phase}");
                    progress(&at);
                };
                runs.push(one(policy, &fill, &mut after_step)?);
            }
        }
    }
    Ok(Report {
        kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
        load_threads,
        memory_bytes: plan.memory_bytes,
        delay_us: DELAY.as_micros() as u64,
        runs,
    })
}

/// Memory that the host can give without swapping; None when it does not say.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Blocks that are free to begin with.
fn free_blocks(blocks: u32) -> u32 {
    let frames = FRAMES_PER_BLOCK as u64;
    let high = Watermarks::for_arena(u64::from(blocks) * frames).high;
    // The arena is a little larger than memory, and so are its watermarks.
    blocks.div_ceil(100).max(high.div_ceil(frames) as u32 + 1)
}

fn memory(policy: Policy, blocks: u32) -> anyhow::Result<Box<dyn Memory>> {
    let free = free_blocks(blocks);
    let served = |policy| anyhow::Ok(Box::new(Served::new(blocks, policy, free.into())?) as Box<dyn Memory>);
    match policy {
        Policy::Off => served(PolicyKind::Off),
        Policy::Scanner => served(PolicyKind::Scanner),
        Policy::Occupancy => served(PolicyKind::Occupancy),
        Policy::Kernel => Ok(Box::new(Kernel::new(blocks, free)?)),
    }
}

/// All phases with one policy.
fn one(policy: Policy, fill: &Fill, after_step: &mut dyn FnMut(&str)) -> anyhow::Result<Run> {
    let (ledger, guest, rest) = {
        let mut memory = memory(policy, fill.blocks)?;
        let (guest, ledger) = prepared(&mut *memory, fill)?;
        let rest = at_rest(&*memory, &ledger, &guest, after_step)?;
        (ledger, guest, rest)
    };
    let mut phases = vec![rest];
    phases.extend(under_load(policy, fill, after_step)?);
    Ok(Run {
        pattern: fill.pattern,
        unmovable_percent: fill.unmovable,
        policy,
        unused_frames: ledger.unused,
        all_blocks: ledger.all(),
        attainable_blocks: ledger.attainable(),
        free_blocks: free_blocks(fill.blocks).into(),
        live_frames: live_frames(&guest),
        unmovable_frames: guest.pinned.len() as u64,
        phases,
    })
}

fn prepared(memory: &mut dyn Memory, fill: &Fill) -> anyhow::Result<(Guest, Ledger)> {
    let guest = Guest::fill(memory, fill)?;
    let ledger = memory.ready(&guest.live(), &guest.pinned)?;
    Ok((guest, ledger))
}

fn live_frames(guest: &Guest) -> u64 {
    guest.parts.iter().map(|part| part.live.len() as u64).sum()
}

fn at_rest(
    memory: &dyn Memory,
    ledger: &Ledger,
    guest: &Guest,
    after_step: &mut dyn FnMut(&str),
) -> anyhow::Result<Phase> {
    let asking = Asking {
        name: "rest",
        steps: (0..STEPS + BEYOND).map(|step| of_step(step, STEPS, ledger.all())).collect(),
        delay: Duration::ZERO,
        is_fresh: true,
    };
    let phase = asking.measure(memory, ledger, live_frames(guest), memory.work(), || after_step("rest"))?;
    guest.verify(memory)?;
    Ok(phase)
}

fn under_load(policy: Policy, fill: &Fill, after_step: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<Phase>> {
    let mut memory = memory(policy, fill.blocks)?;
    let (mut guest, ledger) = prepared(&mut *memory, fill)?;
    let (memory, live) = (&*memory, live_frames(&guest));
    let mut ask = |name: &str, before| {
        let all = ledger.all() * LOAD_PERCENT / 100;
        let steps = (0..LOAD_STEPS).map(|step| of_step(step, LOAD_STEPS, all)).collect();
        let asking = Asking { name, steps, delay: DELAY, is_fresh: false };
        asking.measure(memory, &ledger, live, before, || after_step(name))
    };
    let mut phases = Vec::new();
    for name in ["load_1", "load_2"] {
        let (load, before) = (Load::default(), memory.work());
        let phase = load.during(memory, &mut guest.parts, || {
            thread::sleep(WARM_UP);
            ask(name, before)
        })?;
        phases.push(Phase { touches: Some(load.touches()), ..phase });
        memory.put_all(&mut guest.given())?;
    }
    phases.push(ask("rested", memory.work())?);
    guest.verify(memory)?;
    Ok(phases)
}

#[cfg(test)]
mod tests;
