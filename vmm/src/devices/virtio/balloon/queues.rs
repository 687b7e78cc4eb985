//! Numbers of queues: those whose feature is *acknowledged*, in this order, without gaps (section 5.5.2, and
//! `vm_find_vqs` in Linux). A driver that leaves statistics aside has its reporting queue where another has
//! statistics.

use super::feature;

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Inflate,
    Deflate,
    Stats,
    Hinting,
    Reporting,
}

/// The most queues that there are.
pub(super) const QUEUES: usize = ORDER.len();

/// All queues in order, with the feature that each needs.
const ORDER: [(Role, Option<u32>); 5] = [
    (Role::Inflate, None),
    (Role::Deflate, None),
    (Role::Stats, Some(feature::STATS_VQ)),
    (Role::Hinting, Some(feature::FREE_PAGE_HINT)),
    (Role::Reporting, Some(feature::REPORTING)),
];

/// The queues that there are with `features` acknowledged.
pub(super) fn roles(features: u64) -> impl Iterator<Item = Role> {
    ORDER
        .into_iter()
        .filter(move |(_, needs)| needs.is_none_or(|bit| features & (1 << bit) != 0))
        .map(|(role, _)| role)
}
