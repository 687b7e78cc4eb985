//! The unit in which operators speak of memory.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Memory in MiB (2^20 bytes), the unit of every `*_mib` field of the API.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
pub struct Mib(pub u64);

impl Mib {
    /// The same in bytes, or `None` if that is more than 64 bits can count.
    pub const fn bytes(self) -> Option<u64> {
        self.0.checked_mul(1 << 20)
    }

    /// The same in 4 KiB pages; saturates, since no machine comes near.
    pub const fn pages(self) -> u64 {
        self.0.saturating_mul(256)
    }
}

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}
