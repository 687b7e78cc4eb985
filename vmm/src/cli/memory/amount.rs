//! How much memory a count is.

use super::super::table::grouped;

/// Frames of 4 KiB in a MiB.
const FRAMES_PER_MIB: f64 = 256.0;
/// MiB of a block.
const MIB_PER_BLOCK: f64 = 2.0;

/// Bytes.
pub(super) fn bytes(count: u64) -> String {
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

/// MiB, with a decimal only where it says something.
fn mib(mib: f64) -> String {
    if mib > 0.0 && mib < 10.0 && mib.fract() != 0.0 {
        return format!("{mib:.1} MiB");
    }
    format!("{} MiB", grouped(mib.round() as u64))
}
