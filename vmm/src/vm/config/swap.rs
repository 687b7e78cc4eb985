//! `swap`: a swap device for the guest, served inside this process.

use memsvc::swap::Codec;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ConfigError, Mib};

/// Largest swap device: 1 TiB.
const MAX_SIZE: Mib = Mib(1 << 20);
/// Most memory: 64 GiB, half of what a slab cache has numbers for.
pub(crate) const MAX_MEMORY: Mib = Mib(64 << 10);

/// The guest's swap device. It finds it with its own NBD client on a network card of its own, at
/// 169.254.83.1, port 10809; its own address there is to be 169.254.83.2/30.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapConfig {
    /// Size of the device.
    pub size_mib: Mib,
    /// Most memory of the host for what is stored there, packed, up to 64 GiB; the size if left out. What does
    /// not fit is refused (ENOSPC). Tables take 9 bytes for each 4 KiB of the size beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<Mib>,
    /// How pages are packed.
    #[serde(default)]
    pub compression: Codec,
}

impl SwapConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.size_mib == Mib(0) || self.size_mib > MAX_SIZE {
            return Err(ConfigError::SwapSize(self.size_mib));
        }
        match self.memory_mib {
            Some(memory) if memory == Mib(0) || memory > self.size_mib || memory > MAX_MEMORY => {
                Err(ConfigError::SwapMemory { memory, size: self.size_mib })
            }
            _ => Ok(()),
        }
    }

    /// The same for the memory service.
    pub fn device(&self) -> memsvc::swap::SwapConfig {
        let bytes = |size: Mib| size.bytes().unwrap_or(u64::MAX);
        memsvc::swap::SwapConfig {
            name: "swap".to_owned(),
            bytes: bytes(self.size_mib),
            memory: bytes(self.memory_mib.unwrap_or(self.size_mib.min(MAX_MEMORY))),
            codec: self.compression,
        }
    }
}
