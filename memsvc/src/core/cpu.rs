//! Per-CPU lists. (Being written.)
use super::migrate_type::MigrateType;
use super::tag::Tag;
use super::units::Order;
pub(crate) const fn key(tag: Tag, migrate_type: MigrateType) -> u32 { tag.bits() as u32 | (migrate_type as u32) << 16 }
pub(crate) const fn front_of(tag: Tag) -> usize { tag.bits() as usize & 7 }
