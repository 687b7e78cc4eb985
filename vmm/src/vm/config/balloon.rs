//! `balloon`: the virtio memory balloon.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ConfigError, Mib};

/// The balloon as the guest is to have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BalloonConfig {
    /// What the guest is asked to give up.
    pub amount_mib: Mib,
    /// Whether the guest may take pages back when it would otherwise kill a process.
    pub deflate_on_oom: bool,
    /// Seconds between two readings of the guest's statistics; 0: none.
    #[serde(default)]
    pub stats_polling_interval_s: u16,
    /// Whether the guest can be asked for a list of its free pages (hinting).
    #[serde(default)]
    pub free_page_hinting: bool,
    /// Whether the guest reports free pages by itself, all the time.
    #[serde(default)]
    pub free_page_reporting: bool,
}

impl BalloonConfig {
    pub(super) fn validate(&self, memory: Mib) -> Result<(), ConfigError> {
        if self.amount_mib > memory {
            return Err(ConfigError::BalloonTooLarge { amount: self.amount_mib, memory });
        }
        Ok(())
    }
}
