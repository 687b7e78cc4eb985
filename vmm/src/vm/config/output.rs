//! `logger`, `metrics`, `serial`: what the process writes, and where.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ConfigError, TokenBucket};

/// Where the log goes and what is in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoggerConfig {
    /// File or named pipe that lines are appended to; standard error if left out.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub log_path: Option<PathBuf>,
    /// The least serious level that is logged; `Info` if left out.
    #[serde(default)]
    pub level: Option<LogLevel>,
    /// Whether each line says its level.
    #[serde(default)]
    pub show_level: Option<bool>,
    /// Whether each line says where in the source it comes from.
    #[serde(default)]
    pub show_log_origin: Option<bool>,
    /// Log only what comes from modules whose path starts with this.
    #[serde(default)]
    pub module: Option<String>,
}

/// How serious a line of the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
pub enum LogLevel {
    /// Nothing is logged.
    Off,
    /// Something failed.
    Error,
    /// Something is odd.
    Warning,
    /// Something happened.
    #[default]
    Info,
    /// For whoever looks for a fault.
    Debug,
    /// Everything.
    Trace,
}

impl TryFrom<String> for LogLevel {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl FromStr for LogLevel {
    type Err = String;

    /// By name, in capitals or not, as clients write them.
    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "off" => Ok(Self::Off),
            "error" => Ok(Self::Error),
            "warning" | "warn" => Ok(Self::Warning),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(format!(
                "unknown level `{name}`, expected one of `Off`, `Error`, `Warning`, `Info`, `Debug`, `Trace`"
            )),
        }
    }
}

/// Where metrics go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// File or named pipe; a line of JSON is appended at each flush.
    #[schema(value_type = String)]
    pub metrics_path: PathBuf,
    /// Whether each line has the guest's id, as `id`.
    #[serde(default)]
    pub emit_id: bool,
    /// Words of the operator's that each line has, as `properties`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<BTreeMap<String, String>>,
}

/// Where the serial console goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SerialConfig {
    /// File or named pipe that receives the console's output; the standard streams if left out.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub serial_out_path: Option<PathBuf>,
    /// Limit on the console's output, in bytes: what comes faster is dropped and counted. No limit if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limiter: Option<TokenBucket>,
}

impl SerialConfig {
    /// Checks that the file can be opened for writing; makes it if it is not there.
    pub fn check_file(&self) -> Result<(), ConfigError> {
        if let Some(path) = &self.serial_out_path {
            open_output("serial output", path)?;
        }
        Ok(())
    }
}

/// Opens a file or named pipe to append to, never waiting: neither for a reader of the pipe now
/// (that is why it is opened for reading too) nor for room in it later.
pub fn open_output(what: &'static str, path: &Path) -> Result<File, ConfigError> {
    let failed = |source: io::Error| ConfigError::File { what, path: path.to_owned(), source };
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)
}
