//! fio as the client: what it writes, how it asks, and what it says.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

/// What pages hold. fio fills its buffers anew for every write, but for pages that are all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// One byte, that is not zero, over and over: nobody takes a page for a hole.
    SameFilled,
    /// Random.
    Incompressible,
    /// Half of each page is random, and half zero.
    TwoToOne,
}

impl Data {
    pub(super) const ALL: [Data; 3] = [Data::SameFilled, Data::Incompressible, Data::TwoToOne];

    pub(super) fn name(self) -> &'static str {
        match self {
            Data::SameFilled => "same-filled",
            Data::Incompressible => "incompressible",
            Data::TwoToOne => "2:1",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Data::SameFilled => &["--buffer_pattern=0x5a", "--scramble_buffers=0"],
            Data::Incompressible => &["--refill_buffers=1"],
            Data::TwoToOne => {
                &["--refill_buffers=1", "--buffer_compress_percentage=50", "--buffer_compress_chunk=4k"]
            }
        }
    }
}

/// How the server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) write: bool,
    /// 256 KiB one after the other, instead of 4 KiB at random.
    pub(super) sequential: bool,
    /// Requests on the way at a time, by connection.
    pub(super) depth: u32,
    pub(super) connections: u32,
}

impl Load {
    pub(super) fn name(self) -> String {
        let what = match (self.sequential, self.write) {
            (false, false) => "4k reads",
            (false, true) => "4k writes",
            (true, false) => "256k sequential reads",
            (true, true) => "256k sequential writes",
        };
        format!("{what}, depth {} x {}", self.depth, self.connections)
    }

    fn options(self) -> Vec<String> {
        let (size, pattern) = if self.sequential { ("256k", "") } else { ("4k", "rand") };
        let direction = if self.write { "write" } else { "read" };
        vec![
            format!("--bs={size}"),
            format!("--rw={pattern}{direction}"),
            format!("--iodepth={}", self.depth),
            format!("--numjobs={}", self.connections),
            "--norandommap=1".to_owned(),
            "--group_reporting=1".to_owned(),
        ]
    }
}

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) mb_per_s: f64,
    pub(super) mb: f64,
}

/// Writes all of the export once.
pub(super) fn prefill(uri: &str, mib: u64, data: Data) -> anyhow::Result<()> {
    let load = Load { write: true, sequential: true, depth: 4, connections: 1 };
    fio(uri, mib, data, load, &[]).map(|_| ())
}

/// Asks for so long.
pub(super) fn run(uri: &str, mib: u64, data: Data, load: Load, time: Duration) -> anyhow::Result<Outcome> {
    let timed = ["--time_based=1".to_owned(), format!("--runtime={}ms", time.as_millis())];
    outcome(&fio(uri, mib, data, load, &timed)?, load.write)
}

fn fio(uri: &str, mib: u64, data: Data, load: Load, more: &[String]) -> anyhow::Result<Value> {
    let mut command = Command::new("fio");
    command
        .args(["--name=bench", "--ioengine=nbd", "--thread=1", "--output-format=json"])
        .args(["--clat_percentiles=0", "--lat_percentiles=1"])
        .arg(format!("--uri={uri}"))
        .arg(format!("--size={mib}m"))
        .args(load.options())
        .args(data.options())
        .args(more);
    let output = command.output().context("cannot run fio: run ci/setup first")?;
    let said = String::from_utf8_lossy(&output.stdout);
    // Before the report it says that it has connected, or what went wrong.
    let (words, report) = said.split_at(said.find('{').unwrap_or(said.len()));
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "fio failed: {} {}", complaint.trim(), words.trim());
    serde_json::from_str(report).with_context(|| format!("fio wrote no report: {}", words.trim()))
}

/// Reads fio's report of one group of jobs.
fn outcome(report: &Value, write: bool) -> anyhow::Result<Outcome> {
    let job = format!("/jobs/0/{}", if write { "write" } else { "read" });
    let number = |path: &str| {
        let value = report.pointer(&format!("{job}/{path}")).and_then(Value::as_f64);
        value.with_context(|| format!("fio's report has no {job}/{path}"))
    };
    let errors = report.pointer("/jobs/0/error").and_then(Value::as_i64);
    ensure!(errors == Some(0), "requests failed: fio's error is {errors:?}");
    Ok(Outcome {
        p50_us: number("lat_ns/percentile/50.000000")? / 1e3,
        p99_us: number("lat_ns/percentile/99.000000")? / 1e3,
        mb_per_s: number("bw_bytes")? / 1e6,
        mb: number("io_bytes")? / 1e6,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(error: i64) -> Value {
        let percentile = json!({ "50.000000": 21_000, "99.000000": 75_500 });
        let write = json!({ "io_bytes": 8_000_000, "bw_bytes": 16_000_000,
            "lat_ns": { "percentile": percentile } });
        json!({ "jobs": [{ "error": error, "read": { "io_bytes": 0 }, "write": write }] })
    }

    #[test]
    fn a_report_is_read_in_the_direction_that_ran() -> anyhow::Result<()> {
        let expected = Outcome { p50_us: 21.0, p99_us: 75.5, mb_per_s: 16.0, mb: 8.0 };
        assert_eq!(outcome(&report(0), true)?, expected);
        assert!(outcome(&report(0), false).is_err(), "nothing was read");
        Ok(())
    }

    #[test]
    fn a_run_with_failed_requests_is_no_measurement() {
        let error = outcome(&report(28), true).map_err(|error| error.to_string());
        assert_eq!(error, Err("requests failed: fio's error is Some(28)".to_owned()));
    }
}
