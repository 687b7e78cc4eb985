//! Firecracker's form, without a command: its flags, and a few of ours.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use rustix::time::{ClockId, clock_gettime};

use super::{super::size, DEFAULT_SOCKET};
use crate::{
    api::{metrics::Startup, server::MAX_BODY},
    socket::SocketMode,
    vm::config::{LogLevel, LoggerConfig, MetricsConfig},
};

#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    /// Socket to serve the API on
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub(in crate::cli) api_sock: PathBuf,
    /// Permission bits of that socket, which say who may connect: octal, whatever the umask
    #[arg(long, value_name = "MODE", default_value_t = SocketMode::OWNER)]
    pub(in crate::cli) api_sock_mode: SocketMode,
    /// Name of the guest: 1 to 64 letters, digits or hyphens
    #[arg(long, default_value = "anonymous-instance", value_parser = size::instance_id)]
    pub(in crate::cli) id: String,
    /// Start what this file describes at once
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) config_file: Option<PathBuf>,
    /// Serve no API; needs --config-file
    #[arg(long, requires = "config_file")]
    pub(in crate::cli) no_api: bool,
    /// Longest body of a request, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = MAX_BODY)]
    pub(in crate::cli) http_api_max_payload_size: usize,
    /// Start though the host may swap the guest, and the version of its kernel does not tell of the fixes that this needs.
    /// You know that the kernel has them (see aerostat check)
    #[arg(long)]
    pub(in crate::cli) allow_host_swap: bool,
    /// Say why the guest ended as JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
    #[command(flatten)]
    pub(in crate::cli) outputs: OutputArgs,
    #[command(flatten)]
    pub(in crate::cli) started: StartedArgs,
    #[command(flatten)]
    pub(in crate::cli) idle: IdleArgs,
    #[command(flatten)]
    pub(in crate::cli) absent: AbsentArgs,
}

/// Outputs from the start on: what `PUT /logger` and `PUT /metrics` would set.
#[derive(Debug, Args)]
#[command(next_help_heading = "Outputs, as PUT /logger and PUT /metrics set them")]
pub(in crate::cli) struct OutputArgs {
    /// File or named pipe for the log [default: standard error]
    #[arg(long, value_name = "PATH")]
    log_path: Option<PathBuf>,
    /// The least serious level that is logged: Off, Error, Warning, Info, Debug or Trace [default: Warning, and Info
    /// with any other of these flags]
    #[arg(long)]
    level: Option<LogLevel>,
    /// Log only what comes from modules whose path starts with this
    #[arg(long, value_name = "PREFIX")]
    module: Option<String>,
    /// Have each line of the log say its level, as it does without this flag
    #[arg(long)]
    show_level: bool,
    /// Have each line of the log say where in the source it comes from
    #[arg(long)]
    show_log_origin: bool,
    /// File or named pipe for metrics
    #[arg(long, value_name = "PATH")]
    metrics_path: Option<PathBuf>,
}

impl OutputArgs {
    /// The log that is asked for, if any flag speaks of it.
    pub(in crate::cli) fn logger(&self) -> Option<LoggerConfig> {
        let config = LoggerConfig {
            log_path: self.log_path.clone(),
            level: self.level,
            show_level: self.show_level.then_some(true),
            show_log_origin: self.show_log_origin.then_some(true),
            module: self.module.clone(),
        };
        (config != LoggerConfig::default()).then_some(config)
    }

    /// The metrics file that is asked for.
    pub(in crate::cli) fn metrics(&self) -> Option<MetricsConfig> {
        let metrics_path = self.metrics_path.clone()?;
        Some(MetricsConfig { metrics_path, emit_id: false, properties: None })
    }
}

/// When whoever starts us began to do so. Metrics tell how long it took from there until the API was served.
#[derive(Debug, Args)]
#[command(next_help_heading = "For metrics (process_startup_time_us and _cpu_us)")]
pub(in crate::cli) struct StartedArgs {
    /// Monotonic clock when the start began, in microseconds
    #[arg(long, value_name = "TIME")]
    start_time_us: Option<u64>,
    /// CPU time of this process when the start began, in microseconds
    #[arg(long, value_name = "TIME")]
    start_time_cpu_us: Option<u64>,
    /// CPU time that the parent used for the start, in microseconds
    #[arg(long, value_name = "TIME")]
    parent_cpu_time_us: Option<u64>,
}

impl StartedArgs {
    /// How long the start took until now, as far as it is said when it began.
    pub(in crate::cli) fn until_now(&self) -> Startup {
        let since = |clock, start: u64| {
            let now = Duration::try_from(clock_gettime(clock)).unwrap_or_default().as_micros();
            u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(start)
        };
        let cpu_us = self.start_time_cpu_us.map(|start| {
            since(ClockId::ProcessCPUTime, start).saturating_add(self.parent_cpu_time_us.unwrap_or_default())
        });
        Startup {
            wall_us: self.start_time_us.map_or(0, |start| since(ClockId::Monotonic, start)),
            cpu_us: cpu_us.unwrap_or_default(),
        }
    }
}

/// Flags of Firecracker's that change nothing here.
#[derive(Debug, Args)]
#[command(next_help_heading = "Taken from Firecracker's clients, without effect")]
pub(in crate::cli) struct IdleArgs {
    /// No seccomp filters; there are none
    #[arg(long, conflicts_with = "seccomp_filter")]
    no_seccomp: bool,
    /// Seccomp filters; none are loaded, which the log says
    #[arg(long, value_name = "PATH")]
    seccomp_filter: Option<PathBuf>,
    /// A device by which the guest says that it has booted; there is none, which the log says
    #[arg(long)]
    boot_timer: bool,
    /// Most bytes of guest metadata; there is no MMDS
    #[arg(long, value_name = "BYTES")]
    mmds_size_limit: Option<usize>,
}

impl IdleArgs {
    /// Says in the log what somebody may count on, and is not there.
    pub(in crate::cli) fn warn(&self) {
        if let Some(path) = &self.seccomp_filter {
            tracing::warn!("The seccomp filter {} is not loaded: Aerostat has none", path.display());
        }
        if self.boot_timer {
            tracing::warn!("There is no boot timer: the guest's boot is not timed");
        }
    }
}

/// Flags of Firecracker's without which its user would not get what they ask for.
#[derive(Debug, Args)]
pub(in crate::cli) struct AbsentArgs {
    #[arg(long, value_name = "PATH", hide = true)]
    metadata: Option<PathBuf>,
    #[arg(long, hide = true)]
    enable_pci: bool,
    #[arg(long, hide = true)]
    snapshot_version: bool,
    #[arg(long, value_name = "PATH", hide = true)]
    describe_snapshot: Option<PathBuf>,
}

impl AbsentArgs {
    /// Why the process cannot start, if one of them was given.
    pub(in crate::cli) fn refusal(&self) -> Option<&'static str> {
        let given = [
            (
                self.metadata.is_some(),
                "--metadata asks for MMDS, which Aerostat does not have yet: leave the flag out.",
            ),
            (
                self.enable_pci,
                "--enable-pci asks for a PCI bus, which Aerostat does not have: leave the flag out, and devices are \
                 on virtio-mmio.",
            ),
            (
                self.snapshot_version,
                "--snapshot-version asks for the format of snapshots, which Aerostat does not make yet.",
            ),
            (
                self.describe_snapshot.is_some(),
                "--describe-snapshot asks what is in a snapshot, which Aerostat cannot read yet.",
            ),
        ];
        given.into_iter().find(|(is_given, _)| *is_given).map(|(_, sentence)| sentence)
    }
}
