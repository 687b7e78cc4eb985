//! Watermarks: how much stays free, and for whom.
use super::units::FRAMES_PER_BLOCK;
/// Free frames at which something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Below this only `MEMALLOC` requests are served.
    pub min: u64,
    /// Below this the background reclaimer is woken.
    pub low: u64,
    /// From here it may rest.
    pub high: u64,
}
