//! Migrate types: blocks are grouped by what can be done with the frames in them, so that what cannot
//! move spoils few blocks (`enum migratetype`, include/linux/mmzone.h).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What can be done with a frame to empty its block.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrateType {
    /// Nothing: it stays where it is until it is freed.
    Unmovable = 0,
    /// It can be moved: guest memory, movable slabs.
    Movable = 1,
    /// It can be given up on demand: caches.
    Reclaimable = 2,
}

impl MigrateType {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// All of them, in the order of their values.
    pub const ALL: [MigrateType; Self::COUNT] =
        [MigrateType::Unmovable, MigrateType::Movable, MigrateType::Reclaimable];

    /// Whose blocks are taken from when there is neither one of the own type nor a whole free one
    /// (`fallbacks`, mm/page_alloc.c).
    pub const fn fallbacks(self) -> [MigrateType; 2] {
        use MigrateType::{Movable, Reclaimable, Unmovable};
        match self {
            Unmovable => [Reclaimable, Movable],
            Movable => [Reclaimable, Unmovable],
            Reclaimable => [Unmovable, Movable],
        }
    }

    /// Its name in tables and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            MigrateType::Unmovable => "unmovable",
            MigrateType::Movable => "movable",
            MigrateType::Reclaimable => "reclaimable",
        }
    }
}
