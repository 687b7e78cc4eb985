//! The work of one turn, in frames, and how far the chain is served that is next in a queue.
//!
//! A guest may name all of its memory in each of 256 ranges of a chain. So a turn ends in the middle of a range, and the
//! next one goes on there; the chain is given back when all of it is served. A range is cut where blocks begin, for a
//! block that is given up whole goes back to the host whole.

use std::ops::Range;

use memsvc::core::units::FRAMES_PER_BLOCK;
use virtio_queue::desc::split::Descriptor;

use crate::devices::virtio::{Chain, Completion};

/// Frames of one turn: then others on the event loop are served.
pub(super) const TURN: u64 = 8 * BLOCK;

const BLOCK: u64 = FRAMES_PER_BLOCK as u64;

/// The part of a chain that earlier turns served.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Buffers that are served.
    buffers: usize,
    /// Frames of the one after them.
    frames: u64,
}

/// One turn of a queue.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    left: u64,
    progress: &'a mut Progress,
}

/// The part of the next buffer that a turn may still do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    from: u64,
    most: u64,
}

/// The part of a buffer that was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    frames: u64,
    is_whole: bool,
}

impl<'a> Turn<'a> {
    pub(super) fn new(progress: &'a mut Progress) -> Self {
        Self { left: TURN, progress }
    }

    /// Serves a chain, buffer by buffer, as far as the turn goes.
    pub(super) fn serve(
        &mut self,
        chain: Chain<'_>,
        mut serve: impl FnMut(&Descriptor, Share) -> Served,
    ) -> Completion {
        // The driver may have changed the chain since the last turn, which is its own loss.
        for buffer in chain.buffers.iter().skip(self.progress.buffers) {
            if self.left == 0 {
                return Completion::NextTurn;
            }
            let share = Share { from: self.progress.frames, most: self.left };
            let Served { frames, is_whole } = serve(buffer, share);
            self.left = self.left.saturating_sub(frames.max(1));
            if !is_whole {
                self.progress.frames += frames;
                return Completion::NextTurn;
            }
            *self.progress = Progress { buffers: self.progress.buffers + 1, frames: 0 };
        }
        *self.progress = Progress::default();
        Completion::Used(0)
    }
}

impl Share {
    /// Whether nothing of the buffer was served before.
    pub(super) fn is_first(&self) -> bool {
        self.from == 0
    }

    /// The part to be served now of a range of frames; empty if there is not enough left of the turn for a block.
    pub(super) fn part(&self, range: Range<u64>) -> (Range<u64>, Served) {
        let start = range.end.min(range.start + self.from);
        let whole = range.end - start <= self.most;
        let cut = (start + self.most) / BLOCK * BLOCK;
        let part = start..if whole { range.end } else { cut.max(start) };
        let frames = part.end - start;
        (part, Served { frames, is_whole: whole })
    }
}

impl Served {
    /// All of a buffer of so many frames.
    pub(super) fn whole(frames: u64) -> Self {
        Self { frames, is_whole: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a range, turn by turn.
    fn parts(range: &Range<u64>, mut left: u64) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        let mut from = 0;
        loop {
            let (part, served) = Share { from, most: left }.part(range.clone());
            assert_eq!(part.start, range.start + from);
            from += served.frames;
            parts.push(part);
            if served.is_whole {
                return parts;
            }
            left = TURN;
        }
    }

    #[test]
    fn parts_are_cut_where_blocks_begin() {
        assert!(parts(&(3..700), TURN).into_iter().eq(std::iter::once(3..700)));
        assert_eq!(parts(&(3..10_000), TURN), [3..4096, 4096..8192, 8192..10_000]);
        assert_eq!(parts(&(512..1024), 511), [512..512, 512..1024], "a whole block is not cut");
        assert_eq!(parts(&(512..2048), 600), [512..1024, 1024..2048]);
        assert!(parts(&(7..7), 1).into_iter().eq(std::iter::once(7..7)));
    }

    #[test]
    fn no_range_is_too_long() {
        // 4 GiB, the longest that a descriptor can say.
        let all = parts(&(1..1 << 20), 1);
        assert!(all.iter().all(|part| part.end - part.start <= TURN));
        assert_eq!(all.iter().map(|part| part.end - part.start).sum::<u64>(), (1 << 20) - 1);
        // The address is the driver's: it may be anything.
        assert_eq!(parts(&(u64::MAX / 4096..u64::MAX / 4096 + 1), TURN).len(), 1);
    }
}
