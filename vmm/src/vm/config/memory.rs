//! `memory`: how the memory service is to run. A section of our own; Firecracker has none.

use memsvc::core::watermark::{WatermarkError, Watermarks};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CompactionConfig, ConfigError, Kib, Mib};

/// How the memory service is to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// How much stays free; by Linux's formula if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermarks: Option<WatermarksConfig>,
    /// When memory is compacted, and by which policy.
    #[serde(default, skip_serializing_if = "CompactionConfig::is_default")]
    pub compaction: CompactionConfig,
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
        self.compaction.validate()
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
