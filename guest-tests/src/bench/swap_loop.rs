//! Memory that the host gets back from a guest that needs little of its own: balloon, swap and compaction.
//!
//! | point | what was done |
//! | --- | --- |
//! | `used` | the guest has written all of its memory and freed it, and then written hot and cold data |
//! | `shrunk` | the balloon is where it was sent, cold pages went to swap for it; nothing changes any more |
//! | `compacted` | all whole blocks were made that can be made (`PUT /memory/compact`) |
//! | `back` | deflated, and the guest has read all that it holds |
//!
//! The hot data is used all the while, so that it stays hot. Free page reporting is off: what the host gets
//! back, it gets by the balloon. Every page is checked at the end, and the hot ones at each point.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use guest_agent::{Content, Pages};
use serde_json::Value;

use super::standing::{Standing, show_free_blocks, take_heap};
use super::{Run, Samples};
use crate::agent_client::Herd;
use crate::host;
use crate::kernels::Kernel;
use crate::kvm_host;
use crate::progress::Progress;
use crate::report::Ratio;
use crate::subject::{Spec, Subject};
use crate::swap_link::SwapLink;
use crate::testvm::TestVm;

const RAM_MIB: u64 = 1024;
const SWAP_MIB: u64 = 1024;
/// What the guest keeps for itself while all of its memory is written.
const SPARE_MIB: u64 = 24;
/// The working set of the guest's programs, and its pattern.
const HOT: (&str, u64, u64) = ("hot", 300, 53);
/// Data that nobody reads until the end: a third of each page does not compress, the rest to nothing. Each MiB of it
/// takes 0.36 MiB of the host when it is swapped out.
const COLD: Herd = Herd { processes: 1, mib: 200, seed: 59, content: Content { zero_percent: 0, ratio: 3 } };
/// What the guest keeps beside the hot data: a stock kernel keeps 51 MiB from its programs, 36 MiB are its own, and the
/// rest stays free. With less it swaps the hot data, too.
const KERNEL_MIB: u64 = 100;
const TAKEN_MIB: u64 = RAM_MIB - HOT.1 - KERNEL_MIB;
/// Where the guest's kernel can use huge pages, it keeps 45 MiB free for them (`set_recommended_min_free_kbytes`
/// of mm/khugepaged.c). This is what it keeps otherwise.
const MIN_FREE: (&str, &str) = ("/proc/sys/vm/min_free_kbytes", "4096");
/// Cold data is read in one go: with more readahead than Linux's own, 2^5 pages.
const PAGE_CLUSTER: (&str, &str) = ("/proc/sys/vm/page-cluster", "5");
/// One for pages that go and one for a page that somebody waits for, if the kernel so chooses.
const CONNECTIONS: u32 = 2;
/// Between two uses of the working set.
const INTERVAL: Duration = Duration::from_secs(2);
/// Longest wait for hogs and balloon.
const PATIENCE: Duration = Duration::from_secs(600);

const WHO: &str = "aerostat";
const CASE: &str = "300 MiB hot, 200 MiB cold";
const HOST: &str = "compacted: resident";
const WHOLE: &str = "compacted: of what came back, whole 2 MiB";

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// A guest failed, held a wrong page, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    show_free_blocks()?;
    take_heap();
    let mut samples = Samples::default();
    for round in 1..=run.rounds {
        eprintln!("  round {round} of {}", run.rounds);
        if let Err(error) = samples.take(Subject::Aerostat, guest) {
            // An emulated host fails guests by itself (docs/dev/emulated-host.md).
            if kvm_host::kind() != "nested" {
                return Err(error);
            }
            eprintln!("the guest failed in a nested host and is run once more: {error:#}");
            samples.take(Subject::Aerostat, guest)?;
        }
    }
    let ratio = |name: &str, metric, unit: f64| {
        let value = samples.median(CASE, WHO, metric).map(|value| value / unit);
        let value = value.with_context(|| format!("nothing was measured for {name}"))?;
        anyhow::Ok(Ratio { name: name.to_owned(), value })
    };
    let ratios = vec![ratio("host_mib", HOST, 1.0)?, ratio("whole_fraction", WHOLE, 100.0)?];
    run.publish("loop", &samples, ratios)
}

fn guest(samples: &mut Samples) -> anyhow::Result<()> {
    let link = SwapLink::new(Subject::Aerostat, SWAP_MIB)?;
    let spec = Spec::new(Subject::Aerostat, Kernel::any()?).memory_mib(RAM_MIB);
    link.attach(spec).run(|vm| measure(vm, &link, samples))
}

fn measure(vm: &mut TestVm, link: &SwapLink, samples: &mut Samples) -> anyhow::Result<()> {
    let progress = Progress::start("the guest uses all of its memory");
    let device = fill(vm, link)?;
    let used = Standing::settled(vm)?;
    progress.done(&words(&used));

    let progress = Progress::start("balloon and swap");
    let inflated = squeeze(vm)?;
    let shrunk = Standing::settled(vm)?;
    progress.done(&words(&shrunk));

    let progress = Progress::start("compaction");
    vm.control.api("PUT", "/memory/compact", Value::Null)?;
    let compacted = Standing::settled(vm)?;
    let (memory, swap) = (get(vm, "/memory")?, get(vm, "/swap")?);
    let strays = host::stray_pages(vm.pid())?;
    progress.done(&words(&compacted));

    let progress = Progress::start("the guest reads all that it holds");
    let start = Instant::now();
    use_hot(vm)?;
    vm.balloon(0)?;
    vm.agent.write_file(PAGE_CLUSTER.0, PAGE_CLUSTER.1)?;
    vm.agent.hogs_read()?;
    vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > 0 && hogs.verified >= COLD.pages())?;
    use_hot(vm)?;
    let read = start.elapsed();
    let back = Standing::settled(vm)?;
    vm.agent.hogs_stop()?;
    link.swap_off(vm, &device)?;
    progress.done(&words(&back));

    let mut add = |metric, unit, value| samples.add(CASE, WHO, metric, unit, value);
    add("used: resident", "MiB", used.mib());
    add("in the balloon after", "s", inflated.as_secs_f64());
    add("shrunk: resident", "MiB", shrunk.mib());
    add("shrunk: of what came back, whole 2 MiB", "%", whole_percent(&used, &shrunk));
    add(HOST, "MiB", compacted.mib());
    add(WHOLE, "%", whole_percent(&used, &compacted));
    if let Some(strays) = strays {
        add(
            "compacted: guest and arena, in 2 MiB that they share",
            "pages",
            f64::from(u32::try_from(strays)?),
        );
    }
    add("compacted: MemFree rose by", "MiB", compacted.free.mib - used.free.mib);
    add("compacted: guest", "MiB", mib(&memory, "/host/guest_resident_bytes")?);
    add("compacted: arena, where swap is", "MiB", mib(&memory, "/host/arena_resident_bytes")?);
    add("compacted: monitor's own", "MiB", compacted.resident.rest.mib);
    add("compacted: swapped out", "MiB", number(&swap, "/store/stored_pages")? / 256.0);
    add("compacted: that, packed", "MiB", mib(&swap, "/store/stored_bytes")?);
    add("read again after", "s", read.as_secs_f64());
    add("back: resident", "MiB", back.mib());
    Ok(())
}

/// Brings the guest to `used`; gives its swap device.
fn fill(vm: &mut TestVm, link: &SwapLink) -> anyhow::Result<String> {
    vm.agent.fill("all", SPARE_MIB, Pages::Base)?;
    vm.agent.free("all")?;
    link.check(vm)?;
    let device = link.swap_on(vm, CONNECTIONS)?;
    vm.agent.write_file(MIN_FREE.0, MIN_FREE.1)?;
    vm.agent.hogs_start(COLD, PATIENCE)?;
    vm.agent.allocate(HOT.0, HOT.1, Pages::Base)?;
    vm.agent.write(HOT.0, HOT.2)?;
    Ok(device)
}

fn use_hot(vm: &mut TestVm) -> anyhow::Result<()> {
    vm.agent.verify(HOT.0, HOT.2).map(drop)
}

/// Inflates the balloon while the working set is used; gives the time it took.
fn squeeze(vm: &mut TestVm) -> anyhow::Result<Duration> {
    let start = Instant::now();
    vm.control.set_balloon(TAKEN_MIB)?;
    loop {
        let actual = vm.control.balloon_actual()?;
        use_hot(vm)?;
        if actual == TAKEN_MIB {
            return Ok(start.elapsed());
        }
        if start.elapsed() > PATIENCE {
            let (memory, swap) = (vm.agent.memory()?, vm.agent.swap_traffic()?);
            ensure!(
                false,
                "the balloon is at {actual} MiB and does not get to {TAKEN_MIB}: {memory:?}, {swap:?}"
            );
        }
        sleep(INTERVAL);
    }
}

/// Of the memory that the process has no more, what the host has in free 2 MiB blocks.
fn whole_percent(before: &Standing, after: &Standing) -> f64 {
    100.0 * after.whole_since(before) / (before.mib() - after.mib()).max(1.0)
}

fn words(standing: &Standing) -> String {
    format!("{:.0} MiB resident", standing.mib())
}

fn get(vm: &TestVm, path: &str) -> anyhow::Result<Value> {
    vm.control.api("GET", path, Value::Null)
}

fn number(report: &Value, path: &str) -> anyhow::Result<f64> {
    report.pointer(path).and_then(Value::as_f64).with_context(|| format!("{path}: {report}"))
}

fn mib(report: &Value, path: &str) -> anyhow::Result<f64> {
    number(report, path).map(|bytes| bytes / f64::from(1 << 20))
}
