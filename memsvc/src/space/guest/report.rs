//! A snapshot of states, tags and counters; and, for tests and benchmarks, what the kernel says.

use std::io;
use std::thread;
use std::time::Duration;

use super::stash::STASH_MAX;
use super::{GUEST, GuestSpace};
use crate::core::units::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK};
use crate::space::pagemap::Resident;
use crate::stats::{ArenaStats, GuestStats, HostStats, MemoryStats, MoverStats, StashStats};

/// Address space of which page tables are looked at in one system call, which holds `mmap_lock`.
const PIECE: usize = 1 << 30;
/// Faults and moves go on between two of them.
const PAUSE: Duration = Duration::from_millis(1);

impl GuestSpace {
    pub(crate) fn ballooned_frames(&self) -> u64 {
        self.lock().ledger.frames()
    }

    /// Of these, those that the host has back. It does not have holes in whole huge pages, nor frames at home in blocks that are
    /// in pieces; whoever gave those up, they count against the balloon.
    pub(crate) fn host_freed_frames(&self) -> u64 {
        let state = self.lock();
        let kept = self.alloc.frames_by_type().balloon + state.poisoned.frames();
        state.ledger.frames().saturating_sub(kept)
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        let state = self.lock();
        let by_type = self.alloc.frames_by_type();
        let huge_bytes = (state.census.huge * BLOCK_SIZE) as u64;
        let own = by_type.stash + by_type.kmem + by_type.slab + by_type.movable_slab;
        MemoryStats {
            guest: GuestStats {
                bytes: self.regions.bytes(),
                blocks: state.blocks.len() as u64,
                absent_blocks: state.census.absent as u64,
                huge_blocks: state.census.huge as u64,
                split_blocks: state.census.split as u64,
                holes: by_type.balloon,
                ballooned_frames: state.ledger.frames(),
            },
            host: HostStats {
                guest_resident_bytes: (by_type.guest + by_type.balloon) * FRAME_SIZE as u64,
                guest_huge_bytes: huge_bytes,
                arena_resident_bytes: (own + state.poisoned.frames()) * FRAME_SIZE as u64,
                arena_huge_bytes: (state.stash.len() * BLOCK_SIZE) as u64,
            },
            arena: ArenaStats {
                blocks: self.alloc.frames() / FRAMES_PER_BLOCK as u64,
                free_blocks: self.alloc.free_blocks(),
                broken_blocks: self.alloc.broken_blocks(),
                frames: self.alloc.frames(),
                frames_by_type: by_type,
                charged_frames: self.alloc.charged(GUEST),
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

    /// Resident memory by the kernel's page tables, which are looked at in pieces, once no page is on the move. Not for
    /// who asks again and again: it takes microseconds for each huge page, and holds up others that change mappings.
    pub(crate) fn walk(&self) -> io::Result<HostStats> {
        self.wait_for_movers();
        let guest = self.walk_range(self.mapping.base(), self.mapping.len())?;
        let arena = self.walk_range(self.arena.base(), self.arena.len())?;
        Ok(HostStats {
            guest_resident_bytes: guest.bytes,
            guest_huge_bytes: guest.huge,
            arena_resident_bytes: arena.bytes,
            arena_huge_bytes: arena.huge,
        })
    }

    fn walk_range(&self, base: usize, len: usize) -> io::Result<Resident> {
        let mut all = Resident::default();
        for offset in (0..len).step_by(PIECE) {
            if offset > 0 {
                thread::sleep(PAUSE);
            }
            let piece = self.pagemap.resident(base + offset, PIECE.min(len - offset))?;
            all.bytes += piece.bytes;
            all.huge += piece.huge;
        }
        Ok(all)
    }
}
