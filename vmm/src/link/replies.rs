//! Answers that smoltcp gives at once to a frame that came: ARP, echo, resets, acknowledgements out of turn.
//! The answers wait here until the guest has room.
//!
//! A guest that asks and does not fetch the answers loses them. All of these are asked for again or say again
//! what was said; data never goes this way.

use super::header::Checksums;
use super::{LinkMetrics, Transmit};

/// Answers that can wait.
const PLACES: usize = 32;

/// A ring of frames, each in a place of its own.
#[derive(Debug)]
pub(super) struct Replies {
    /// `PLACES` times `frame` bytes.
    bytes: Box<[u8]>,
    lengths: [usize; PLACES],
    /// Bytes of the longest frame.
    frame: usize,
    first: usize,
    count: usize,
    /// Where an answer for which there is no place is written.
    nowhere: Box<[u8]>,
}

impl Replies {
    /// Places for frames of up to `frame` bytes.
    pub(super) fn new(frame: usize) -> Self {
        Self {
            bytes: vec![0; PLACES * frame].into_boxed_slice(),
            lengths: [0; PLACES],
            frame,
            first: 0,
            count: 0,
            nowhere: vec![0; frame].into_boxed_slice(),
        }
    }

    /// Whether an answer that swap does not need may be made: half of the places are kept for the others.
    pub(super) fn has_spare(&self) -> bool {
        self.count < PLACES / 2
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A place for an answer, or somewhere to write it where there is none; says whether there is.
    pub(super) fn push(&mut self, len: usize) -> (&mut [u8], bool) {
        debug_assert!(len <= self.frame, "smoltcp sends nothing longer than the MTU");
        if self.count == PLACES {
            return (&mut self.nowhere[..len], false);
        }
        let place = (self.first + self.count) % PLACES;
        self.count += 1;
        self.lengths[place] = len;
        (&mut self.bytes[place * self.frame..][..len], true)
    }

    /// Hands out what there is room for; says whether all is gone.
    pub(super) fn flush(
        &mut self,
        out: &mut impl Transmit,
        checksums: Checksums,
        metrics: &LinkMetrics,
    ) -> bool {
        while self.count > 0 {
            let frame = &mut self.bytes[self.first * self.frame..][..self.lengths[self.first]];
            if !out.has_room(frame.len()) {
                return false;
            }
            let header = checksums.header(frame, None);
            out.transmit(&header, frame);
            metrics.frames_out.inc();
            metrics.bytes_out.add(frame.len() as u64);
            self.first = (self.first + 1) % PLACES;
            self.count -= 1;
        }
        true
    }

    /// Forgets all answers.
    pub(super) fn clear(&mut self) {
        self.count = 0;
    }
}
