//! The frame allocator beside what could be used in its place, in nanoseconds.
//!
//! | case | what is done |
//! | --- | --- |
//! | `bulk` | each thread takes its part of 8 GiB, then gives all back in the same order |
//! | `rand` | the same, given back in random order |
//! | `repeat` | one is got and given back, over and over |
//! | `full50`, `full10`, `full1` | all is taken, so many percent given back in random order; then half of these are got, each get timed by itself |
//! | `slab` | objects of some sizes, many at once (`get`, `put`, `waste`) and one at a time (`pair`) |
//! | `drain_all` | the lists of 64 CPUs are drained of which 1, 32 or all hold something |
//!
//! Cases are named by order and threads: `rand/o9/2t/put`. Frames are numbers: there is no memory behind
//! them, but for the kernel's ways (`mmap`, `dontneed`), which are given fewer. Each thread enters a CPU of
//! its own once for a whole case, as one does who has many operations to do.

mod clock;
mod kernel;
mod pool;
mod slab;
mod workload;

use std::time::Instant;

use anyhow::Context;
use memsvc::core::alloc::{Config, FrameAllocator};
use memsvc::core::page_type::PageType;
use memsvc::core::request::Request;
use memsvc::core::units::{CpuId, FRAMES_PER_BLOCK, Order};
use memsvc::core::watermark::Watermarks;

use self::clock::Clock;
use self::kernel::{DontNeed, Mmap};
use self::pool::{Memsvc, MutexVec, Pool, ThreadList};
use super::{Run, Samples};
use crate::progress::Progress;
use crate::report::Ratio;

const BULK: &str = "bulk";
const RAND: &str = "rand";
const REPEAT: &str = "repeat";
/// 8 GiB.
const BLOCKS: u32 = 4096;
/// Bytes that the kernel's ways are given, for each thread.
const KERNEL_BLOCKS: u32 = 16;
const ORDERS: [Order; 2] = [Order::FRAME, Order::BLOCK];
const THREADS: [usize; 2] = [1, 2];
const PERCENT: [usize; 3] = [50, 10, 1];
/// A case is done over until there were so many operations.
const OPERATIONS: usize = 1 << 19;
const REPEATS: usize = 2_000_000;
const KERNEL_REPEATS: usize = 2_000;
const DRAINS: usize = 200;
/// What another thread's lists may hold while one wants all: the largest refill, or drain, twice.
const SPARE: [usize; 2] = [2 * FRAMES_PER_BLOCK, 32];

/// The best published allocator of this kind (LLFree), on another run of this machine: get and put of a
/// frame 30 and 24 ns, of a block 53 and 21 ns.
const PUBLISHED_PAIR: [f64; 2] = [54.0, 74.0];

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// An allocator failed, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    let clock = Clock::new();
    let mut samples = Samples::default();
    for round in 1..=run.rounds {
        for order in ORDERS {
            for threads in THREADS {
                let name = format!("round {round} of {}, order {order}, {threads} threads", run.rounds);
                let progress = Progress::start(&name);
                Case { order, threads, clock, samples: &mut samples }.measure()?;
                progress.done("");
            }
        }
        let progress = Progress::start(&format!("round {round} of {}, slabs and drain_all", run.rounds));
        slab::measure(&mut samples)?;
        for holding in [1, 32, 64] {
            drain_all(holding, &mut samples)?;
        }
        progress.done("");
    }
    let ratios = ratios(&samples)?;
    if !run.json {
        println!(
            "\n  Reading the clock takes {:.0} ns, which full's figures are without.",
            clock.overhead_ns()
        );
        println!(
            "  Published (LLFree, on another run of this machine): pairs of {} ns (order 0) and {} ns (order 9).",
            PUBLISHED_PAIR[0], PUBLISHED_PAIR[1]
        );
    }
    run.publish("alloc", &samples, ratios)
}

/// One order with so many threads.
struct Case<'a> {
    order: Order,
    threads: usize,
    clock: Clock,
    samples: &'a mut Samples,
}

impl Case<'_> {
    /// Every subject in turn, for each workload.
    fn measure(&mut self) -> anyhow::Result<()> {
        let memsvc = Memsvc::new(BLOCKS, self.order, self.threads);
        let mutex_vec = MutexVec::new(BLOCKS, self.order);
        let thread_list = ThreadList::new(BLOCKS, self.order);
        let mmap = Mmap(self.order);
        let of_kernel = (KERNEL_BLOCKS as usize * FRAMES_PER_BLOCK) >> self.order.get();
        let dontneed = DontNeed::new(2 * of_kernel, self.order).context("no memory for dontneed")?;

        let all = (BLOCKS as usize * FRAMES_PER_BLOCK) >> self.order.get();
        let spare = SPARE[usize::from(self.order == Order::BLOCK)];
        let each = all / self.threads - (self.threads - 1) * spare;
        // The first pass writes to tables that were never written; it does not count.
        workload::bulk(&memsvc, self.threads, each, 1, false)?;
        let times = (OPERATIONS / all).max(1);
        for name in [BULK, RAND] {
            self.bulk(name, &memsvc, each, times)?;
            self.bulk(name, &mutex_vec, each, times)?;
            self.bulk(name, &thread_list, each, times)?;
        }
        self.bulk(BULK, &mmap, of_kernel, 1)?;
        self.bulk(BULK, &dontneed, of_kernel, 1)?;
        self.repeat(&memsvc, REPEATS)?;
        self.repeat(&mutex_vec, REPEATS)?;
        self.repeat(&thread_list, REPEATS)?;
        self.repeat(&mmap, KERNEL_REPEATS >> self.order.get().min(4))?;
        self.repeat(&dontneed, KERNEL_REPEATS >> self.order.get().min(4))?;
        for percent in PERCENT {
            self.full(&memsvc, each, percent)?;
            self.full(&mutex_vec, each, percent)?;
            self.full(&thread_list, each, percent)?;
        }
        Ok(())
    }

    fn bulk<P: Pool>(&mut self, name: &str, pool: &P, each: usize, times: usize) -> anyhow::Result<()> {
        let random = name == RAND;
        let taken = workload::bulk(pool, self.threads, each, times, random)?;
        self.add::<P>(name, "/get", "mean", taken.get);
        self.add::<P>(name, "/put", "mean", taken.put);
        Ok(())
    }

    fn repeat<P: Pool>(&mut self, pool: &P, each: usize) -> anyhow::Result<()> {
        let pair = workload::repeat(pool, self.threads, each)?;
        self.add::<P>(REPEAT, "/pair", "mean", pair);
        Ok(())
    }

    fn full<P: Pool>(&mut self, pool: &P, each: usize, percent: usize) -> anyhow::Result<()> {
        let taken = workload::full(pool, self.threads, each, percent, self.clock)?;
        let name = format!("full{percent}");
        self.add::<P>(&name, "/get", "p50", taken.p50);
        self.add::<P>(&name, "/get", "p99", taken.p99);
        Ok(())
    }

    fn add<P: Pool>(&mut self, workload: &str, what: &str, metric: &'static str, ns: f64) {
        let case = case(workload, self.order, self.threads, what);
        self.samples.add(&case, P::NAME, metric, "ns", ns);
    }
}

fn case(workload: &str, order: Order, threads: usize, what: &str) -> String {
    format!("{workload}/o{order}/{threads}t{what}")
}

/// One call, when so many of 64 CPUs hold the rest of a refill.
fn drain_all(holding: u8, samples: &mut Samples) -> anyhow::Result<()> {
    let config = Config { blocks: 64, cpus: 64, watermarks: Watermarks::NONE };
    let alloc: FrameAllocator = FrameAllocator::new(config);
    let request = Request::new(Order::FRAME, PageType::Guest);
    let mut taken = Vec::with_capacity(DRAINS);
    for _ in 0..DRAINS {
        let got: Result<Vec<_>, _> = (0..holding).map(|cpu| alloc.alloc(CpuId(cpu), &request)).collect();
        let start = Instant::now();
        let drained = alloc.drain_all();
        taken.push(start.elapsed().as_secs_f64() * 1e9);
        anyhow::ensure!(drained.visited == u32::from(holding), "{holding} lists, and {drained:?}");
        for frame in got? {
            alloc.free(CpuId(0), frame, Order::FRAME)?;
        }
        alloc.drain_all();
    }
    taken.sort_by(f64::total_cmp);
    let median = taken.get(DRAINS / 2).copied().unwrap_or_default();
    let case = format!("drain_all/{holding}of64");
    samples.add(&case, Memsvc::NAME, "a call", "ns", median);
    samples.add(&case, Memsvc::NAME, "a list", "ns", median / f64::from(holding));
    Ok(())
}

fn ratios(samples: &Samples) -> anyhow::Result<Vec<Ratio>> {
    let median = |case: &str, subject: &str, metric: &str| {
        samples.median(case, subject, metric).with_context(|| format!("{case} was not measured"))
    };
    let pair = |workload: &str, order: Order, threads: usize, subject: &str| {
        if workload == REPEAT {
            return median(&case(workload, order, threads, "/pair"), subject, "mean");
        }
        let half = |what| median(&case(workload, order, threads, what), subject, "mean");
        Ok(half("/get")? + half("/put")?)
    };
    let mut ratios = Vec::new();
    for workload in [BULK, RAND, REPEAT] {
        for threads in THREADS {
            // The target on one thread is a quarter of what was published, and on two no more than it.
            let quarter = if threads == 1 { 0.25 } else { 1.0 };
            let of = if threads == 1 { "quarter_of_published" } else { "published" };
            let ours = pair(workload, Order::FRAME, threads, Memsvc::NAME)?;
            let name = format!("{workload}_o0_{threads}t_pair_vs_{of}");
            ratios.push(Ratio { name, value: ours / (PUBLISHED_PAIR[0] * quarter) });
            let ours = pair(workload, Order::BLOCK, threads, Memsvc::NAME)?;
            let name = format!("{workload}_o9_{threads}t_pair_vs_published");
            ratios.push(Ratio { name, value: ours / PUBLISHED_PAIR[1] });
        }
        for peer in [MutexVec::NAME, ThreadList::NAME] {
            for threads in THREADS {
                let value = pair(workload, Order::FRAME, threads, Memsvc::NAME)?
                    / pair(workload, Order::FRAME, threads, peer)?;
                let name = format!("{workload}_o0_{threads}t_pair_vs_{}", peer.replace('-', "_"));
                ratios.push(Ratio { name, value });
            }
        }
    }
    for size in slab::SIZES {
        let case = slab::case(size, "pair");
        let value = median(&case, slab::MEMSVC, "mean")? / median(&case, slab::MALLOC, "mean")?;
        ratios.push(Ratio { name: format!("slab_{size}_pair_vs_malloc"), value });
    }
    let list = |holding: u8| median(&format!("drain_all/{holding}of64"), Memsvc::NAME, "a list");
    ratios.push(Ratio { name: "drain_all_a_list_64_vs_32".to_owned(), value: list(64)? / list(32)? });
    Ok(ratios)
}
