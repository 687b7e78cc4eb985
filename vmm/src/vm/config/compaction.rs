//! `memory.compaction`: when memory is compacted, and by which policy.

use memsvc::core::compact::{PolicyKind, Tuning};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ConfigError;

/// How memory is compacted. Also the body of `PUT /memory/compaction`, where what is left out stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompactionConfig {
    /// Which blocks are emptied and which filled: `occupancy` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyKind>,
    /// A request for a whole block that fails is helped by compaction only where `extfrag_index` is above
    /// this, 0 to 1000: 500 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extfrag_threshold: Option<u16>,
    /// How eagerly memory is compacted that nobody has asked for, 0 (never) to 100: 20 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proactiveness: Option<u8>,
}

impl CompactionConfig {
    /// Whether nothing was said, so that nothing is shown.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What the other says, and this where that says nothing.
    #[must_use]
    pub fn changed_by(self, other: Self) -> Self {
        Self {
            policy: other.policy.or(self.policy),
            extfrag_threshold: other.extfrag_threshold.or(self.extfrag_threshold),
            proactiveness: other.proactiveness.or(self.proactiveness),
        }
    }

    /// The same for the memory service, with its defaults for what is left out.
    pub fn tuning(&self) -> Tuning {
        let default = Tuning::default();
        Tuning {
            policy: self.policy.unwrap_or(default.policy),
            extfrag_threshold: self.extfrag_threshold.unwrap_or(default.extfrag_threshold),
            proactiveness: self.proactiveness.unwrap_or(default.proactiveness),
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        self.tuning().checked()?;
        Ok(())
    }
}
