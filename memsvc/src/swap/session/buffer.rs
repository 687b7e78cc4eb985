//! Bytes on the way: gathered until there are enough, or waiting to be sent.

use zeroize::Zeroizing;

/// Gathers a piece of up to `N` bytes out of what comes. Wiped when it goes.
#[derive(Debug)]
pub(in crate::swap) struct Gather<const N: usize> {
    bytes: Box<Zeroizing<[u8; N]>>,
    len: usize,
}

impl<const N: usize> Gather<N> {
    pub(in crate::swap) fn new() -> Self {
        Self { bytes: Box::new(Zeroizing::new([0; N])), len: 0 }
    }

    /// Forgets what has been gathered.
    pub(in crate::swap) fn clear(&mut self) {
        self.len = 0;
    }

    /// The next `wanted` bytes, at most `N`, taken off the front of `input`; `None`, and all of `input` is
    /// taken, when they have not all come. Copied only where they come in pieces.
    pub(in crate::swap) fn take<'a, 'b: 'a>(
        &'a mut self,
        input: &mut &'b [u8],
        wanted: usize,
    ) -> Option<&'a [u8]> {
        debug_assert!(wanted <= N);
        if self.len == 0
            && let Some((piece, rest)) = input.split_at_checked(wanted)
        {
            *input = rest;
            return Some(piece);
        }
        let (piece, rest) = input.split_at(input.len().min(wanted - self.len));
        self.bytes[self.len..self.len + piece.len()].copy_from_slice(piece);
        self.len += piece.len();
        *input = rest;
        if self.len < wanted {
            return None;
        }
        self.len = 0;
        Some(&self.bytes[..wanted])
    }

    /// Keeps the `N` bytes that [`Gather::take`] has given, to be offered again. The last of them are those that it took
    /// off `input` for that; the others are here.
    pub(super) fn hold(&mut self, taken: &[u8]) {
        self.bytes[N - taken.len()..].copy_from_slice(taken);
        self.len = N;
    }

    /// True when a piece of `N` bytes is here that is to be taken again.
    pub(super) fn holds(&self) -> bool {
        self.len == N
    }
}

/// Bytes that wait to be sent.
#[derive(Debug)]
pub(in crate::swap) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// With room for so many without another allocation.
    pub(in crate::swap) fn new(room: usize) -> Self {
        Self { bytes: Vec::with_capacity(room), sent: 0 }
    }

    pub(in crate::swap) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(in crate::swap) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Forgets what has not been sent.
    pub(in crate::swap) fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }

    /// Moves what fits to the front of `out`.
    pub(in crate::swap) fn send(&mut self, out: &mut &mut [u8]) {
        let waiting = &self.bytes[self.sent..];
        let now = waiting.len().min(out.len());
        let (room, rest) = std::mem::take(out).split_at_mut(now);
        room.copy_from_slice(&waiting[..now]);
        *out = rest;
        self.sent += now;
        if self.sent == self.bytes.len() {
            self.clear();
        }
    }
}
