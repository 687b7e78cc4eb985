//! Swap over NBD on a unix socket: `aerostat swap serve` beside servers that keep bytes as they are.
//!
//! ```text
//! by data:  start and prefill every server
//!           by load:  Aerostat, nbdkit, qemu-nbd, nbd-server ◀─ unix socket ─ fio
//! ```
//! | load | |
//! | --- | --- |
//! | `4k reads`, `4k writes` | at random; depth 1 and 32 on each of 1 and 4 connections (`depth 32 x 4`) |
//! | `256k sequential` | depth 4 on one connection |
//!
//! Latency is from submission to completion, as fio sees it. CPU time is the server's, user and system, its
//! children included. The others export memory or a file in tmpfs, which no disk slows down. Needs no KVM.

mod fio;

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, ensure};

use self::fio::{Data, Load};
use super::{Run, Samples};
use crate::nbd_server::{NbdServer, Program};
use crate::progress::Progress;
use crate::report::Ratio;

/// Who is measured, in the order of a round.
const PROGRAMS: [Program; 4] = [Program::Aerostat, Program::Nbdkit, Program::QemuNbd, Program::NbdServer];
/// Larger than a processor's caches.
const MIB: u64 = 256;
/// A load's time with each server: some 10,000 requests at depth 1.
const TIME: Duration = Duration::from_millis(500);
/// After the clients have gone: a server that ends a process for each connection has done so.
const SETTLE: Duration = Duration::from_millis(20);

const P99: &str = "p99";
const MB_PER_CPU: &str = "MB per CPU-second";
const DEEP: u32 = 32;

/// Measures for so many rounds; prints the table and writes the report.
///
/// # Errors
/// A server or fio failed, or the report cannot be written.
pub fn run(run: Run) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    for round in 1..=run.rounds {
        for data in Data::ALL {
            let name = format!("round {round} of {}, {} data", run.rounds, data.name());
            let progress = Progress::start(&name);
            measure(data, &progress, &mut samples)?;
            progress.done("");
        }
    }
    let ratios = ratios(&mut samples)?;
    run.publish("swap", &samples, ratios)
}

/// All loads: those that read come first, so that what was prefilled is read.
fn loads() -> Vec<Load> {
    let mut loads = Vec::new();
    for write in [false, true] {
        for (depth, connections) in [(1, 1), (1, 4), (DEEP, 1), (DEEP, 4)] {
            loads.push(Load { write, sequential: false, depth, connections });
        }
        loads.push(Load { write, sequential: true, depth: 4, connections: 1 });
    }
    loads
}

fn case(data: Data, load: Load) -> String {
    format!("{}: {}", data.name(), load.name())
}

/// Every server in turn, for each load.
fn measure(data: Data, progress: &Progress, samples: &mut Samples) -> anyhow::Result<()> {
    let servers: Vec<_> = PROGRAMS
        .into_iter()
        .map(|program| {
            let server = NbdServer::on_socket(program, MIB)?;
            fio::prefill(&server.uri(), MIB, data).with_context(|| program.name())?;
            Ok((program, server))
        })
        .collect::<anyhow::Result<_>>()?;
    let loads = loads();
    for (done, &load) in loads.iter().enumerate() {
        progress.at(done as u64, loads.len() as u64);
        for (program, server) in &servers {
            one(data, load, *program, server, samples)
                .with_context(|| format!("{}, {}", program.name(), case(data, load)))?;
        }
    }
    Ok(())
}

fn one(
    data: Data,
    load: Load,
    program: Program,
    server: &NbdServer,
    samples: &mut Samples,
) -> anyhow::Result<()> {
    let before = server.cpu()?;
    let outcome = fio::run(&server.uri(), MIB, data, load, TIME)?;
    sleep(SETTLE);
    let cpu = server.cpu()?.saturating_sub(before);
    ensure!(!cpu.is_zero(), "the server took no CPU time");
    let case = case(data, load);
    let mut add = |metric, unit, value| samples.add(&case, program.name(), metric, unit, value);
    add("p50", "µs", outcome.p50_us);
    add(P99, "µs", outcome.p99_us);
    add("speed", "MB/s", outcome.mb_per_s);
    add(MB_PER_CPU, "MB/s", outcome.mb / cpu.as_secs_f64());
    Ok(())
}

/// Aerostat's median by the best of the others'.
fn by_best(samples: &Samples, case: &str, metric: &str, best: fn(f64, f64) -> f64) -> anyhow::Result<f64> {
    let median = |program: Program| samples.median(case, program.name(), metric);
    let others = PROGRAMS.into_iter().filter(|&program| program != Program::Aerostat);
    let pair = median(Program::Aerostat).zip(others.filter_map(median).reduce(best));
    let (ours, theirs) = pair.with_context(|| format!("{metric} was not measured: {case}"))?;
    Ok(ours / theirs)
}

/// Compares every case, which goes to the table; the targets are for the worst of those whose data nobody
/// can shrink. `p99_qd1_vs_best`: depth 1 on one connection. `mb_per_cpu_vs_best`: depth 32, and sequential;
/// `mb_per_cpu_qd1_vs_best`: depth 1, where a server that looks for the next request pays for its p99.
fn ratios(samples: &mut Samples) -> anyhow::Result<Vec<Ratio>> {
    let (mut p99, mut mb_per_cpu, mut mb_per_cpu_qd1) = (f64::NEG_INFINITY, f64::INFINITY, f64::INFINITY);
    for data in Data::ALL {
        for load in loads() {
            let case = case(data, load);
            let slower = by_best(samples, &case, P99, f64::min)?;
            let cheaper = by_best(samples, &case, MB_PER_CPU, f64::max)?;
            let ours = Program::Aerostat.name();
            samples.add(&case, ours, "p99 by the best of theirs", "x", slower);
            samples.add(&case, ours, "MB per CPU-second by the best of theirs", "x", cheaper);
            if data != Data::Incompressible {
                continue;
            }
            if load.depth == 1 && load.connections == 1 {
                p99 = p99.max(slower);
            }
            if load.depth == 1 {
                mb_per_cpu_qd1 = mb_per_cpu_qd1.min(cheaper);
            } else {
                mb_per_cpu = mb_per_cpu.min(cheaper);
            }
        }
    }
    let ratio = |name: &str, value| Ratio { name: name.to_owned(), value };
    Ok(vec![
        ratio("p99_qd1_vs_best", p99),
        ratio("mb_per_cpu_vs_best", mb_per_cpu),
        ratio("mb_per_cpu_qd1_vs_best", mb_per_cpu_qd1),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_for_the_worst_incompressible_case_beside_the_best_of_the_others() -> anyhow::Result<()> {
        let mut samples = Samples::default();
        for data in Data::ALL {
            for load in loads() {
                // Ours is as good as the best of theirs, which is nbdkit in all of this.
                for (program, p99, cpu) in
                    PROGRAMS.into_iter().zip([10.0, 10.0, 20.0, 30.0]).map(|(p, v)| (p, v, 1000.0 / v))
                {
                    let worse = data == Data::Incompressible && load.write && program == Program::Aerostat;
                    let factor = if worse { 2.0 } else { 1.0 };
                    samples.add(&case(data, load), program.name(), P99, "µs", p99 * factor);
                    samples.add(&case(data, load), program.name(), MB_PER_CPU, "MB/s", cpu / factor);
                }
            }
        }
        let values: Vec<f64> = ratios(&mut samples)?.iter().map(|ratio| ratio.value).collect();
        assert!(
            values.iter().zip([2.0, 0.5, 0.5]).all(|(is, wanted)| (is - wanted).abs() < 1e-9),
            "{values:?}"
        );
        assert!(ratios(&mut Samples::default()).is_err(), "nothing measured is no ratio");
        Ok(())
    }
}
