//! The metrics file: one line of JSON at each flush, in Firecracker's form.
//!
//! ```text
//!   {"utc_timestamp_ms": …, "id": …, "properties": …,            the last two where they are asked for
//!    "block_root": {"read_count": 5, …}, "block": {…}, "vcpu": …  Firecracker's names (schema): since the line before
//!    "aerostat": {"block_root": {"reads": 905, …}, …}}            our counters: since the start of the guest
//! ```

mod requests;
mod schema;

pub use requests::Requests;

use std::{
    io,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use self::schema::Groups;
use super::lines::Lines;
use crate::vm::config::{ConfigError, MetricsConfig, VmConfig};

/// How long the start of the process took until its API was served, in microseconds; 0: nobody said when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// By the clock.
    pub wall_us: u64,
    /// CPU time.
    pub cpu_us: u64,
}

/// All that is counted.
#[derive(Debug)]
pub(super) struct Counted<'a> {
    /// What the guest is made of.
    pub(super) config: &'a VmConfig,
    /// Counters of its devices.
    pub(super) devices: Map<String, Value>,
    /// Calls of the API.
    pub(super) requests: &'a Requests,
    /// The start of the process.
    pub(super) startup: Startup,
    /// Lines that could not be written.
    pub(super) missed: Missed,
}

/// Lines for which files or pipes had no room.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Missed {
    /// Lines of metrics.
    pub(super) metrics: u64,
    /// Lines of the log.
    pub(super) log: u64,
}

/// An open metrics file or pipe.
#[derive(Debug)]
pub struct MetricsFile {
    lines: Lines,
    /// What every line says.
    head: Map<String, Value>,
    /// Firecracker's counters at the line before.
    before: Groups,
}

impl MetricsFile {
    /// Opens the file to append to it, for the guest called `id`.
    pub fn open(config: &MetricsConfig, id: &str) -> Result<Self, ConfigError> {
        let lines = Lines::open("metrics file", &config.metrics_path)?;
        let mut head = Map::new();
        if config.emit_id {
            head.insert("id".to_owned(), id.into());
        }
        if let Some(properties) = &config.properties {
            let words = properties.iter().map(|(name, word)| (name.clone(), word.as_str().into()));
            head.insert("properties".to_owned(), Value::Object(words.collect()));
        }
        Ok(Self { lines, head, before: Groups::new() })
    }

    /// Lines that could not be written.
    pub(super) fn missed(&self) -> u64 {
        self.lines.missed()
    }

    /// Appends one line.
    pub(super) fn write(&mut self, counted: Counted<'_>) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut line = Map::new();
        line.insert("utc_timestamp_ms".to_owned(), Value::from(now.as_millis() as u64));
        line.extend(self.head.clone());
        let counters = schema::totals(&counted);
        line.extend(schema::since(&counters, &self.before));
        line.insert("api_server".to_owned(), schema::startup(counted.startup));
        line.insert("aerostat".to_owned(), Value::Object(counted.devices));
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.lines.write(&text)?;
        // What is not written is told by the next line.
        self.before = counters;
        Ok(())
    }
}
