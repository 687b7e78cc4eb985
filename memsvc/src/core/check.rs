//! The invariants, for tests: every frame, block and list against every other.

use super::alloc::{FrameAllocator, Mode};
use super::block::Use;
use super::page_type::PageType;
use super::sync::lock;
use super::units::{BlockId, FRAMES_PER_BLOCK, OwnerId};

impl<M: Mode> FrameAllocator<M> {
    /// Looks at everything, while nobody gets or puts; slow.
    ///
    /// # Errors
    /// Says in a sentence what does not agree.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(), String> {
        let blocks = (self.frames() / FRAMES_PER_BLOCK as u64) as u32;
        let (mut free, mut reserve) = (0, 0);
        let mut counts = vec![[0u64; PageType::COUNT]; OwnerId::COUNT];
        {
            let buddy = lock(&self.buddy);
            for block in (0..blocks).map(BlockId) {
                let entry = buddy.block(block);
                let whole = self.table.block_tag(block);
                let listed = (0..FRAMES_PER_BLOCK).filter(|&index| entry.is_free(index)).count() as u64;
                free += if entry.usage == Use::Isolated { 0 } else { listed };
                if listed != u64::from(entry.free_frames()) || !buddy.is_listed_right(block) {
                    return Err(format!("{block:?}: {entry:?} is not where it belongs"));
                }
                let (mut movable, mut holes) = (0, 0);
                for index in 0..FRAMES_PER_BLOCK {
                    let frame = block.frame(index);
                    let tag = self.table.effective(frame);
                    if entry.is_free(index) && !tag.is_free() {
                        return Err(format!("{frame:?} is free and tagged {tag:?}"));
                    }
                    if !whole.is_free() && entry.usage != Use::Whole {
                        return Err(format!(
                            "{block:?} is tagged {whole:?} and not handed out whole: {entry:?}"
                        ));
                    }
                    let page_type = self.page_type(frame);
                    if !page_type.is_charged() {
                        continue;
                    }
                    movable += u16::from(page_type.is_movable());
                    holes += u16::from(page_type == PageType::Balloon);
                    reserve += u64::from(tag.is_reserve());
                    counts[tag.owner().0 as usize][page_type as usize] += 1;
                }
                if movable > entry.movable || holes > entry.holes {
                    return Err(format!(
                        "{block:?} has {movable} movable frames and {holes} holes: {entry:?}"
                    ));
                }
            }
            if free != buddy.free() || reserve != buddy.reserve_in_use {
                return Err(format!(
                    "{free} frames are free, not {}; {reserve} of the reserve in use, not {}",
                    buddy.free(),
                    buddy.reserve_in_use
                ));
            }
        }
        for (owner, counted) in counts.iter().enumerate() {
            let charged = self.charged(OwnerId(owner as u8));
            if charged != counted.iter().sum::<u64>() {
                return Err(format!("owner {owner} is charged {charged} frames and has {counted:?}"));
            }
        }
        let all = PageType::ALL.map(|page_type| self.count(page_type));
        if all.iter().sum::<u64>() != self.frames() {
            return Err(format!("frames by type do not add up to {}: {all:?}", self.frames()));
        }
        for page_type in PageType::ALL.into_iter().filter(|page_type| page_type.is_charged()) {
            let counted: u64 = counts.iter().map(|owner| owner[page_type as usize]).sum();
            if counted != all[page_type as usize] {
                return Err(format!("{counted} frames are {page_type:?}, not {}", all[page_type as usize]));
            }
        }
        Ok(())
    }
}
