//! A disk request taken apart: header, data and status, wherever the driver cut its buffers.
//!
//! Section 2.7.4 leaves the cutting to the driver, so the header is the first 16 readable bytes and
//! the status the last writable one, in whatever buffers those are.

use std::ops::Range;

use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_S_IOERR;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions, VolatileSlice};

use super::BlockMetrics;
use crate::devices::virtio::{Chain, GuestRam};

/// Bytes of the header.
const HEADER: u64 = 16;

/// A piece of guest memory, in bytes.
pub(super) type Span = (GuestAddress, u64);

/// Where things are in a request; kept between requests so that none allocates.
#[derive(Debug, Default)]
pub(super) struct Layout {
    out: Vec<Span>,
    into: Vec<Span>,
}

/// A request with header and status.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// Its number in the ring.
    pub(super) head: u16,
    pub(super) kind: u32,
    pub(super) sector: u64,
    /// Data from the driver.
    pub(super) out: &'a [Span],
    /// Room for data to the driver.
    pub(super) into: &'a [Span],
    /// Where the driver looks how it went.
    pub(super) status: GuestAddress,
}

/// Why there is no request in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Not even a place for the status.
    NoStatus,
    /// The status can be told, at this address.
    NoHeader(GuestAddress),
}

impl Layout {
    /// Takes a chain apart.
    pub(super) fn parse<'a>(
        &'a mut self,
        memory: &GuestRam,
        chain: Chain<'_>,
    ) -> Result<Request<'a>, Malformed> {
        let span = |buffer: &virtio_queue::desc::split::Descriptor| (buffer.addr(), u64::from(buffer.len()));
        self.out.clear();
        self.into.clear();
        self.out.extend(chain.readable().map(span).filter(|span| span.1 > 0));
        self.into.extend(chain.writable().map(span).filter(|span| span.1 > 0));

        let last = self.into.last_mut().ok_or(Malformed::NoStatus)?;
        last.1 -= 1;
        let status = GuestAddress(last.0.0.wrapping_add(last.1));
        let header = take_header(memory, &mut self.out).ok_or(Malformed::NoHeader(status))?;
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        Ok(Request {
            head: chain.head,
            kind: u32::from_le_bytes([k0, k1, k2, k3]),
            sector: u64::from_le_bytes(sector),
            out: &self.out,
            into: &self.into,
            status,
        })
    }
}

impl Request<'_> {
    /// As [`finish`].
    pub(super) fn finish(&self, memory: &GuestRam, status: u32, written: u32, metrics: &BlockMetrics) -> u32 {
        finish(memory, self.status, status, written, metrics)
    }
}

impl Malformed {
    /// Counts it, and tells the driver if there is a place for that; says how many bytes were written.
    pub(super) fn refuse(self, memory: &GuestRam, metrics: &BlockMetrics) -> u32 {
        metrics.bad_requests.inc();
        match self {
            Malformed::NoHeader(status) => finish(memory, status, VIRTIO_BLK_S_IOERR, 0, metrics),
            Malformed::NoStatus => 0,
        }
    }
}

/// Tells the driver how a request went of which so many bytes were written; says how many are now. A status that is not in
/// RAM is counted.
pub(super) fn finish(
    memory: &GuestRam,
    at: GuestAddress,
    status: u32,
    written: u32,
    metrics: &BlockMetrics,
) -> u32 {
    if memory.write_obj(status as u8, at).is_ok() {
        return written.saturating_add(1);
    }
    metrics.bad_requests.inc();
    0
}

/// Where header and status of a chain are, as far as it has them: address and bytes.
pub(super) fn header_and_status(chain: Chain<'_>) -> impl Iterator<Item = (u64, u64)> {
    let mut left = HEADER;
    let header = chain.readable().map_while(move |buffer| {
        let len = left.min(buffer.len().into());
        let is_of_it = left > 0;
        left -= len;
        is_of_it.then_some((buffer.addr().0, len))
    });
    let status = chain.writable().filter(|buffer| buffer.len() > 0).last();
    header.chain(status.map(|last| (last.addr().0.wrapping_add(u64::from(last.len()) - 1), 1)))
}

/// Bytes in all spans.
pub(super) fn total(spans: &[Span]) -> u64 {
    // At most a chain of 32-bit lengths: no overflow.
    spans.iter().map(|span| span.1).sum()
}

/// The memory behind spans; `None` if any of it is not RAM.
pub(super) fn slices<'a>(
    memory: &'a GuestRam,
    spans: &[Span],
    access: Permissions,
) -> Option<Vec<VolatileSlice<'a>>> {
    let mut found = Vec::with_capacity(spans.len());
    for (address, len) in spans {
        let parts = memory.get_slices(*address, usize::try_from(*len).ok()?, access).ok()?;
        for part in parts {
            found.push(part.ok()?);
        }
    }
    let bytes: u64 = found.iter().map(|slice| slice.len() as u64).sum();
    (bytes == total(spans)).then_some(found)
}

/// Reads the bytes of spans into `room`; `None` if any of them is not in RAM.
pub(super) fn gather(memory: &GuestRam, spans: &[Span], mut room: &mut [u8]) -> Option<()> {
    for &(at, len) in spans {
        let (now, later) = room.split_at_mut_checked(usize::try_from(len).ok()?)?;
        memory.read_slice(now, at).ok()?;
        room = later;
    }
    Some(())
}

/// Writes as many of these bytes as spans have room for; says how many, or `None` if any of the spans is not in RAM.
pub(super) fn scatter(memory: &GuestRam, spans: &[Span], bytes: &[u8]) -> Option<u32> {
    let mut rest = bytes;
    for slice in slices(memory, spans, Permissions::Write)? {
        let (now, later) = rest.split_at(rest.len().min(slice.len()));
        slice.copy_from(now);
        rest = later;
    }
    u32::try_from(bytes.len() - rest.len()).ok()
}

/// The bytes of `slices` that lie in `range`, in order.
pub(super) fn cut<'a>(slices: &[VolatileSlice<'a>], range: &Range<u64>) -> Vec<VolatileSlice<'a>> {
    let mut before = 0;
    let within = |slice: &VolatileSlice<'a>| {
        let here = before..before + slice.len() as u64;
        before = here.end;
        let (start, end) = (here.start.max(range.start), here.end.min(range.end));
        // Both are within the slice, so they fit.
        let len = end.checked_sub(start).filter(|len| *len > 0)?;
        slice.subslice((start - here.start) as usize, len as usize).ok()
    };
    slices.iter().filter_map(within).collect()
}

/// Reads the header and cuts it off the spans.
fn take_header(memory: &GuestRam, spans: &mut [Span]) -> Option<[u8; HEADER as usize]> {
    let mut header = [0; HEADER as usize];
    let mut have = 0;
    for (address, len) in spans {
        let room = header.get_mut(have..)?;
        let count = room.len().min(usize::try_from(*len).ok()?);
        memory.read_slice(room.get_mut(..count)?, *address).ok()?;
        address.0 = address.0.wrapping_add(count as u64);
        *len -= count as u64;
        have += count;
        if have == header.len() {
            return Some(header);
        }
    }
    None
}
