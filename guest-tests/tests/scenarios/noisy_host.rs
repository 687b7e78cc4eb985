//! The host is not quiet: it swaps, it merges pages, it has hardly the memory that the guest holds. Every page stays right,
//! and nobody waits for ever. (`swap::exhaustion` has a host that numbers threads anew.)
//!
//! ```text
//!   host    one kind of noise ┐
//!   API     balloon up, down  ├─ all at once, for AEROSTAT_NOISE_SECONDS
//!           compaction        │
//!   guest   processes that read and check more than fits beside the balloon, so that it swaps;
//!           a thread that counts in pages of its own
//! ```

mod dropped;
mod failing;
mod limit;
mod merged;
mod merging;
mod swapping;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;
use guest_tests::agent_client::{Herd, OVERDUE};
use guest_tests::{Content, Pages, Spec, Subject, SwapLink, TestVm};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::memory::number;
use crate::{SPARE_MIB, guest, meanwhile};

/// How long all goes on at once, in seconds; `ci/soak` sets it to minutes.
const SECONDS: &str = "AEROSTAT_NOISE_SECONDS";
/// Longest time for a read or write of the guest; more is a hang. In an emulated host a guest that swaps beside a balloon
/// that grows was seen to take 12 s by itself.
const LONGEST: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(300);

/// The kernel leaves some 110 MiB of it.
const RAM_MIB: u64 = 160;
const SWAP_MIB: u64 = 128;
/// Most of what is left.
const HERD: Herd = Herd { processes: 1, mib: 72, seed: 67, content: Content { zero_percent: 10, ratio: 3 } };
/// Every second page stays, so that blocks with holes have pages to be moved: name, size, seed.
const COMB: (&str, u64, u64) = ("comb", 24, 71);
/// Written again and again.
const CHURN_MIB: u64 = 8;
/// The processes want more than it leaves.
const BALLOON_MIB: u64 = 56;

/// All of them change the host they run on, so it has to be one that is made for them.
pub(crate) fn trials() -> Vec<Trial> {
    let trials = [
        swapping::trial(),
        dropped::trial(),
        merging::trial(),
        merged::trial(),
        limit::trial(),
        failing::trial(),
    ];
    trials.into_iter().flatten().collect()
}

fn seconds() -> Duration {
    let asked = std::env::var(SECONDS).ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(10))
}

/// A guest with swap that has touched all of its memory and works, while something goes on `besides`: it
/// `begins` then, and is looked at when all is `settled`.
fn works_through(
    spec: impl FnOnce(Spec) -> Spec,
    begins: impl FnOnce() -> anyhow::Result<()>,
    besides: impl Fn() + Sync,
    settled: impl FnOnce(&TestVm) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let link = SwapLink::new(Subject::Aerostat, SWAP_MIB)?;
    link.attach(spec(guest()?.memory_mib(RAM_MIB))).run(|vm| {
        link.check(vm)?;
        vm.agent.fill("all", SPARE_MIB, Pages::Any)?;
        vm.agent.free("all")?;
        begins()?;
        let device = link.swap_on(vm, 2)?;
        vm.agent.allocate(COMB.0, COMB.1, Pages::Base)?;
        vm.agent.write(COMB.0, COMB.2)?;
        vm.agent.punch(COMB.0, 2, 0)?;
        vm.agent.hogs_start(HERD, PATIENCE)?;
        vm.agent.churn_start(CHURN_MIB, 1)?;
        vm.agent.hogs_read()?;
        meanwhile::all_at_once(vm, BALLOON_MIB, besides, read_and_count)?;
        let churn = vm.agent.churn_stop()?;
        vm.balloon(0)?;
        let passes = vm.agent.hogs_status()?.passes;
        vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > passes)?;
        vm.agent.verify(COMB.0, COMB.2)?;
        let hogs = vm.agent.hogs_stop()?;
        ensure!(
            churn.pages > 0 && churn.errors == 0,
            "{} of {} counters were lost",
            churn.errors,
            churn.pages
        );
        let longest = Duration::from_nanos(hogs.longest_ns.max(churn.longest_ns));
        eprintln!("{} pages right, {} counted, longest touch {longest:?}", hogs.verified, churn.pages);
        let memory = vm.control.api("GET", "/memory", Value::Null)?;
        let swap = vm.control.api("GET", "/swap", Value::Null)?;
        ensure!(longest < LONGEST, "a touch {OVERDUE}: {longest:?}, {hogs:?}, {churn:?}, {memory}, {swap}");
        let moved = number(&memory, "/mover/migrated_frames")? + number(&memory, "/mover/promoted_blocks")?;
        ensure!(moved > 0, "nothing was moved: {memory}");
        ensure!(number(&memory, "/moves/poison_lost")? == 0, "somebody wrote to a free frame: {memory}");
        ensure!(number(&swap, "/nbd/pages_written")? > 0, "the guest did not swap: {swap}");
        for fault in ["/store/lost", "/store/corrupt", "/nbd/errors"] {
            ensure!(number(&swap, fault)? == 0, "{fault} is not 0: {swap}");
        }
        link.swap_off(vm, &device)?;
        settled(vm)
    })
}

/// Until the time is over and every process has read all of its pages.
fn read_and_count(vm: &mut TestVm) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let (hogs, took) = (vm.agent.hogs_status()?, start.elapsed());
        if hogs.passes > 0 && took >= seconds() {
            return Ok(());
        }
        ensure!(took < PATIENCE + seconds(), "nobody gets through: {hogs:?}");
        sleep(Duration::from_secs(1));
    }
}
