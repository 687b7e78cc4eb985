//! The configuration of one microVM, in the JSON shape of Firecracker.
//!
//! One file per section; this one holds the whole and what must hold between sections:
//!
//! ```text
//! boot-source ──────▶ BootSource           machine-config ───▶ MachineConfig
//! drives ───────────▶ [Drive]              balloon ──────────▶ BalloonConfig
//! memory ───────────▶ MemoryConfig, CompactionConfig
//! logger, metrics, serial ─▶ output.rs     network-interfaces ▶ refused until it is there
//! ```
//!
//! Types say what can be written down, [`VmConfig::validate`] what makes sense. Every setter of the
//! API changes a copy, validates it and only then keeps it, so a refused call leaves no trace.

mod balloon;
mod boot;
mod compaction;
mod drive;
mod error;
mod machine;
mod memory;
mod output;
mod units;

pub use balloon::BalloonConfig;
pub use boot::{BootSource, DEFAULT_BOOT_ARGS};
pub use compaction::CompactionConfig;
pub use drive::{CacheType, Drive, IoEngine, MAX_DRIVES, RateLimiter, TokenBucket};
pub use error::ConfigError;
pub use machine::{HugePages, MAX_MEMORY, MAX_VCPUS, MIN_MEMORY, MachineConfig};
pub use memory::{MemoryConfig, WatermarksConfig};
pub use output::{LogLevel, LoggerConfig, MetricsConfig, SerialConfig, open_output};
pub use units::{Kib, Mib};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything an operator says about a microVM; also the format of a configuration file and of
/// `GET /vm/config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VmConfig {
    /// What to boot. Required before the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_source: Option<BootSource>,
    /// CPUs and memory; one vCPU and 128 MiB if left out.
    #[serde(default)]
    pub machine_config: MachineConfig,
    /// Disks in the guest's order; the root device, if any, is the first.
    #[serde(default)]
    pub drives: Vec<Drive>,
    /// The memory balloon, if the guest is to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonConfig>,
    /// How the memory service is to run; by its own formulas if left out.
    #[serde(default, skip_serializing_if = "MemoryConfig::is_default")]
    pub memory: MemoryConfig,
    /// Network interfaces: must be empty, they are not there yet.
    #[serde(default)]
    #[schema(value_type = Vec<Object>, max_items = 0)]
    pub network_interfaces: Vec<serde_json::Value>,
    /// Where the log goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logger: Option<LoggerConfig>,
    /// Where metrics go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricsConfig>,
    /// Where the serial console goes; the standard streams if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<SerialConfig>,
}

impl VmConfig {
    /// Checks what can be known without looking at files; an incomplete configuration is fine.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(boot) = &self.boot_source {
            boot.validate()?;
        }
        self.machine_config.validate()?;
        drive::validate_all(&self.drives)?;
        if let Some(balloon) = &self.balloon {
            balloon.validate(self.machine_config.mem_size_mib)?;
        }
        self.memory.validate(self.machine_config.mem_size_mib)?;
        if !self.network_interfaces.is_empty() {
            return Err(ConfigError::NoNetworkYet);
        }
        Ok(())
    }

    /// Checks that every file the configuration names is there and can be opened.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        if let Some(boot) = &self.boot_source {
            boot.check_files()?;
        }
        self.drives.iter().try_for_each(Drive::check_file)?;
        if let Some(serial) = &self.serial {
            serial.check_file()?;
        }
        Ok(())
    }

    /// What to boot, or the error that says that it is missing.
    pub fn require_boot_source(&self) -> Result<&BootSource, ConfigError> {
        self.boot_source.as_ref().ok_or(ConfigError::NoBootSource)
    }

    /// The kernel command line: the operator's (or [`DEFAULT_BOOT_ARGS`]), then `root=` for the
    /// root device, as Firecracker does.
    pub fn kernel_command_line(&self) -> String {
        let given = self.boot_source.as_ref().and_then(|boot| boot.boot_args.as_deref());
        let mut line = given.unwrap_or(DEFAULT_BOOT_ARGS).to_owned();
        if let Some(root) = self.drives.iter().find(|drive| drive.is_root_device) {
            line.push_str(&root.root_args());
        }
        line
    }

    /// Adds a drive, or replaces the one of the same id in its place.
    pub fn set_drive(&mut self, drive: Drive) {
        match self.drives.iter_mut().find(|known| known.drive_id == drive.drive_id) {
            Some(known) => *known = drive,
            None => self.drives.push(drive),
        }
        self.order_drives();
    }

    /// Puts the root device first, so that it is `/dev/vda`; the others keep their order.
    pub fn order_drives(&mut self) {
        self.drives.sort_by_key(|drive| !drive.is_root_device);
    }
}

#[cfg(test)]
mod tests;
