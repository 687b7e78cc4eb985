//! The one frame on its way to the guest, and how it goes out in pieces.
//!
//! smoltcp does not say how long a frame will be before it is made, and a large one may find less room than
//! it needs. Then as many of its segments go out as there is room for:
//!
//! ```text
//!   before   │ headers │ s1 │ s2 │ s3 │ s4 │
//!   out      │ headers │ s1 │ s2 │
//!   waits              │ headers │ s3 │ s4 │     headers anew, over what has gone
//! ```

use std::num::NonZeroU16;
use std::ops::Range;

use smoltcp::wire::{EthernetFrame, Ipv4Packet, TcpPacket};

use super::filter::{ETHERNET, IPV4};
use super::header::Checksums;
use super::{LinkMetrics, Transmit};

/// Bytes of the longest frame, the Ethernet header included: what an IPv4 packet can say, and a bit less.
pub(super) const LONGEST: usize = u16::MAX as usize;

/// A buffer for a frame, and which part of it has not gone out yet.
#[derive(Debug)]
pub(super) struct Outgoing {
    buffer: Box<[u8]>,
    waiting: Range<usize>,
    /// Bytes of a segment, where the frame is longer than one.
    pub(super) segment: Option<NonZeroU16>,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; LONGEST].into_boxed_slice(), waiting: 0..0, segment: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets the frame.
    pub(super) fn clear(&mut self) {
        self.waiting = 0..0;
    }

    /// Room for a frame of `len` bytes, which replaces what was there.
    pub(super) fn put(&mut self, len: usize) -> &mut [u8] {
        debug_assert!(self.is_empty() && len <= LONGEST);
        self.waiting = 0..len;
        &mut self.buffer[..len]
    }

    /// Hands out the frame, or as much of it as there is room for; says whether all is gone.
    pub(super) fn flush(
        &mut self,
        out: &mut impl Transmit,
        checksums: Checksums,
        metrics: &LinkMetrics,
    ) -> bool {
        while !self.waiting.is_empty() {
            let Some(rest) = self.hand_out(out, checksums, metrics) else { return false };
            self.waiting = rest;
        }
        true
    }

    /// Hands out a front part; says what is left, or `None` if there was no room for even one segment.
    fn hand_out(
        &mut self,
        out: &mut impl Transmit,
        checksums: Checksums,
        metrics: &LinkMetrics,
    ) -> Option<Range<usize>> {
        let Range { start, end } = self.waiting;
        let frame = &mut self.buffer[start..end];
        let (part, rest) = match self.segment {
            _ if out.has_room(frame.len()) => (frame.len(), None),
            Some(segment) => {
                let cut = Cut::largest(frame, usize::from(segment.get()), out)?;
                cut.apply(frame);
                (cut.len(), Some(cut))
            }
            None => return None,
        };
        let frame = &mut self.buffer[start..start + part];
        let is_longer = |segment: &NonZeroU16| part > headers(frame) + usize::from(segment.get());
        let segment = self.segment.filter(is_longer);
        let header = checksums.header(frame, segment);
        out.transmit(&header, frame);
        metrics.frames_out.inc();
        metrics.bytes_out.add(part as u64);
        Some(match rest {
            Some(cut) => start + cut.move_headers(&mut self.buffer[start..end])..end,
            None => end..end,
        })
    }
}

/// Where a frame is cut in two.
#[derive(Clone, Copy, Debug)]
struct Cut {
    headers: usize,
    /// Payload bytes before the cut: whole segments, and not all.
    payload: usize,
    /// FIN and PSH belong to the last byte.
    fin: bool,
    psh: bool,
}

impl Cut {
    /// The cut with the longest front part for which there is room, give or take a factor of two.
    fn largest(frame: &[u8], segment: usize, out: &mut impl Transmit) -> Option<Self> {
        let headers = headers(frame);
        // Halved at once, since there is no room for all: so the last byte is never in front of the cut.
        let mut segments = (frame.len() - headers).div_ceil(segment);
        loop {
            segments /= 2;
            if segments == 0 {
                return None;
            }
            if out.has_room(headers + segments * segment) {
                break;
            }
        }
        let tcp = TcpPacket::new_unchecked(&frame[ETHERNET + IPV4..]);
        Some(Self { headers, payload: segments * segment, fin: tcp.fin(), psh: tcp.psh() })
    }

    /// Bytes of the front part.
    fn len(&self) -> usize {
        self.headers + self.payload
    }

    /// Makes the headers those of the front part.
    fn apply(&self, frame: &mut [u8]) {
        set_length(frame, self.len());
        let mut tcp = TcpPacket::new_unchecked(&mut frame[ETHERNET + IPV4..]);
        tcp.set_fin(false);
        tcp.set_psh(false);
    }

    /// Puts headers in front of what is left of the whole frame; says where that starts.
    fn move_headers(&self, frame: &mut [u8]) -> usize {
        frame.copy_within(..self.headers, self.payload);
        let rest = &mut frame[self.payload..];
        set_length(rest, rest.len());
        let mut tcp = TcpPacket::new_unchecked(&mut rest[ETHERNET + IPV4..]);
        tcp.set_seq_number(tcp.seq_number() + self.payload);
        tcp.set_fin(self.fin);
        tcp.set_psh(self.psh);
        self.payload
    }
}

/// Bytes of all headers of a TCP frame of ours, which has no IP options.
fn headers(frame: &[u8]) -> usize {
    let tcp = TcpPacket::new_unchecked(&frame[ETHERNET + IPV4..]);
    ETHERNET + IPV4 + usize::from(tcp.header_len())
}

/// Writes the length of a frame into its IP header, and that one's checksum.
fn set_length(frame: &mut [u8], len: usize) {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.set_total_len((len - ETHERNET) as u16);
    ip.fill_checksum();
}
