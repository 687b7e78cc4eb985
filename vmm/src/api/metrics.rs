//! The metrics file: one line of JSON at each flush.

use std::{
    fs::File,
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use crate::vm::config::{ConfigError, MetricsConfig, open_output};

/// An open metrics file or pipe.
#[derive(Debug)]
pub struct MetricsFile(File);

impl MetricsFile {
    /// Opens the file to append to it.
    pub fn open(config: &MetricsConfig) -> Result<Self, ConfigError> {
        Ok(Self(open_output("metrics file", &config.metrics_path)?))
    }

    /// Appends one line: `metrics` and the time, in one write so that lines stay whole.
    pub fn write(&mut self, metrics: Map<String, Value>) -> io::Result<()> {
        let mut line = Map::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        line.insert("utc_timestamp_ms".to_owned(), Value::from(now.as_millis() as u64));
        line.extend(metrics);
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        self.0.write_all(&text)
    }
}
