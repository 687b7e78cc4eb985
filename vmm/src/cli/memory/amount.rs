//! Counts as amounts of memory, and durations as seconds.

use super::super::table::grouped;

/// Frames of 4 KiB in a MiB.
const FRAMES_PER_MIB: f64 = 256.0;
/// MiB of a block.
const MIB_PER_BLOCK: f64 = 2.0;

/// Bytes.
pub(in crate::cli) fn bytes(count: u64) -> String {
    mib(count as f64 / f64::from(1 << 20))
}

/// Frames.
pub(super) fn frames(count: u64) -> String {
    mib(count as f64 / FRAMES_PER_MIB)
}

/// Blocks.
pub(super) fn blocks(count: u64) -> String {
    mib(count as f64 * MIB_PER_BLOCK)
}

/// A time of so many microseconds.
pub(in crate::cli) fn seconds(us: u64) -> String {
    format!("{:.2} s", us as f64 / 1e6)
}

/// MiB, with a decimal only where it says something; KiB where that would say nothing.
fn mib(mib: f64) -> String {
    if mib > 0.0 && mib < 0.1 {
        return format!("{:.0} KiB", mib * 1024.0);
    }
    if mib > 0.0 && mib < 10.0 && mib.fract() != 0.0 {
        return format!("{mib:.1} MiB");
    }
    format!("{} MiB", grouped(mib.round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_never_nothing() {
        let amounts = [0, 1, 25, 26, 255, 256, 2559, 2560, 1 << 20].map(frames);
        let texts =
            ["0 MiB", "4 KiB", "100 KiB", "0.1 MiB", "1.0 MiB", "1 MiB", "10.0 MiB", "10 MiB", "4,096 MiB"];
        assert_eq!(amounts, texts);
    }
}
