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
/// Guest memory comes in whole blocks of so many MiB.
const BLOCK: u64 = 2;

/// CPUs and memory of the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// Number of vCPUs, 1 to 32; with `smt` 1 or even.
    #[schema(minimum = 1, maximum = 32)]
    pub vcpu_count: u32,
    /// Guest memory in MiB. Less than 64, or an odd number, is rounded up.
    #[schema(minimum = 1)]
    pub mem_size_mib: Mib,
    /// Simultaneous multithreading: kept, and without effect.
    #[serde(default)]
    pub smt: bool,
    /// Dirty page tracking: kept, and without effect.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Which huge pages are asked for: kept, and without effect. Guest memory is in huge pages always.
    #[serde(default)]
    pub huge_pages: HugePages,
    /// CPU template: only `None`, which is not shown.
    #[serde(default, skip_serializing_if = "is_no_template")]
    pub cpu_template: Option<String>,
}

/// Which huge pages back the guest, in Firecracker's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum HugePages {
    /// As the monitor likes.
    #[default]
    None,
    /// Transparent huge pages.
    Transparent,
    /// 2 MiB pages of hugetlbfs: the guest gets blocks of 2 MiB that are as whole.
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
    /// Rounds memory up to what a guest can have, and says so in the log.
    pub(super) fn round_up(&mut self) {
        let asked = self.mem_size_mib;
        // What cannot be at all is refused, not rounded.
        if asked == Mib(0) || asked > MAX_MEMORY {
            return;
        }
        self.mem_size_mib = Mib(asked.max(MIN_MEMORY).0.next_multiple_of(BLOCK));
        if self.mem_size_mib != asked {
            tracing::warn!("The guest gets {} of memory instead of {asked}", self.mem_size_mib);
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpu_count) {
            return Err(ConfigError::VcpuCount(self.vcpu_count));
        }
        if self.smt && self.vcpu_count > 1 && !self.vcpu_count.is_multiple_of(2) {
            return Err(ConfigError::OddVcpus(self.vcpu_count));
        }
        match self.mem_size_mib {
            Mib(0) => Err(ConfigError::NoMemory),
            size if size > MAX_MEMORY => Err(ConfigError::MemoryTooLarge(size)),
            _ if is_no_template(&self.cpu_template) => Ok(()),
            _ => Err(ConfigError::CpuTemplate(self.cpu_template.clone().unwrap_or_default())),
        }
    }
}

fn is_no_template(template: &Option<String>) -> bool {
    template.as_deref().is_none_or(|template| template == "None")
}
