//! The size of the arena.
//!
//! ```text
//!   without a limit   guest RAM │ swap, packed │ stash, lists │ high      nobody is ever short
//!   with a limit      guest RAM │ swap, packed, as far as there is room │ high
//! ```
//! What is beyond guest RAM is address space: there is memory behind it only while it is used.
//!
//! A limit below guest RAM is refused. The pages that a guest uses are given back by the guest alone, so one
//! that waits for a page of its own may wait for ever.

use super::Config;
use crate::core::units::{BLOCK_SIZE, FRAMES_PER_BLOCK};
use crate::core::watermark::{Choice, Watermarks};
use crate::space::guest::{READY_MAX, STASH_MAX};
use crate::space::host::StartError;

/// A block for compaction to move things to, and for what the monitor has of its own.
const SPARE: u32 = 1;

/// Frames are numbered by `u32`.
const MOST_BLOCKS: u32 = u32::MAX / FRAMES_PER_BLOCK as u32;

/// Blocks of the arena, and its watermarks.
pub(super) fn arena(
    guest_blocks: u32,
    swap_blocks: u32,
    config: &Config,
) -> Result<(u32, Watermarks), StartError> {
    let (blocks, watermarks) = chosen(guest_blocks, swap_blocks, config)?;
    if blocks > MOST_BLOCKS {
        return Err(StartError::TooManyFrames { gib: mib(blocks) >> 10 });
    }
    Ok((blocks, watermarks))
}

fn chosen(guest_blocks: u32, swap_blocks: u32, config: &Config) -> Result<(u32, Watermarks), StartError> {
    let (enough, watermarks) = unlimited(guest_blocks, swap_blocks, config.watermarks);
    let Some(limit) = config.limit else { return Ok((enough, watermarks)) };
    let blocks = u32::try_from(limit / BLOCK_SIZE as u64).unwrap_or(u32::MAX);
    if blocks >= enough {
        return Ok((enough, watermarks));
    }
    let least = least(guest_blocks, config.watermarks);
    if blocks < least {
        return Err(StartError::LimitTooLow { limit_mib: limit >> 20, least_mib: mib(least) });
    }
    Ok((blocks, config.watermarks.for_arena(frames(blocks))))
}

/// The least limit, in bytes, for so much guest RAM and such watermarks: all of guest RAM, and above it free
/// memory that is not low, and a block.
pub fn least_limit(guest_bytes: u64, watermarks: Choice) -> u64 {
    let guest_blocks = u32::try_from(guest_bytes.div_ceil(BLOCK_SIZE as u64)).unwrap_or(u32::MAX);
    u64::from(least(guest_blocks, watermarks)) * BLOCK_SIZE as u64
}

/// From so many blocks a guest can have all its memory, with the stash full, all swap that it may have, and
/// free memory still is not low.
fn unlimited(guest_blocks: u32, swap_blocks: u32, watermarks: Choice) -> (u32, Watermarks) {
    let used = guest_blocks + swap_blocks + (STASH_MAX + READY_MAX) as u32;
    // The formula looks at the arena of which it decides the size: a fiftieth more is more than it adds.
    let watermarks = watermarks.for_arena(frames(used + used / 50));
    (used + blocks_of(watermarks.high), watermarks)
}

/// The stash and the per-CPU lists are not counted: they are given up when memory is short.
fn least(guest_blocks: u32, watermarks: Choice) -> u32 {
    let mut least = guest_blocks;
    // The more there is, the more stays free; a thousandth of it at the most, twice, in the end.
    loop {
        let high = watermarks.for_arena(frames(least)).high;
        match guest_blocks.saturating_add(blocks_of(high)).saturating_add(SPARE) {
            more if more > least => least = more,
            _ => return least,
        }
    }
}

fn frames(blocks: u32) -> u64 {
    u64::from(blocks) * FRAMES_PER_BLOCK as u64
}

fn blocks_of(frames: u64) -> u32 {
    u32::try_from(frames.div_ceil(FRAMES_PER_BLOCK as u64)).unwrap_or(u32::MAX)
}

fn mib(blocks: u32) -> u64 {
    u64::from(blocks) * (BLOCK_SIZE as u64 >> 20)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(limit: Option<u64>, watermarks: Choice) -> Config {
        Config { limit, watermarks, ..Config::new(Vec::new()) }
    }

    #[test]
    fn a_limit_is_the_arena_and_too_little_is_refused_with_what_it_takes() {
        // 512 MiB and the high watermark: 4.3 MiB.
        let least = least_limit(512 << 20, Choice::Formula);
        assert_eq!(least >> 20, 512 + 6 + 2);
        let size = |limit| arena(256, 100, &config(Some(limit), Choice::Formula));
        assert_eq!(size(least).unwrap().0, 260);
        assert_eq!(size(least + BLOCK_SIZE as u64 - 1).unwrap().0, 260);
        let error = size(least - 1).unwrap_err().to_string();
        assert!(error.starts_with("the memory limit of 519 MiB") && error.contains("520 MiB"), "{error}");
    }

    #[test]
    fn more_than_can_be_used_is_not_taken() {
        let without = arena(256, 100, &config(None, Choice::Formula)).unwrap();
        assert_eq!(arena(256, 100, &config(Some(1 << 40), Choice::Formula)).unwrap(), without);
        assert_eq!(arena(256, 100, &config(Some(u64::MAX), Choice::Formula)).unwrap(), without);
    }

    #[test]
    fn more_frames_than_there_are_numbers_are_refused() {
        let largest = (crate::MAX_RAM / BLOCK_SIZE as u64) as u32;
        let (swap, config) = (64 << 9, Config::new(Vec::new()));
        assert!(arena(largest, swap, &config).unwrap().0 <= MOST_BLOCKS);
        // 16 TiB less 1 GiB, of which arenas are larger.
        let error = arena(MOST_BLOCKS - 511, 0, &config).unwrap_err().to_string();
        assert!(error.contains("are 16") && error.contains("16 TiB is too much: ask for less"), "{error}");
        let half = config_with_high(largest);
        assert!(matches!(arena(largest, swap, &half), Err(StartError::TooManyFrames { .. })));
    }

    /// So much stays free as the operator may ask for at most: half of the guest's memory.
    fn config_with_high(guest_blocks: u32) -> Config {
        let high = frames(guest_blocks / 2);
        config(None, Choice::Exactly(Watermarks::new(frames(guest_blocks), 0, 0, high).unwrap()))
    }

    proptest! {
        /// With the least there is, all of guest RAM can be had in whole blocks, and memory is not low then.
        #[test]
        fn guest_ram_always_fits(guest in 1..1u32 << 22, min in prop::option::of(0..1u64 << 20)) {
            let choice = min.map_or(Choice::Formula, Choice::Min);
            let least = least(guest, choice);
            let (blocks, Watermarks { min, low, high }) =
                arena(guest, 1 << 10, &config(Some(u64::from(least) * BLOCK_SIZE as u64), choice)).unwrap();
            prop_assert_eq!(Watermarks::new(frames(blocks), min, low, high), Ok(Watermarks { min, low, high }));
            let free = frames(blocks) - frames(guest);
            prop_assert!(free >= high + FRAMES_PER_BLOCK as u64);
        }
    }
}
