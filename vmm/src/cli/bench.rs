//! `aerostat bench`: runs a benchmark and says what came of it.

use std::{fmt::Write, fs::File, io::Write as _, os::unix::process::CommandExt, process::Command};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Outcome,
    args::{BenchArgs, BenchCommand, HugepagesArgs},
    output,
    table::{self, Column, grouped},
};
use crate::bench::{self, Phase, Plan, Report, Run, Summary};

/// Does it.
pub(super) fn bench(args: BenchArgs) -> Outcome {
    match args.command {
        BenchCommand::Hugepages(args) if args.guest => on_real_guests(&args),
        BenchCommand::Hugepages(args) => hugepages(&args),
    }
}

/// Real guests need kernels, a guest agent and QEMU, and perhaps a nested host to run in: `aerostat-bench` has
/// all that, and takes our place.
fn on_real_guests(args: &HugepagesArgs) -> Outcome {
    let program = std::env::current_exe().context("This program's own path is not known")?;
    let program = program.with_file_name("aerostat-bench");
    let mut command = Command::new(&program);
    command.args(["hugepages-guest", "--rounds", "1"]);
    if args.json {
        command.arg("--json");
    }
    let error = command.exec();
    Err(error).with_context(|| {
        format!(
            "--guest needs {}: build it with ci/build, in Aerostat's repository, and run it there",
            program.display()
        )
    })
}

fn hugepages(args: &HugepagesArgs) -> Outcome {
    let plan = Plan {
        memory_bytes: args.memory.0 << 20,
        policies: args.policy.clone(),
        unmovable_percents: args.unmovable.clone(),
        patterns: args.pattern.clone(),
    };
    // It takes minutes: a file that cannot be written is better known now. What is in it stays until then.
    let chart = args.svg.as_ref().map(|path| {
        let no_file = || format!("The chart cannot be written to {}", path.display());
        let file =
            File::options().write(true).create(true).truncate(false).open(path).with_context(no_file)?;
        Ok::<_, anyhow::Error>((file, no_file))
    });
    let chart = chart.transpose()?;
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("{msg:44} [{bar:30}] {percent:>3} % {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    let report = bench::run(&plan, &mut |at| {
        bar.set_length(at.all);
        bar.set_position(at.done);
        bar.set_message(at.now.clone());
    });
    bar.finish_and_clear();
    let report = report?;
    if let Some((mut file, no_file)) = chart {
        let drawn = bench::svg(&report)?;
        file.set_len(0).and_then(|()| file.write_all(drawn.as_bytes())).with_context(no_file)?;
    }
    output::answer(args.json, &report, human)
}

/// Two tables for each load: what was won and how fast, and what it cost.
fn human(report: &Report) -> String {
    let mut text = format!(
        "Whole 2 MiB pages of {} MiB, of which half was given back. Linux {}, {} threads of load.\n",
        report.memory_bytes >> 20,
        report.kernel_release,
        report.load_threads
    );
    let is_same = |one: &Run, other: &Run| {
        (one.pattern, one.unmovable_percent) == (other.pattern, other.unmovable_percent)
    };
    // Writing to a string does not fail.
    for runs in report.runs.chunk_by(is_same) {
        let Some(first) = runs.first() else { continue };
        let _ = writeln!(
            text,
            "\nGiven back: {}; {} % of the memory unmovable\n",
            first.pattern, first.unmovable_percent
        );
        text.push_str(&table::columns(&SUCCESS, &rows(runs, success)));
        text.push('\n');
        text.push_str(&table::columns(&COST, &rows(runs, cost)));
    }
    text.push_str(NOTES);
    text
}

const NOTES: &str = "
Times are in microseconds. Success is of the unused memory (under load: of 90 % of it), and of what can be had at
most: blocks in which nothing is unmovable, as far as what lives in them fits into the rest.
won: pages that the guest does not use and the host could have; made: with those that the kernel makes by taking
back what had been given up. fewest: frames that had to be moved at least. touch: what it took the load to write or
read a page; stall: to wait for one on the move.
";

const SUCCESS: [Column<'_>; 13] = [
    Column::Left("policy"),
    Column::Left("phase"),
    Column::Right("asked"),
    Column::Right("won"),
    Column::Right("% asked"),
    Column::Right("% attainable"),
    Column::Right("made"),
    Column::Right("latency mean"),
    Column::Right("sd"),
    Column::Right("p50"),
    Column::Right("p99"),
    Column::Right("max"),
    Column::Right("whole pages"),
];

const COST: [Column<'_>; 12] = [
    Column::Left("policy"),
    Column::Left("phase"),
    Column::Right("frames/won"),
    Column::Right("KiB/won"),
    Column::Right("by fewest"),
    Column::Right("won/chosen"),
    Column::Right("deferred"),
    Column::Right("touch p99"),
    Column::Right("max"),
    Column::Right("stalls"),
    Column::Right("p99 below"),
    Column::Right("max"),
];

fn rows(runs: &[Run], row: fn(&Phase) -> Vec<String>) -> Vec<Vec<String>> {
    let of_run = |run: &Run| {
        let policy = run.policy.to_string();
        let of_phase = move |phase: &Phase| {
            [policy.clone(), phase.name.clone()].into_iter().chain(row(phase)).collect::<Vec<_>>()
        };
        run.phases.iter().map(of_phase).collect::<Vec<_>>()
    };
    runs.iter().flat_map(of_run).collect()
}

fn success(phase: &Phase) -> Vec<String> {
    let Summary { mean_us, sd_us, p50_us, p99_us, max_us, .. } = phase.latency;
    let whole = phase.steps.last().map_or(0.0, |step| step.whole_pages);
    let counts = [grouped(phase.asked), grouped(phase.won)];
    let percents =
        [phase.success_of_request, phase.success_of_attainable].map(|percent| format!("{percent:.1}"));
    let times = [mean_us, sd_us, p50_us, p99_us, max_us].map(micros);
    let all = counts.into_iter().chain(percents).chain([grouped(phase.made)]).chain(times);
    all.chain([format!("{whole:.1}")]).collect()
}

fn cost(phase: &Phase) -> Vec<String> {
    let none = || "-".to_owned();
    let ratio = |ratio: Option<f64>| ratio.map_or_else(none, |ratio| format!("{ratio:.3}"));
    let mut cells = match &phase.work {
        Some(work) => vec![
            format!("{:.1}", work.migrated_per_success),
            format!("{:.0}", work.copied_per_success / 1024.0),
            ratio(work.migrated_vs_fewest),
            ratio(work.scan_efficiency),
            grouped(work.deferred),
        ],
        None => vec![none(); 5],
    };
    let touches = phase.touches.map(|touches| [touches.p99_us, touches.max_us].map(micros));
    cells.extend(touches.unwrap_or_else(|| [none(), none()]));
    cells.extend(phase.work.as_ref().map_or_else(
        || [none(), none(), none()],
        |work| [work.stalls.count, work.stalls.p99_below_us, work.stalls.max_us].map(grouped),
    ));
    cells
}

fn micros(us: f64) -> String {
    if us < 10.0 { format!("{us:.2}") } else { grouped(us.round() as u64) }
}
