//! An anonymous mapping, 2 MiB aligned, backed by huge pages where the host has them.
#![allow(unsafe_code)] // maps memory

use std::io;

use rustix::mm::{
    Advice, MapFlags, MremapFlags, MsyncFlags, ProtFlags, madvise, mmap_anonymous, mremap_fixed, msync,
    munmap,
};

#[cfg(test)]
use super::faults::Call;
use crate::core::units::{BLOCK_SIZE, FRAME_SIZE};

/// Address space of `len` bytes; unmapped on drop. Nothing is behind it until it is touched.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: usize,
    len: usize,
    #[cfg(test)]
    pub(crate) faults: super::faults::Faults,
}

impl Mapping {
    /// Maps `len` bytes (a multiple of 2 MiB).
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        assert!(len > 0 && len.is_multiple_of(BLOCK_SIZE));
        let padded = len + BLOCK_SIZE;
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                padded,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        } as usize;
        let base = start.next_multiple_of(BLOCK_SIZE);
        let ends = [(start, base - start), (base + len, start + padded - (base + len))];
        for (end, len) in ends.into_iter().filter(|(_, len)| *len > 0) {
            // An end that the kernel does not unmap costs address space, and nothing else.
            // SAFETY: an unaligned end of the mapping just made; nothing refers to it.
            let _ = unsafe { munmap(end as *mut _, len) };
        }
        let mapping = Self {
            base,
            len,
            #[cfg(test)]
            faults: Default::default(),
        };
        mapping.advise_huge(base, len)?;
        Ok(mapping)
    }

    fn advise_huge(&self, start: usize, len: usize) -> io::Result<()> {
        #[cfg(test)]
        self.faults.check(Call::Advise)?;
        // SAFETY: the range is ours; the advice changes how it is backed, not what is in it. A child
        // process must not get copy-on-write sharing of it, which would make frames unmovable.
        unsafe {
            madvise(start as *mut _, len, Advice::LinuxHugepage)?;
            madvise(start as *mut _, len, Advice::LinuxDontFork)?;
        }
        Ok(())
    }

    /// First address.
    pub(crate) fn base(&self) -> usize {
        self.base
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Gives the memory behind `len` bytes from `offset` back to the kernel; they read as zero (or
    /// fault, where a userfaultfd waits for that) afterwards.
    pub(crate) fn discard(&self, offset: usize, len: usize) -> io::Result<()> {
        assert!(offset + len <= self.len);
        #[cfg(test)]
        self.faults.check(Call::Discard)?;
        // SAFETY: the range is ours, and the caller holds the frames in it (they are being freed).
        unsafe { madvise((self.base + offset) as *mut _, len, Advice::LinuxDontNeed)? };
        Ok(())
    }

    /// Writes to `len` bytes from `offset` without a change: memory that is there is this process's own afterwards, and
    /// not in the host's swap. Where nothing is, memory comes. The kernel answers with an error where a touch would end
    /// the process (`MADV_POPULATE_WRITE`, Linux 5.14).
    pub(crate) fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        assert!(offset < self.len && offset + len <= self.len);
        #[cfg(test)]
        self.faults.check(Call::Populate)?;
        // SAFETY: the range is ours; the kernel faults it in for writing, which changes nothing that is in it.
        unsafe { madvise((self.base + offset) as *mut _, len, Advice::LinuxPopulateWrite)? };
        Ok(())
    }

    /// Has the kernel make single pages of the block, if it is one huge page that nobody else holds. What is in them
    /// stays; pages that are filled with zeroes may be replaced by the shared zero page (6.12,
    /// `try_to_map_unused_to_zeropage`, mm/migrate.c).
    pub(crate) fn split(&self, offset: usize) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK_SIZE) && offset + BLOCK_SIZE <= self.len);
        #[cfg(test)]
        self.faults.check(Call::Split)?;
        // Advice for a part of a huge page has it split first (`madvise_cold_or_pageout_pte_range`, mm/madvise.c).
        // SAFETY: the page is ours; the advice says that it is not used soon, and changes nothing that is in it.
        unsafe { madvise((self.base + offset) as *mut _, FRAME_SIZE, Advice::LinuxCold)? };
        Ok(())
    }

    /// Maps one block anew, which also frees its page table, so that the next touch can be huge.
    /// A userfaultfd registration of the block is lost.
    pub(crate) fn renew(&self, offset: usize) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK_SIZE) && offset + BLOCK_SIZE <= self.len);
        #[cfg(test)]
        self.faults.check(Call::Map)?;
        #[cfg(test)]
        self.fail_halfway(Call::MapHalfway, offset)?;
        // SAFETY: replaces a block of our own mapping, whose frames the caller holds and no thread
        // uses (they are free), by fresh anonymous memory with the same protection.
        unsafe {
            mmap_anonymous(
                (self.base + offset) as *mut _,
                BLOCK_SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
            )?;
        }
        self.advise_huge(self.base + offset, BLOCK_SIZE)
    }

    /// Keeps the address space of a block that is not mapped, so that nobody else's memory comes to lie there.
    pub(crate) fn hold(&self, offset: usize) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK_SIZE) && offset + BLOCK_SIZE <= self.len);
        #[cfg(test)]
        self.faults.check(Call::Hold)?;
        // SAFETY: it replaces nothing: the kernel refuses where something is mapped.
        unsafe {
            mmap_anonymous(
                (self.base + offset) as *mut _,
                BLOCK_SIZE,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE,
            )?;
        }
        Ok(())
    }

    /// True when the block at `offset` is mapped: a call that failed may have unmapped it.
    pub(crate) fn is_mapped(&self, offset: usize) -> bool {
        assert!(offset.is_multiple_of(BLOCK_SIZE) && offset + BLOCK_SIZE <= self.len);
        // SAFETY: it looks at the mapping, and has nothing to write back, since no file is behind it.
        unsafe { msync((self.base + offset) as *mut _, BLOCK_SIZE, MsyncFlags::ASYNC).is_ok() }
    }

    /// Puts what is behind the block at `source`, of another mapping of ours, behind the block at `offset`,
    /// in place of whatever was there, its page table included: a huge page stays one. Nothing is behind
    /// `source` afterwards. A userfaultfd registration of the block at `offset` is lost.
    pub(crate) fn take_over(&self, offset: usize, source: usize) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK_SIZE) && offset + BLOCK_SIZE <= self.len);
        #[cfg(test)]
        self.faults.check(Call::Remap)?;
        #[cfg(test)]
        self.fail_halfway(Call::RemapHalfway, offset)?;
        // SAFETY: both blocks are address space of ours, and stay so. The caller holds the frames behind
        // both: nobody reads or writes those of `source`, and those that were at `offset` have gone.
        unsafe {
            mremap_fixed(
                source as *mut _,
                BLOCK_SIZE,
                BLOCK_SIZE,
                MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP,
                (self.base + offset) as *mut _,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
impl Mapping {
    /// The call fails if a test says so, when it has unmapped the block at `offset`, as the kernel does first.
    fn fail_halfway(&self, call: Call, offset: usize) -> io::Result<()> {
        let Some(error) = self.faults.strikes(call) else { return Ok(()) };
        // SAFETY: what the kernel does first; the caller knows that it may have been done.
        unsafe { munmap((self.base + offset) as *mut _, BLOCK_SIZE)? };
        Err(error.into())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and its owner is going; whoever lends out addresses of it
        // (guest space) outlives every borrower.
        let _ = unsafe { munmap(self.base as *mut _, self.len) };
    }
}
