//! Aerostat and its peers, measured in turn in one run, on the same host. The monitor stands beside QEMU,
//! with the same kernel and agent. The allocator and the swap server stand beside others.
//!
//! Every round visits every subject, so that what else the machine does falls on all of them alike.

pub mod alloc;
pub mod balloon;
pub mod boot;
pub mod costs;
pub mod hugepages;
pub mod hugepages_guest;
pub mod migrate;
mod standing;
pub mod swap;
pub mod swap_guest;
pub mod swap_loop;

use anyhow::Context;

use vmm::cli::JSON_VERSION;

use crate::report::{self, Bench, Ratio, Row};
use crate::stats::Summary;
use crate::subject::Subject;
use crate::{kvm_host, paths};

/// Who is measured, in the order of a round.
pub const SUBJECTS: [Subject; 3] = [Subject::Aerostat, Subject::QemuMicrovm, Subject::QemuPc];
/// Those that Aerostat is compared with.
const QEMU: [Subject; 2] = [Subject::QemuMicrovm, Subject::QemuPc];

/// What one series of samples is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Series {
    case: String,
    metric: &'static str,
    unit: &'static str,
}

/// Samples by series and subject, in the order in which they were first seen.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<(Series, &'static str, Vec<f64>)>);

impl Samples {
    pub(crate) fn add(
        &mut self,
        case: &str,
        subject: &'static str,
        metric: &'static str,
        unit: &'static str,
        value: f64,
    ) {
        let series = Series { case: case.to_owned(), metric, unit };
        match self.0.iter_mut().find(|(known, who, _)| *known == series && *who == subject) {
            Some((_, _, values)) => values.push(value),
            None => self.0.push((series, subject, vec![value])),
        }
    }

    /// Adds what one run of a subject gives. QEMU, which is not ours to mend, may fail once; that is said.
    pub(crate) fn take(
        &mut self,
        subject: Subject,
        run: impl Fn(&mut Samples) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut taken = Samples::default();
        if let Err(error) = run(&mut taken) {
            if subject == Subject::Aerostat {
                return Err(error);
            }
            eprintln!("\n{} failed and is run once more: {error:#}", subject.name());
            taken = Samples::default();
            run(&mut taken)?;
        }
        for (series, subject, values) in taken.0 {
            for value in values {
                self.add(&series.case, subject, series.metric, series.unit, value);
            }
        }
        Ok(())
    }

    pub(crate) fn median(&self, case: &str, subject: &str, metric: &str) -> Option<f64> {
        self.summary(|series, who| series.case == case && series.metric == metric && who == subject)
            .map(|summary| summary.median)
    }

    /// The largest or smallest median among QEMU's machines.
    pub(crate) fn best_qemu(&self, case: &str, metric: &str, best: fn(f64, f64) -> f64) -> Option<f64> {
        QEMU.into_iter().filter_map(|subject| self.median(case, subject.name(), metric)).reduce(best)
    }

    /// Aerostat's median by the best of QEMU's.
    pub(crate) fn ratio(
        &self,
        name: &str,
        case: &str,
        metric: &str,
        best: fn(f64, f64) -> f64,
    ) -> anyhow::Result<Ratio> {
        let ours = self.median(case, Subject::Aerostat.name(), metric);
        Self::quotient(name, ours, self.best_qemu(case, metric, best))
    }

    /// The median of `who`, who is Aerostat in another way, by Aerostat's.
    pub(crate) fn between(&self, name: &str, case: &str, metric: &str, who: &str) -> anyhow::Result<Ratio> {
        let ours = self.median(case, Subject::Aerostat.name(), metric);
        Self::quotient(name, self.median(case, who, metric), ours)
    }

    fn quotient(name: &str, ours: Option<f64>, theirs: Option<f64>) -> anyhow::Result<Ratio> {
        let (ours, theirs) = ours.zip(theirs).with_context(|| format!("nothing was measured for {name}"))?;
        let value = ours / theirs;
        anyhow::ensure!(value.is_finite(), "{name} cannot be told: {ours} by {theirs}");
        Ok(Ratio { name: name.to_owned(), value })
    }

    fn summary(&self, wanted: impl Fn(&Series, &str) -> bool) -> Option<Summary> {
        let found = self.0.iter().find(|(series, subject, _)| wanted(series, subject));
        found.and_then(|(_, _, values)| Summary::of(values))
    }

    fn rows(&self) -> Vec<Row> {
        let row = |(series, subject, values): &(Series, &'static str, Vec<f64>)| {
            Some(Row {
                case: series.case.clone(),
                subject: (*subject).to_owned(),
                metric: series.metric.to_owned(),
                unit: series.unit.to_owned(),
                summary: Summary::of(values)?,
            })
        };
        self.0.iter().filter_map(row).collect()
    }

    /// Medians with their range, one column for each subject.
    fn table(&self) -> String {
        let mut seen: Vec<&Series> = Vec::new();
        let mut subjects: Vec<&'static str> = Vec::new();
        for (series, subject, _) in &self.0 {
            if !seen.contains(&series) {
                seen.push(series);
            }
            if !subjects.contains(subject) {
                subjects.push(subject);
            }
        }
        let cell = |series: &Series, subject: &'static str| {
            self.summary(|known, who| known == series && who == subject).map_or_else(
                || "-".to_owned(),
                |summary| {
                    format!("{} ({} to {})", short(summary.median), short(summary.min), short(summary.max))
                },
            )
        };
        let rows: Vec<Vec<String>> = seen
            .into_iter()
            .map(|series| {
                let names = [&series.case, series.metric, series.unit].map(str::to_owned);
                names.into_iter().chain(subjects.iter().map(|subject| cell(series, subject))).collect()
            })
            .collect();
        let head: Vec<&str> =
            ["case", "metric", "unit"].into_iter().chain(subjects.iter().copied()).collect();
        report::table(&head, &rows)
    }
}

fn short(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// How a benchmark is run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How often every subject is measured.
    pub rounds: u32,
    /// The report on standard output, instead of tables.
    pub json: bool,
}

impl Run {
    /// Prints the tables, or the report, and writes `target/bench/NAME.json`.
    pub(crate) fn publish(self, name: &str, samples: &Samples, ratios: Vec<Ratio>) -> anyhow::Result<()> {
        let (name, host, rows) = (name.to_owned(), host_description(), samples.rows());
        let path = paths::target().join("bench").join(format!("{name}.json"));
        let report = Bench { version: JSON_VERSION, name, host, rows, ratios };
        report::write(&path, &report)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(());
        }
        println!("\n{}", samples.table());
        println!("  Median (least to most).\n");
        let line = |ratio: &Ratio| vec![ratio.name.clone(), format!("{:.3}", ratio.value)];
        println!(
            "{}",
            report::table(&["ratio", "value"], &report.ratios.iter().map(line).collect::<Vec<_>>())
        );
        println!("Report: {}", path.display());
        Ok(())
    }
}

fn host_description() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} KVM, Linux {}, {cpus} CPUs", kvm_host::kind(), release.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_compares_with_the_better_qemu() -> anyhow::Result<()> {
        let mut samples = Samples::default();
        for (subject, value) in
            [(Subject::Aerostat, 2.0), (Subject::QemuMicrovm, 4.0), (Subject::QemuPc, 8.0)]
        {
            samples.add("c", subject.name(), "time", "ms", value);
        }
        assert!((samples.ratio("r", "c", "time", f64::min)?.value - 0.5).abs() < 1e-9);
        assert!((samples.ratio("r", "c", "time", f64::max)?.value - 0.25).abs() < 1e-9);
        assert!(samples.ratio("r", "c", "speed", f64::max).is_err(), "nothing measured is no ratio");
        Ok(())
    }
}
