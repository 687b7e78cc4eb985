//! The configuration of one microVM, in the JSON shape of Firecracker.
//!
//! One file per section; this one holds the whole and what must hold between sections:
//!
//! ```text
//! boot-source ──────▶ BootSource           machine-config ───▶ MachineConfig
//! drives ───────────▶ [Drive]              balloon ──────────▶ BalloonConfig
//! memory ───────────▶ MemoryConfig, CompactionConfig
//! logger, metrics, serial ─▶ output.rs     network-interfaces ▶ [NetworkInterface]
//! swap ─────────────▶ SwapConfig
//! ```
//!
//! Types say what can be written down, [`VmConfig::validate`] what makes sense. Every setter of the
//! API changes a copy, validates it and only then keeps it, so a refused call leaves no trace.

mod balloon;
mod boot;
mod compaction;
mod drive;
mod error;
mod mac;
mod machine;
mod memory;
mod network;
mod output;
mod rate;
mod swap;
mod units;

pub use balloon::BalloonConfig;
pub use boot::{BootSource, DEFAULT_BOOT_ARGS};
pub use compaction::CompactionConfig;
pub use drive::{CacheType, Drive, IoEngine};
pub use error::ConfigError;
pub use mac::MacAddress;
pub use machine::{HugePages, MAX_MEMORY, MAX_VCPUS, MIN_MEMORY, MachineConfig};
pub use memory::{MemoryConfig, MemoryLimits, WatermarksConfig};
pub use network::NetworkInterface;
pub use output::{LogLevel, LoggerConfig, MetricsConfig, SerialConfig, open_output};
pub use rate::{RateLimiter, TokenBucket};
pub(crate) use swap::MAX_MEMORY as MAX_SWAP_MEMORY;
pub use swap::SwapConfig;
pub use units::{Kib, Mib};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::arch::layout::MAX_MMIO_DEVICES;
use crate::swap::GUEST_MAC;

/// Most drives and network interfaces of a guest, together, and the swap link: each has a virtio-mmio slot, as have the balloon
/// and the rng.
pub const MAX_DEVICES: usize = MAX_MMIO_DEVICES as usize - 2;

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
    /// Network cards in the guest's order.
    #[serde(default)]
    pub network_interfaces: Vec<NetworkInterface>,
    /// The swap device, if the guest is to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<SwapConfig>,
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
        network::validate_all(&self.network_interfaces)?;
        let (drives, interfaces) = (self.drives.len(), self.network_interfaces.len());
        if drives + interfaces + usize::from(self.swap.is_some()) > MAX_DEVICES {
            return Err(ConfigError::TooManyDevices { drives, interfaces });
        }
        if let Some(swap) = &self.swap {
            swap.validate()?;
            let mut macs = self.network_interfaces.iter().filter_map(|interface| interface.guest_mac);
            if let Some(mac) = macs.find(|mac| mac.octets() == GUEST_MAC) {
                return Err(ConfigError::SwapMac(mac));
            }
        }
        if let Some(balloon) = &self.balloon {
            balloon.validate(self.machine_config.mem_size_mib)?;
        }
        self.memory.validate(self.machine_config.mem_size_mib)?;
        Ok(())
    }

    /// Checks that every file, directory and interface of the host that the configuration names is there and can be used.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        if let Some(boot) = &self.boot_source {
            boot.check_files()?;
        }
        self.drives.iter().try_for_each(Drive::check_file)?;
        self.network_interfaces.iter().try_for_each(NetworkInterface::check_interface)?;
        if let Some(swap) = &self.swap {
            swap.check_directories()?;
        }
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

    /// Adds a network interface, or replaces the one of the same id in its place.
    pub fn set_network_interface(&mut self, interface: NetworkInterface) {
        match self.network_interfaces.iter_mut().find(|known| known.iface_id == interface.iface_id) {
            Some(known) => *known = interface,
            None => self.network_interfaces.push(interface),
        }
    }

    /// Puts the root device first, so that it is `/dev/vda`; the others keep their order.
    pub fn order_drives(&mut self) {
        self.drives.sort_by_key(|drive| !drive.is_root_device);
    }
}

fn check_id(id: &str) -> Result<(), ConfigError> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if (1..=64).contains(&id.len()) && id.chars().all(good) {
        return Ok(());
    }
    Err(ConfigError::BadId(id.to_owned()))
}

#[cfg(test)]
mod tests;
