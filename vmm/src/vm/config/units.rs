//! The units in which operators speak of memory.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Memory in MiB (2^20 bytes), the unit of every `*_mib` field of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
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

    /// Half of it; saturates.
    pub const fn half(self) -> Kib {
        Kib(self.0.saturating_mul(512))
    }
}

impl From<u64> for Mib {
    fn from(count: u64) -> Self {
        Self(count)
    }
}

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

/// Memory in KiB (2^10 bytes), the unit of every `*_kib` field of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Kib(pub u64);

impl Kib {
    /// The same in frames of 4 KiB, or `None` if it is not a whole number of them.
    pub const fn frames(self) -> Option<u64> {
        if self.0.is_multiple_of(4) { Some(self.0 / 4) } else { None }
    }
}

impl fmt::Display for Kib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.0)
    }
}
