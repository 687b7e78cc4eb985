//! The configuration of one microVM, in the JSON shape of Firecracker.
//!
//! One file per section; this one holds the whole and what must hold between sections:
//!
//! ```text
//! boot-source ──────▶ BootSource           machine-config ───▶ MachineConfig
//! drives ───────────▶ [Drive]              balloon ──────────▶ BalloonConfig
//! memory ───────────▶ MemoryConfig, CompactionConfig
//! logger, metrics, serial ─▶ output.rs     network-interfaces ▶ [NetworkInterface]
//! swap ─────────────▶ SwapConfig           entropy ──────────▶ EntropyConfig
//! what we do not have ▶ Absent
//! ```
//!
//! Types say what can be written down, [`VmConfig::validate`] what makes sense. Every setter of the
//! API changes a copy, validates it and only then keeps it, so a refused call leaves no trace.

mod absent;
mod balloon;
mod boot;
mod compaction;
mod drive;
mod entropy;
mod error;
mod image;
mod mac;
mod machine;
mod memory;
mod network;
mod output;
mod rate;
mod swap;
mod units;

pub use absent::Absent;
pub use balloon::BalloonConfig;
pub use boot::{BootSource, DEFAULT_BOOT_ARGS};
pub use compaction::CompactionConfig;
pub use drive::{CacheType, Drive, IoEngine};
pub use entropy::EntropyConfig;
pub use error::ConfigError;
pub use mac::MacAddress;
pub use machine::{HugePages, MAX_MEMORY, MAX_VCPUS, MIN_MEMORY, MachineConfig};
pub use memory::{MemoryConfig, MemoryLimits, WatermarksConfig};
pub use network::NetworkInterface;
pub use output::{LogLevel, LoggerConfig, MetricsConfig, SerialConfig, open_output};
pub use rate::{RateLimiter, TokenBucket};
pub(crate) use swap::MAX_MEMORY as MAX_SWAP_MEMORY;
pub use swap::{SwapConfig, SwapFront};
pub use units::{Kib, Mib};

use linux_loader::cmdline::Cmdline;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::arch::cmdline;
use crate::arch::layout::{CMDLINE_MAX, MAX_MMIO_DEVICES, mmio_device};

/// Most drives and network interfaces of a guest, together, and the swap link: each has a virtio-mmio slot, as have the balloon
/// and the rng.
pub const MAX_DEVICES: usize = MAX_MMIO_DEVICES as usize - 2;

/// Everything an operator says about a microVM; also the format of a configuration file and of
/// `GET /vm/config`, which shows Firecracker's sections in any case and ours where they say something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "kebab-case")]
pub struct VmConfig {
    /// The memory balloon, if the guest is to have one.
    pub balloon: Option<BalloonConfig>,
    /// Disks in the guest's order; the root device, if any, is the first.
    #[serde(deserialize_with = "absent::null_is_default")]
    pub drives: Vec<Drive>,
    /// What to boot. Required before the start.
    #[serde(serialize_with = "boot::or_none_yet")]
    pub boot_source: Option<BootSource>,
    /// Firecracker's; empty.
    #[schema(value_type = Option<Object>)]
    pub cpu_config: Absent,
    /// Where the log goes.
    pub logger: Option<LoggerConfig>,
    /// CPUs and memory; one vCPU and 128 MiB if left out.
    #[serde(deserialize_with = "absent::null_is_default")]
    pub machine_config: MachineConfig,
    /// Where metrics go.
    pub metrics: Option<MetricsConfig>,
    /// Firecracker's; empty.
    #[schema(value_type = Option<Object>)]
    pub mmds_config: Absent,
    /// Network cards in the guest's order.
    #[serde(deserialize_with = "absent::null_is_default")]
    pub network_interfaces: Vec<NetworkInterface>,
    /// Firecracker's; empty.
    #[schema(value_type = Option<Object>)]
    pub vsock: Absent,
    /// Firecracker's; empty.
    #[serde(serialize_with = "Absent::as_list")]
    #[schema(value_type = Vec<Object>)]
    pub pmem: Absent,
    /// Firecracker's; empty.
    #[schema(value_type = Option<Object>)]
    pub memory_hotplug: Absent,
    /// Limits of the entropy device, which is there without them, too.
    pub entropy: Option<EntropyConfig>,
    /// How the memory service is to run; by its own formulas if left out.
    #[serde(deserialize_with = "absent::null_is_default", skip_serializing_if = "MemoryConfig::is_default")]
    pub memory: MemoryConfig,
    /// The swap device, if the guest is to have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<SwapConfig>,
    /// Where the serial console goes; the standard streams if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<SerialConfig>,
}

/// Names of the sections.
const SECTIONS: [&str; 16] = [
    "balloon",
    "drives",
    "boot-source",
    "cpu-config",
    "logger",
    "machine-config",
    "metrics",
    "mmds-config",
    "network-interfaces",
    "vsock",
    "pmem",
    "memory-hotplug",
    "entropy",
    "memory",
    "swap",
    "serial",
];

impl VmConfig {
    /// Whether a section is called so.
    pub fn has_section(name: &str) -> bool {
        SECTIONS.contains(&name)
    }

    /// Makes the sizes that were asked for into what a guest can have, and says so in the log.
    pub fn round_up(&mut self) {
        self.machine_config.round_up();
    }

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
        self.check_command_line()?;
        if let Some(swap) = &self.swap {
            swap.validate()?;
            if swap.front == SwapFront::Net {
                network::validate_beside_swap(&self.network_interfaces)?;
            }
        }
        if let Some(balloon) = &self.balloon {
            balloon.validate(self.machine_config.mem_size_mib)?;
        }
        self.memory.validate(self.machine_config.mem_size_mib)?;
        Ok(())
    }

    /// Checks that every file and directory of the host that the configuration names is there and can be used.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        if let Some(boot) = &self.boot_source {
            boot.check_files()?;
        }
        self.drives.iter().try_for_each(Drive::check_file)?;
        self.check_shared_disks()?;
        if let Some(swap) = &self.swap {
            swap.check_directories()?;
        }
        if let Some(serial) = &self.serial {
            serial.check_file()?;
        }
        Ok(())
    }

    /// Checks that no file is that of two drives, unless both only read it.
    pub fn check_shared_disks(&self) -> Result<(), ConfigError> {
        drive::check_shared(&self.drives)
    }

    /// What to boot, or the error that says that it is missing.
    pub fn require_boot_source(&self) -> Result<&BootSource, ConfigError> {
        self.boot_source.as_ref().ok_or(ConfigError::NoBootSource)
    }

    /// The kernel command line, as Firecracker makes it: the operator's (or [`DEFAULT_BOOT_ARGS`]), `pci=off`, and `root=` for
    /// the root device, all before what is for init.
    ///
    /// # Errors
    /// The operator's words cannot be on one.
    pub fn kernel_command_line(&self) -> Result<String, ConfigError> {
        let given = self.boot_source.as_ref().and_then(|boot| boot.boot_args.as_deref());
        let mut line = Cmdline::try_from(given.unwrap_or(DEFAULT_BOOT_ARGS), usize::MAX)?;
        line.insert("pci", "off")?;
        if let Some(root) = self.drives.iter().find(|drive| drive.is_root_device) {
            line.insert_str(root.root_args())?;
        }
        Ok(line.as_cstring()?.to_string_lossy().into_owned())
    }

    /// How many virtio devices the guest has; the source of random bytes is always one of them.
    pub fn device_count(&self) -> usize {
        let others = [self.swap.is_some(), self.balloon.is_some()].into_iter().filter(|is_there| *is_there);
        self.drives.len() + self.network_interfaces.len() + others.count() + 1
    }

    /// Checks that a kernel takes the command line, with its words for devices.
    fn check_command_line(&self) -> Result<(), ConfigError> {
        let devices = self.device_count();
        let slots: Vec<_> = (0u32..).map_while(mmio_device).take(devices).collect();
        let line = cmdline::with_devices(&self.kernel_command_line()?, &slots)?;
        if line.len() > CMDLINE_MAX {
            return Err(ConfigError::CommandLineTooLong { have: line.len(), devices });
        }
        Ok(())
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

/// The rule of Firecracker's API for ids; its configuration files may have any.
///
/// # Errors
/// The id is empty, or has other characters than letters, digits and underscores.
pub fn check_id(id: &str) -> Result<(), ConfigError> {
    if !id.is_empty() && id.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return Ok(());
    }
    Err(ConfigError::BadId(id.to_owned()))
}

#[cfg(test)]
mod tests;
