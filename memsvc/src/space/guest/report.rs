//! A snapshot of states, tags and counters.

use super::stash::STASH_MAX;
use super::{BlockState, GuestSpace};
use crate::core::page_type::PageType;
use crate::core::units::FRAMES_PER_BLOCK;
use crate::stats::{ArenaStats, FramesByType, GuestStats, HostStats, MemoryStats, StashStats};

impl GuestSpace {
    pub(crate) fn ballooned_frames(&self) -> u64 {
        self.lock().ledger.frames()
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        let guest_resident =
            self.pagemap.resident(self.mapping.base(), self.mapping.len()).unwrap_or_default();
        let arena_resident = self.arena.resident(&self.pagemap).unwrap_or_default();
        let state = self.lock();
        let count = |wanted: fn(&BlockState) -> bool| {
            state.blocks.iter().filter(|block| wanted(block)).count() as u64
        };
        let table = state.alloc.table();
        MemoryStats {
            guest: GuestStats {
                bytes: self.regions.bytes(),
                blocks: state.blocks.len() as u64,
                absent_blocks: state.absent as u64,
                huge_blocks: count(|block| matches!(block, BlockState::Huge(_))),
                split_blocks: count(|block| matches!(block, BlockState::Split(_))),
                holes: table.count(PageType::Balloon),
                ballooned_frames: state.ledger.frames(),
            },
            arena: ArenaStats {
                blocks: table.frames() / FRAMES_PER_BLOCK as u64,
                free_blocks: state.alloc.free_blocks() as u64,
                broken_blocks: state.alloc.broken_blocks() as u64,
                frames: table.frames(),
                frames_by_type: FramesByType {
                    buddy: table.count(PageType::Buddy),
                    stash: table.count(PageType::Stash),
                    guest: table.count(PageType::Guest),
                    balloon: table.count(PageType::Balloon),
                    r#return: table.count(PageType::Return),
                    kmem: table.count(PageType::Kmem),
                    slab: table.count(PageType::Slab),
                },
                charged_frames: table.charged(),
            },
            host: HostStats {
                guest_resident_bytes: guest_resident.bytes,
                guest_huge_bytes: guest_resident.huge,
                arena_resident_bytes: arena_resident.bytes,
                arena_huge_bytes: arena_resident.huge,
            },
            stash: StashStats {
                blocks: state.stash.len() as u64,
                max_blocks: STASH_MAX as u64,
                hits: self.stash_hits.get(),
                misses: self.stash_misses.get(),
            },
            faults: self.faults.snapshot(),
            moves: self.moves.snapshot(),
            refusals: self.refusals.snapshot(),
        }
    }
}
