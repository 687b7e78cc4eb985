//! Workloads of a pool, and how long they take: always as a thread sees it, per operation.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::ensure;

use super::clock::{Clock, ticks};
use super::pool::{Hand, Pool};

/// Nanoseconds of one get and of one put: means over all of a phase and all threads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    pub(crate) get: f64,
    pub(crate) put: f64,
}

/// Each of `threads` takes `each` and gives all back, in the order in which it got them or in a random
/// one, `times` over.
pub(crate) fn bulk<P: Pool>(
    pool: &P,
    threads: usize,
    each: usize,
    times: usize,
    random: bool,
) -> anyhow::Result<Times> {
    let barrier = Barrier::new(threads);
    let one = |thread: usize| -> Option<Times> {
        let mut items = vec![P::Item::default(); each];
        let mut order: Vec<usize> = (0..each).collect();
        if random {
            fastrand::Rng::with_seed(thread as u64).shuffle(&mut order);
        }
        let mut sum = Times::default();
        let mut well = true;
        for _ in 0..times {
            let mut hand = pool.hand(thread);
            barrier.wait();
            let start = Instant::now();
            for item in &mut items {
                match hand.get() {
                    Some(got) => *item = got,
                    None => well = false,
                }
            }
            sum.get += per(start, each * times);
            if random {
                // The order of giving back is laid out in memory, so that reading it costs nothing.
                let mut shuffled: Vec<P::Item> =
                    order.iter().filter_map(|&at| items.get(at).copied()).collect();
                std::mem::swap(&mut items, &mut shuffled);
            }
            barrier.wait();
            let start = Instant::now();
            for item in &items {
                well &= hand.put(*item);
            }
            sum.put += per(start, each * times);
            // Whoever is done still holds what the other may need.
            barrier.wait();
        }
        well.then_some(sum)
    };
    mean(run(threads, one), P::NAME)
}

/// Each thread gets one and gives it back, `each` times. Nanoseconds of a pair.
pub(crate) fn repeat<P: Pool>(pool: &P, threads: usize, each: usize) -> anyhow::Result<f64> {
    let barrier = Barrier::new(threads);
    let one = |thread: usize| -> Option<Times> {
        let mut hand = pool.hand(thread);
        let mut well = true;
        barrier.wait();
        let start = Instant::now();
        for _ in 0..each {
            match hand.get() {
                Some(item) => well &= hand.put(black_box(item)),
                None => well = false,
            }
        }
        let pair = per(start, each);
        barrier.wait();
        well.then_some(Times { get: pair, put: 0.0 })
    };
    mean(run(threads, one), P::NAME).map(|times| times.get)
}

/// Median and 99th percentile of single gets, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// The pool is taken empty, each thread its part, and `percent` of that given back in random order. Then
/// half of what is free is got, and each get timed.
pub(crate) fn full<P: Pool>(
    pool: &P,
    threads: usize,
    each: usize,
    percent: usize,
    clock: Clock,
) -> anyhow::Result<Percentiles> {
    let barrier = Barrier::new(threads);
    let one = |thread: usize| -> Option<Vec<u64>> {
        let mut hand = pool.hand(thread);
        let mut held: Vec<P::Item> = (0..each).map_while(|_| hand.get()).collect();
        let mut well = held.len() == each;
        fastrand::Rng::with_seed(thread as u64).shuffle(&mut held);
        let free = each * percent / 100;
        for item in held.drain(each.saturating_sub(free)..) {
            well &= hand.put(item);
        }
        let mut taken = vec![0; free / 2];
        barrier.wait();
        for ticks_taken in &mut taken {
            let before = ticks();
            let got = hand.get();
            *ticks_taken = ticks() - before;
            well &= got.is_some();
            held.extend(got);
        }
        barrier.wait();
        for item in held {
            well &= hand.put(item);
        }
        barrier.wait();
        well.then_some(taken)
    };
    let all: Option<Vec<Vec<u64>>> = run(threads, one).into_iter().collect();
    let mut all = all.unwrap_or_default().concat();
    ensure!(!all.is_empty(), "{} had nothing, or refused what it had given", P::NAME);
    all.sort_unstable();
    let at = |percentile: usize| all.get(all.len() * percentile / 100).map_or(0.0, |&ticks| clock.ns(ticks));
    Ok(Percentiles { p50: at(50), p99: at(99) })
}

#[allow(clippy::cast_precision_loss, reason = "numbers of operations")]
fn per(start: Instant, operations: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / operations as f64
}

fn run<T: Send>(threads: usize, one: impl Fn(usize) -> Option<T> + Sync) -> Vec<Option<T>> {
    thread::scope(|scope| {
        let one = &one;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        running.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    })
}

#[allow(clippy::cast_precision_loss, reason = "a few threads")]
fn mean(times: Vec<Option<Times>>, name: &str) -> anyhow::Result<Times> {
    let all = times.len() as f64;
    let times: Vec<Times> = times.into_iter().flatten().collect();
    ensure!(times.len() as f64 >= all, "{name} had nothing, or refused what it had given");
    let sum = |of: fn(&Times) -> f64| times.iter().map(of).sum::<f64>() / all;
    Ok(Times { get: sum(|times| times.get), put: sum(|times| times.put) })
}
