//! A snapshot of states, tags and counters.

use super::stash::STASH_MAX;
use super::{BlockState, GUEST, GuestSpace};
use crate::core::units::FRAMES_PER_BLOCK;
use crate::stats::{ArenaStats, GuestStats, HostStats, MemoryStats, MoverStats, StashStats};

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
        let by_type = self.alloc.frames_by_type();
        MemoryStats {
            guest: GuestStats {
                bytes: self.regions.bytes(),
                blocks: state.blocks.len() as u64,
                absent_blocks: state.absent as u64,
                huge_blocks: count(|block| matches!(block, BlockState::Huge(_))),
                split_blocks: count(|block| matches!(block, BlockState::Split(_))),
                holes: by_type.balloon,
                ballooned_frames: state.ledger.frames(),
            },
            arena: ArenaStats {
                blocks: self.alloc.frames() / FRAMES_PER_BLOCK as u64,
                free_blocks: self.alloc.free_blocks(),
                broken_blocks: self.alloc.broken_blocks(),
                frames: self.alloc.frames(),
                frames_by_type: by_type,
                charged_frames: self.alloc.charged(GUEST),
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
            mover: MoverStats { counts: self.mover.snapshot(), stalls: self.stalls.snapshot() },
            refusals: self.refusals.snapshot(),
        }
    }
}
