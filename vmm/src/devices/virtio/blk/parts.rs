//! Pieces of guest RAM as the kernel takes them, and how far it has come with them.

#![allow(unsafe_code, reason = "the addresses go to another thread with the device that has them")]

use vm_memory::VolatileSlice;

/// Pieces to be read or written, in order; none of them is empty.
#[derive(Debug)]
pub(super) struct Parts {
    parts: Vec<libc::iovec>,
    /// The first that is not done.
    first: usize,
}

// SAFETY: the addresses are only handed to the kernel. What they name is guest RAM, which is shared, volatile memory to
// all threads alike.
unsafe impl Send for Parts {}

impl Parts {
    /// All bytes of `slices`.
    pub(super) fn new(slices: &[VolatileSlice<'_>]) -> Self {
        let part = |slice: &VolatileSlice<'_>| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        Self { parts: slices.iter().filter(|slice| !slice.is_empty()).map(part).collect(), first: 0 }
    }

    /// The pieces that are left, as many as one call takes.
    pub(super) fn rest(&self) -> &[libc::iovec] {
        let rest = self.parts.get(self.first..).unwrap_or_default();
        rest.get(..libc::UIO_MAXIOV as usize).unwrap_or(rest)
    }

    /// So many bytes are done.
    pub(super) fn advance(&mut self, mut moved: usize) {
        while let Some(first) = self.parts.get_mut(self.first) {
            if moved < first.iov_len {
                first.iov_base = first.iov_base.wrapping_byte_add(moved);
                first.iov_len -= moved;
                return;
            }
            moved -= first.iov_len;
            self.first += 1;
        }
    }
}
