//! Benchmark of swap in a guest: how long a page takes to come back, and how fast pages go. The CPU time of
//! all that the host runs for swap is counted by page.
//!
//! ```text
//! hogs write more than  │ they read, for a while,  │ they read on, with readahead, │ they read, for a while,
//! the guest's RAM       │ a page each time         │ until each page was checked   │ a page each time
//!   ▶ swap-out MB/s     │   ▶ page-in, CPU by page │                               │   ▶ page-in, CPU by page
//! ```
//! In the first while most page-ins push out a page that is not in swap yet, and wait behind those that go. In the
//! second all pages are in swap, and the kernel drops what it needs room for: that is the swap device alone.
//!
//! Without readahead (`vm.page-cluster` 0) a page-in is a major fault and brings one page; who waits for it
//! measures it. An emulated host brings some hundred a second, so what is between has readahead.

use std::thread::sleep;
use std::time::Duration;

use anyhow::ensure;
use guest_agent::Content;

use super::{Run, Samples};
use crate::agent_client::{Herd, SwapTraffic, megabytes_per_second};
use crate::host;
use crate::kernels::Kernel;
use crate::progress::Progress;
use crate::subject::{Spec, Subject};
use crate::swap_link::SwapLink;
use crate::testvm::TestVm;

/// Who is measured, in the order of a round, and how the guest gets at its swap. Of QEMU's machines the one with MSI-X: its
/// network is the faster one, and in an emulated host microvm's guests seldom live through so many exits.
const WAYS: [(Subject, &str); 3] =
    [(Subject::Aerostat, "aerostat"), (Subject::Aerostat, BLK), (Subject::QemuPc, "qemu-pc")];
/// Aerostat, where the guest sees a disk.
const BLK: &str = "aerostat-blk";

const RAM_MIB: u64 = 128;
const SWAP_MIB: u64 = 512;
/// The kernel leaves programs some 80 MiB. A tenth of the pages is zero, the others compress 3:1. One process: of two
/// on the guest's one CPU each waits for the other to be done, too, so that their 99th percentile is the scheduler's
/// and the same with every monitor.
const HERD: Herd = Herd { processes: 1, mib: 104, seed: 41, content: Content { zero_percent: 10, ratio: 3 } };
/// One for pages that go and one for a page that somebody waits for, if the kernel so chooses.
const CONNECTIONS: u32 = 2;
/// Page-ins are measured for so long.
const WINDOW: Duration = Duration::from_secs(30);
/// Pages that make a 99th percentile, at least.
const LEAST: u64 = 1000;
const PAGE_CLUSTER: &str = "/proc/sys/vm/page-cluster";
/// Linux's own: 2^3 pages.
const READAHEAD: &str = "3";
/// Longest wait for the hogs.
const PATIENCE: Duration = Duration::from_secs(600);

const NETWORK: &str = "the network, no swap yet";
const OUT: &str = "pages go out";
const BOTH: &str = "pages come in, others go out";
const IN: &str = "pages come in, none go out";
const PAGE_IN_P99: &str = "page-in p99";
const SWAP_OUT: &str = "swap-out";
const CPU_PER_PAGE: &str = "CPU by page: monitor and server";

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// A guest failed, held a wrong page, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    let kernel = Kernel::any()?;
    let mut samples = Samples::default();
    for round in 1..=run.rounds {
        for (subject, who) in WAYS {
            let progress = Progress::start(&format!("round {round} of {}, {who}", run.rounds));
            samples.take(subject, |samples| {
                let link = match who {
                    BLK => SwapLink::disk(&format!("{SWAP_MIB}M")),
                    _ => SwapLink::new(subject, SWAP_MIB)?,
                };
                let spec = link.attach(Spec::new(subject, kernel).memory_mib(RAM_MIB));
                spec.run(|vm| measure(vm, &link, who, samples))
            })?;
            progress.done("");
        }
    }
    let ratios = vec![
        samples.ratio("pagein_p99_vs_qemu", BOTH, PAGE_IN_P99, f64::min)?,
        samples.ratio("pagein_alone_p99_vs_qemu", IN, PAGE_IN_P99, f64::min)?,
        samples.ratio("cpu_per_page_vs_qemu", BOTH, CPU_PER_PAGE, f64::min)?,
        samples.ratio("swapout_vs_qemu", OUT, SWAP_OUT, f64::max)?,
        samples.between("pagein_p99_blk_vs_net", BOTH, PAGE_IN_P99, BLK)?,
        samples.between("pagein_alone_p99_blk_vs_net", IN, PAGE_IN_P99, BLK)?,
        samples.between("cpu_per_page_blk_vs_net", BOTH, CPU_PER_PAGE, BLK)?,
        samples.between("swapout_blk_vs_net", OUT, SWAP_OUT, BLK)?,
    ];
    run.publish("swap-guest", &samples, ratios)
}

/// Guest and host at one moment.
struct Standing {
    traffic: SwapTraffic,
    cpu: Duration,
    busy: Duration,
}

impl Standing {
    fn read(vm: &mut TestVm, link: &SwapLink) -> anyhow::Result<Self> {
        Ok(Self { traffic: vm.agent.swap_traffic()?, cpu: link.cpu(vm)?, busy: host::busy()? })
    }
}

fn measure(vm: &mut TestVm, link: &SwapLink, who: &'static str, samples: &mut Samples) -> anyhow::Result<()> {
    let mut add = |metric, unit, value| samples.add(NETWORK, who, metric, unit, value);
    if let Some(network) = link.check(vm)? {
        add("ping p50", "µs", network.ping_p50.as_secs_f64() * 1e6);
        if let Some(echo) = network.echo_mb_per_s {
            add("TCP there and back", "MB/s", echo);
        }
    }

    vm.agent.write_file(PAGE_CLUSTER, "0")?;
    let device = link.swap_on(vm, CONNECTIONS)?;

    let before = vm.agent.swap_traffic()?;
    let written = vm.agent.hogs_start(HERD, PATIENCE)?;
    let out = vm.agent.swap_traffic()?.pages_out - before.pages_out;
    let speed = megabytes_per_second(out * 4096, written.write_micros);
    samples.add(OUT, who, SWAP_OUT, "MB/s", speed);

    let (pages_in, pages_out) = page_in(vm, link, who, BOTH, samples)?;
    ensure!(pages_out * 10 > pages_in, "{pages_in} pages came in, and only {pages_out} went out for them");
    vm.agent.write_file(PAGE_CLUSTER, READAHEAD)?;
    vm.agent.hogs_until(PATIENCE, |hogs| hogs.passes > 0 && hogs.verified >= HERD.pages())?;
    vm.agent.write_file(PAGE_CLUSTER, "0")?;
    let (pages_in, pages_out) = page_in(vm, link, who, IN, samples)?;
    ensure!(pages_out * 5 < pages_in, "{pages_in} pages came in, and {pages_out} still went out");
    vm.agent.hogs_stop()?;
    link.swap_off(vm, &device)
}

/// Measures for a while how pages come in; gives how many came, and how many went out.
fn page_in(
    vm: &mut TestVm,
    link: &SwapLink,
    who: &'static str,
    case: &str,
    samples: &mut Samples,
) -> anyhow::Result<(u64, u64)> {
    let start = Standing::read(vm, link)?;
    vm.agent.hogs_read()?;
    sleep(WINDOW);
    let read = vm.agent.hogs_status()?.page_in;
    let end = Standing::read(vm, link)?;
    ensure!(read.count >= LEAST, "only {} pages came back in {WINDOW:?}", read.count);

    let out = end.traffic.pages_out - start.traffic.pages_out;
    let pages_in = end.traffic.pages_in - start.traffic.pages_in;
    let moved = pages_in + out;
    let micros = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e6;
    let by_page = |later: Duration, earlier: Duration| by_page(later.saturating_sub(earlier), moved);
    let per_second = |pages: u64| pages as f64 / WINDOW.as_secs_f64();
    let mut add = |metric, unit, value| samples.add(case, who, metric, unit, value);
    add("page-in p50", "µs", micros(read.p50_ns));
    add(PAGE_IN_P99, "µs", micros(read.p99_ns));
    add("page-in p99.9", "µs", micros(read.p999_ns));
    add("page-in max", "µs", micros(read.max_ns));
    add(CPU_PER_PAGE, "µs", by_page(end.cpu, start.cpu));
    add("CPU by page: all of the host", "µs", by_page(end.busy, start.busy));
    add("page-ins", "1/s", per_second(read.count));
    add("page-outs", "1/s", per_second(out));
    Ok((pages_in, out))
}

/// µs of `time` for each page that went in or out.
fn by_page(time: Duration, pages: u64) -> f64 {
    time.as_secs_f64() * 1e6 / pages.max(1) as f64
}
