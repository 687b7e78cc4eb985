//! `memory`: how the memory service is to run. A section of our own; Firecracker has none.

use memsvc::core::watermark::{Choice, WatermarkError, Watermarks};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CompactionConfig, ConfigError, Kib, Mib};

/// How the memory service is to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// Most memory of the host for the guest's memory and its swap, packed, together, in whole 2 MiB: what is left
    /// over of it is not used. No limit if left out: each has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_mib: Option<Mib>,
    /// How much stays free for those who free memory (`vm.min_free_kbytes`), a multiple of 4 KiB, at most a quarter of
    /// the guest's memory; 0: nothing. By Linux's formula if left out. The other watermarks follow from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_free_kib: Option<Kib>,
    /// How much stays free, mark by mark; by Linux's formula if left out. Not together with `min_free_kib`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermarks: Option<WatermarksConfig>,
    /// When memory is compacted, and by which policy.
    #[serde(default, skip_serializing_if = "CompactionConfig::is_default")]
    pub compaction: CompactionConfig,
    /// The operator's word that the host's kernel has the fixes that moving pages needs where the host swaps: start
    /// though the host may swap and the kernel's version does not say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_host_swap: bool,
}

/// How much of the host's memory the guest gets, how much of that stays free, and whether the host may swap it: those
/// fields of [`MemoryConfig`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryLimits {
    /// As in the `memory` section; as it was if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_mib: Option<Mib>,
    /// As in the `memory` section; as it was if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_free_kib: Option<Kib>,
    /// As in the `memory` section; as it was if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_host_swap: Option<bool>,
}

/// Free memory of the frame allocator at which something happens, as `min`, `low` and `high` in
/// `/proc/zoneinfo`: multiples of 4 KiB that rise, at most half of the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WatermarksConfig {
    /// Below this only those are served who free memory: the reserve.
    pub min_kib: Kib,
    /// Below this the background reclaimer is woken.
    pub low_kib: Kib,
    /// From here it may rest.
    pub high_kib: Kib,
}

impl MemoryConfig {
    /// Whether nothing was said, so that nothing is shown.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn validate(&self, memory: Mib) -> Result<(), ConfigError> {
        self.watermarks.as_ref().map_or(Ok(()), |watermarks| watermarks.validate(memory))?;
        if let Some(min) = self.min_free_kib {
            if self.watermarks.is_some() {
                return Err(ConfigError::MinFreeAndWatermarks);
            }
            if min.frames().is_none() || min.0 > memory.half().0 / 2 {
                return Err(ConfigError::MinFree { min, memory });
            }
        }
        if let (Some(limit), Ok(choice)) = (self.limit_mib, self.watermark_choice(memory)) {
            let least = Mib(memsvc::least_limit(memory.bytes().unwrap_or(u64::MAX), choice) >> 20);
            if limit < least {
                return Err(ConfigError::MemoryLimit { limit, memory, least });
            }
        }
        self.compaction.validate()
    }

    /// How the watermarks of a guest with so much memory are chosen.
    ///
    /// # Errors
    /// They were not validated for that much memory.
    pub fn watermark_choice(&self, memory: Mib) -> Result<Choice, WatermarkError> {
        Ok(match (self.watermarks, self.min_free_kib) {
            (Some(marks), _) => Choice::Exactly(marks.watermarks(memory)?),
            (None, Some(min)) => Choice::Min(min.frames().unwrap_or(u64::MAX)),
            (None, None) => Choice::Formula,
        })
    }
}

impl WatermarksConfig {
    fn validate(&self, memory: Mib) -> Result<(), ConfigError> {
        let &Self { min_kib, low_kib, high_kib } = self;
        let marks = [("min_kib", min_kib), ("low_kib", low_kib), ("high_kib", high_kib)];
        if let Some(&(name, value)) = marks.iter().find(|(_, value)| value.frames().is_none()) {
            return Err(ConfigError::WatermarkNotInFrames { name, value });
        }
        if !marks.is_sorted_by_key(|&(_, value)| value) {
            return Err(ConfigError::WatermarksDoNotRise { min: min_kib, low: low_kib, high: high_kib });
        }
        if high_kib > memory.half() {
            return Err(ConfigError::WatermarkTooHigh { high: high_kib, memory });
        }
        Ok(())
    }

    /// The same in frames, for the allocator of a guest with so much memory.
    ///
    /// # Errors
    /// They were not validated for that much memory.
    pub fn watermarks(&self, memory: Mib) -> Result<Watermarks, WatermarkError> {
        let frames = |mark: Kib| mark.frames().unwrap_or(u64::MAX);
        Watermarks::new(memory.pages(), frames(self.min_kib), frames(self.low_kib), frames(self.high_kib))
    }
}
