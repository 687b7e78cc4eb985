//! `machine-config`: CPUs and memory.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ConfigError, Mib};

/// Most vCPUs of a guest, as in Firecracker.
pub const MAX_VCPUS: u32 = 32;
/// Less memory than this boots no stock kernel.
pub const MIN_MEMORY: Mib = Mib(64);
/// The memory service has no numbers for more frames.
pub const MAX_MEMORY: Mib = Mib(memsvc::MAX_RAM >> 20);

/// CPUs and memory of the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Number of vCPUs, 1 to 32.
    #[schema(minimum = 1, maximum = 32)]
    pub vcpu_count: u32,
    /// Guest memory in MiB: at least 64, even.
    #[schema(minimum = 64)]
    pub mem_size_mib: Mib,
    /// Simultaneous multithreading: only `false`.
    #[serde(default)]
    pub smt: bool,
    /// Dirty page tracking: only `false`.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Pages of hugetlbfs: only `None`; guest memory is in transparent huge pages without it.
    #[serde(default)]
    pub huge_pages: HugePages,
    /// CPU template: only `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_template: Option<String>,
}

/// Which pages of hugetlbfs back the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum HugePages {
    /// None: memory is anonymous, in transparent huge pages.
    #[default]
    None,
    /// 2 MiB pages of hugetlbfs: known, but not offered.
    #[serde(rename = "2M")]
    Hugetlbfs2M,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: Mib(128),
            smt: false,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
            cpu_template: None,
        }
    }
}

impl MachineConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpu_count) {
            return Err(ConfigError::VcpuCount(self.vcpu_count));
        }
        match self.mem_size_mib {
            size if size < MIN_MEMORY => return Err(ConfigError::MemoryTooSmall(size)),
            size if size > MAX_MEMORY => return Err(ConfigError::MemoryTooLarge(size)),
            size if size.0 % 2 != 0 => return Err(ConfigError::MemoryOdd(size)),
            _ => {}
        }
        let refuse = |field, value: &str| Err(ConfigError::NotOffered { field, value: value.to_owned() });
        if self.smt {
            return refuse("smt", "true");
        }
        if self.track_dirty_pages {
            return refuse("track_dirty_pages", "true");
        }
        if self.huge_pages != HugePages::None {
            return refuse("huge_pages", "2M");
        }
        match self.cpu_template.as_deref() {
            None | Some("None") => Ok(()),
            Some(template) => refuse("cpu_template", template),
        }
    }
}
