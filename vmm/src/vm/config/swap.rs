//! `swap`: a swap device for the guest, served inside this process.

use std::time::Duration;

use memsvc::swap::{Codec, TierConfig};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ConfigError, Mib};

/// Largest swap device: 1 TiB.
const MAX_SIZE: Mib = Mib(1 << 20);
/// Most memory: 64 GiB, half of what a slab cache has numbers for.
pub(crate) const MAX_MEMORY: Mib = Mib(64 << 10);

/// The guest's swap device. It finds it with its own NBD client on a network card of its own, at
/// 169.254.83.1, port 10809; its own address there is to be 169.254.83.2/30. Or it is a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapConfig {
    /// Size of the device.
    pub size_mib: Mib,
    /// Most memory of the host for what is stored there, packed, up to 64 GiB; the size if left out. What does
    /// not fit goes to the tiers; if they have no room either, it is refused (ENOSPC). Tables take 9 bytes for each 4 KiB of the size beside that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<Mib>,
    /// How pages are packed.
    #[serde(default)]
    pub compression: Codec,
    /// What the guest sees.
    #[serde(default)]
    pub front: SwapFront,
    /// Where pages go that do not fit into memory, the first that has room, encrypted: a directory on a disk, for
    /// a file without a name (`/PATH`), or an NBD server (`nbd://HOST[:PORT]/EXPORT`,
    /// `nbd+unix:///EXPORT?socket=PATH`). With tiers `memory_mib` is 16 at least.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<String>,
    /// For so many seconds an NBD server may be away: then what waits for it fails. 30 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier_timeout: Option<u32>,
}

/// What the guest sees of its swap device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SwapFront {
    /// A network card, and an NBD server at its other end.
    #[default]
    Net,
    /// A virtio-blk disk behind all others, of which the serial number is `aerostat-swap`: for kernels without NBD.
    Blk,
}

/// Seconds that a server may be away, if nothing else is said.
const TIER_TIMEOUT: u32 = 30;
/// Least memory with tiers: what connections are promised stays there.
const MIN_MEMORY: Mib = Mib(16);
/// Most tiers.
const MAX_TIERS: usize = 4;

impl SwapConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.size_mib == Mib(0) || self.size_mib > MAX_SIZE {
            return Err(ConfigError::SwapSize(self.size_mib));
        }
        if self.tiers.len() > MAX_TIERS {
            return Err(ConfigError::SwapTier(format!("{MAX_TIERS} tiers are the most there can be.")));
        }
        if self.tier_timeout == Some(0) {
            return Err(ConfigError::SwapTier("tier_timeout is 1 second at least.".to_owned()));
        }
        if self.tier_timeout.is_some() && self.tiers.is_empty() {
            return Err(ConfigError::SwapTier(
                "tier_timeout is a server's, and there is no tier: name one, or leave it out.".to_owned(),
            ));
        }
        let memory = self.memory_mib.unwrap_or(self.size_mib);
        if !self.tiers.is_empty() && memory < MIN_MEMORY {
            return Err(ConfigError::SwapTier(format!(
                "A swap device with tiers needs {} MiB of memory at least, and is no smaller: give it more.",
                MIN_MEMORY.0
            )));
        }
        let tiers = self.tiers()?;
        let is_server = |tier: &TierConfig| matches!(tier, TierConfig::Nbd { .. });
        let is_twice =
            |tier: &&TierConfig| is_server(tier) && tiers.iter().filter(|other| other == tier).count() > 1;
        if let Some(tier) = tiers.iter().find(is_twice) {
            return Err(ConfigError::SwapTier(format!(
                "{tier} is named twice: an export can be one tier of one guest."
            )));
        }
        match self.memory_mib {
            Some(memory) if memory == Mib(0) || memory > self.size_mib || memory > MAX_MEMORY => {
                Err(ConfigError::SwapMemory { memory, size: self.size_mib })
            }
            _ => Ok(()),
        }
    }

    /// Checks that directories that are tiers can have their files.
    pub fn check_directories(&self) -> Result<(), ConfigError> {
        let bytes = self.size_mib.bytes().unwrap_or(u64::MAX);
        Ok(self.tiers()?.iter().try_for_each(|tier| tier.check_directory(bytes))?)
    }

    fn tiers(&self) -> Result<Vec<TierConfig>, ConfigError> {
        let timeout = Duration::from_secs(self.tier_timeout.unwrap_or(TIER_TIMEOUT).into());
        let parse = |tier: &String| TierConfig::parse(tier, timeout);
        let tiers = self.tiers.iter().map(parse).collect::<Result<_, _>>();
        tiers.map_err(|error| ConfigError::SwapTier(format!("{error}.")))
    }

    /// The same for the memory service.
    pub fn device(&self) -> memsvc::swap::SwapConfig {
        let bytes = |size: Mib| size.bytes().unwrap_or(u64::MAX);
        memsvc::swap::SwapConfig {
            name: "swap".to_owned(),
            bytes: bytes(self.size_mib),
            memory: bytes(self.memory_mib.unwrap_or(self.size_mib.min(MAX_MEMORY))),
            codec: self.compression,
            // Checked before.
            tiers: self.tiers().unwrap_or_default(),
        }
    }
}
