//! Charges: frames counted against an owner, by page type, with a limit.
//!
//! Kept under the allocator's lock and changed a batch at a time, when a per-CPU list is refilled or
//! drained, so that the fast paths touch no line that others write. Frames in per-CPU lists are
//! charged already; who reads subtracts them.

use super::page_type::PageType;
use super::units::{FRAMES_PER_BLOCK, OwnerId};

/// What one owner has.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    frames: [u64; PageType::COUNT],
    total: u64,
    pub(crate) limit: Option<u64>,
    pub(crate) refused: u64,
    /// Anything was ever charged: who was in the tables once stays, since a counter must not vanish.
    pub(crate) is_known: bool,
}

/// What each owner has.
#[derive(Debug)]
pub(crate) struct Charges(Vec<Owner>);

impl Charges {
    pub(crate) fn new() -> Self {
        let owner =
            Owner { frames: [0; PageType::COUNT], total: 0, limit: None, refused: 0, is_known: false };
        Self(vec![owner; OwnerId::COUNT])
    }

    pub(crate) fn owner(&self, owner: OwnerId) -> &Owner {
        &self.0[owner.0 as usize % OwnerId::COUNT]
    }

    pub(crate) fn owner_mut(&mut self, owner: OwnerId) -> &mut Owner {
        &mut self.0[owner.0 as usize % OwnerId::COUNT]
    }

    /// Frames that the owner may still be charged.
    pub(crate) fn room(&self, owner: OwnerId) -> u64 {
        let owner = self.owner(owner);
        owner.limit.map_or(u64::MAX, |limit| limit.saturating_sub(owner.total))
    }

    /// True when the owner is charged more than its limit.
    pub(crate) fn is_over(&self, owner: OwnerId) -> bool {
        let owner = self.owner(owner);
        owner.limit.is_some_and(|limit| owner.total > limit)
    }

    pub(crate) fn charge(&mut self, owner: OwnerId, page_type: PageType, frames: u64) {
        let owner = self.owner_mut(owner);
        owner.frames[page_type as usize] += frames;
        owner.total += frames;
        owner.is_known = true;
    }

    pub(crate) fn uncharge(&mut self, owner: OwnerId, page_type: PageType, frames: u64) {
        let owner = self.owner_mut(owner);
        owner.frames[page_type as usize] -= frames;
        owner.total -= frames;
    }

    /// Uncharges a block that is handed out whole, of which `holes` frames are `Balloon`.
    pub(crate) fn uncharge_block(&mut self, owner: OwnerId, page_type: PageType, holes: u64) {
        self.uncharge(owner, PageType::Balloon, holes);
        self.uncharge(owner, page_type, FRAMES_PER_BLOCK as u64 - holes);
    }

    /// The same frames are charged for another use.
    pub(crate) fn recharge(&mut self, owner: OwnerId, from: PageType, to: PageType, frames: u64) {
        let owner = self.owner_mut(owner);
        owner.frames[from as usize] -= frames;
        owner.frames[to as usize] += frames;
    }
}

impl Owner {
    /// Frames of this type, those in per-CPU lists with them.
    pub(crate) fn frames(&self, page_type: PageType) -> u64 {
        self.frames[page_type as usize]
    }

    /// Frames in all, those in per-CPU lists with them.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}
