//! Reports that demo and benchmarks leave in `target/`, field by field, and tables of them.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::stats::Summary;

/// `target/demo/report.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Demo {
    /// "native" or "nested".
    pub kvm: String,
    /// The guest's kernel release.
    pub guest_kernel: String,
    /// From starting the monitor until the agent was up.
    pub boot_ms: u64,
    /// "ok" where every page that was checked was right.
    pub integrity: String,
    /// One entry for each step.
    pub steps: Vec<Step>,
}

/// One step of the demo, and how guest and host stood after it.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Guest's `MemTotal`.
    pub guest_total_mib: u64,
    /// Guest's `MemFree`.
    pub guest_free_mib: u64,
    /// What the balloon holds.
    pub balloon_actual_mib: u64,
    /// Resident memory of the monitor, guest RAM included.
    pub host_resident_mib: f64,
    /// Of that, in huge pages.
    pub host_huge_mib: f64,
}

/// `target/bench/NAME.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Bench {
    /// As of all that `aerostat` prints as JSON.
    pub version: u32,
    /// Name of the benchmark.
    pub name: String,
    /// Where it ran: KVM, kernel, CPUs.
    pub host: String,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What came of it.
    pub ratios: Vec<Ratio>,
}

/// One figure of one subject.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The situation.
    pub case: String,
    /// Who was measured.
    pub subject: String,
    /// What was measured.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// Median, least, most, number of runs.
    #[serde(flatten)]
    pub summary: Summary,
}

/// One number that has a target.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// Its name.
    pub name: String,
    /// The number.
    pub value: f64,
}

/// Writes a report as JSON; makes its directory.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, report: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(report)? + "\n";
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Lays rows of words out in columns, the first ones left, numbers right.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|word| (*word).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let width =
        |column: usize| all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for row in &all {
        let mut line = String::from(" ");
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            let number = rows.iter().filter_map(|row| row.get(column)).all(|cell| numeric(cell));
            line += &if number { format!(" {cell:>width$} ") } else { format!(" {cell:<width$} ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn numeric(cell: &str) -> bool {
    cell.chars().all(|letter| letter.is_ascii_digit() || ".-+x% ".contains(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_summary_beside_its_names() -> anyhow::Result<()> {
        let summary = Summary { median: 2.0, min: 1.0, max: 3.0, runs: 5 };
        let words = |word: &str| word.to_owned();
        let row =
            Row { case: words("c"), subject: words("s"), metric: words("m"), unit: words("u"), summary };
        let json = serde_json::to_value(row)?;
        let names: Vec<&str> =
            json.as_object().map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default();
        let mut expected = ["case", "subject", "metric", "unit", "median", "min", "max", "runs"];
        expected.sort_unstable();
        let mut names = names;
        names.sort_unstable();
        assert_eq!(names, expected);
        Ok(())
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "1.5".to_owned()], vec!["long".to_owned(), "10.25".to_owned()]];
        assert_eq!(table(&["name", "value"], &rows), "  name  value\n  a       1.5\n  long  10.25\n");
    }
}
