//! Named pieces of anonymous memory: allocate, write, verify, punch pages out, free.

#![allow(unsafe_code, reason = "memory is mapped, advised and read by page")]

use std::ptr::NonNull;
use std::time::Instant;

use guest_agent::{Pages, Verified, pattern};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

const PAGE: usize = pattern::PAGE;
/// One mapping. It is private and anonymous, and only its owner has its address.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u8>,
    pages: usize,
    punched: Option<Punched>,
}

// SAFETY: a region owns its mapping and nothing in it depends on the thread.
unsafe impl Send for Region {}

/// Pages that were given back since the last write: every `every`-th from `offset` on.
#[derive(Clone, Copy, Debug)]
struct Punched {
    every: usize,
    offset: usize,
}

impl Punched {
    fn has(self, page: usize) -> bool {
        page >= self.offset && (page - self.offset).is_multiple_of(self.every)
    }
}

impl Region {
    /// Maps `mib` without touching it.
    pub(crate) fn map(mib: u64, kind: Pages) -> Result<Self, String> {
        let failed = |error| format!("cannot map {mib} MiB: {error}");
        let bytes = usize::try_from(mib).ok().and_then(|mib| mib.checked_mul(1 << 20));
        let bytes = bytes.filter(|bytes| *bytes > 0).ok_or("a region has at least 1 MiB")?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags) }
                .map_err(failed)?;
        let start = NonNull::new(start.cast()).ok_or("mapped at address 0")?;
        let region = Self { start, pages: bytes / PAGE, punched: None };
        let advice = match kind {
            Pages::Any => return Ok(region),
            Pages::Base => Advice::LinuxNoHugepage,
            Pages::Huge => Advice::LinuxHugepage,
        };
        // SAFETY: this is our own mapping and the advice does not change what it holds.
        unsafe { madvise(start.as_ptr().cast(), bytes, advice) }.map_err(failed)?;
        Ok(region)
    }

    /// Maps memory and touches it until `leave_mib` of MemAvailable are left.
    pub(crate) fn fill(leave_mib: u64, kind: Pages) -> Result<Self, String> {
        let free = super::kernel::available_mib()?;
        if free <= leave_mib {
            return Err(format!("only {free} MiB are available, so {leave_mib} cannot be left"));
        }
        let mut region = Self::map(free, kind)?;
        let mut done = 0;
        while done < region.pages {
            // Half of what is left to take at each step, so that little is taken between the last looks.
            let take = super::kernel::available_mib()?.saturating_sub(leave_mib).div_ceil(2);
            if take == 0 {
                break;
            }
            let end = region.pages.min(done + (take << 20) as usize / PAGE);
            region.touch_pages(done, end);
            done = end;
        }
        region.shrink(done);
        Ok(region)
    }

    /// Size.
    pub(crate) fn mib(&self) -> u64 {
        (self.pages * PAGE) as u64 >> 20
    }

    /// Writes one word of each page; says how many µs that took.
    pub(crate) fn touch(&mut self) -> u64 {
        let start = Instant::now();
        self.touch_pages(0, self.pages);
        u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn touch_pages(&mut self, from: usize, to: usize) {
        for page in from..to {
            if let Some(word) = self.page_mut(page).first_mut() {
                // SAFETY: a reference is a valid pointer; volatile so that the touch is not left out.
                unsafe { std::ptr::write_volatile(word, page as u64) };
            }
        }
    }

    /// Writes the pattern to every page.
    pub(crate) fn write(&mut self, seed: u64) {
        for page in 0..self.pages {
            pattern::write(self.page_mut(page), seed, page as u64);
        }
        self.punched = None;
    }

    /// Checks every page that holds the pattern still.
    pub(crate) fn verify(&self, seed: u64) -> Verified {
        let mut result = Verified::default();
        for page in (0..self.pages).filter(|page| !self.punched.is_some_and(|punched| punched.has(*page))) {
            result.pages += 1;
            if !pattern::matches(self.page(page), seed, page as u64) {
                result.wrong += 1;
                result.first_wrong.get_or_insert(page as u64);
            }
        }
        result
    }

    /// Gives pages back to the kernel; says how many.
    pub(crate) fn punch(&mut self, every: u64, offset: u64) -> Result<u64, String> {
        let (Ok(every), Ok(offset)) = (usize::try_from(every), usize::try_from(offset)) else {
            return Err("the distance between pages is too large".to_owned());
        };
        if every == 0 {
            return Err("the distance between pages is at least 1".to_owned());
        }
        if self.punched.is_some() {
            return Err("pages of this region were given back already; write it anew first".to_owned());
        }
        let mut count = 0;
        for page in (offset..self.pages).step_by(every) {
            let address = self.page_mut(page).as_mut_ptr().cast();
            // SAFETY: the page is our own, no reference to it is alive, and its bytes are not used again
            // before they are written (`punched` makes verify pass over them).
            unsafe { madvise(address, PAGE, Advice::LinuxDontNeed) }
                .map_err(|error| format!("cannot give page {page} back: {error}"))?;
            count += 1;
        }
        self.punched = Some(Punched { every, offset });
        Ok(count)
    }

    /// The words of a page, which must be below `self.pages`.
    pub(crate) fn page(&self, page: usize) -> &[u64] {
        assert!(page < self.pages, "page inside the region");
        // SAFETY: the page lies in our mapping, is aligned, and any bytes are valid words.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(page * PAGE).cast(), pattern::WORDS) }
    }

    /// As [`Region::page`].
    pub(crate) fn page_mut(&mut self, page: usize) -> &mut [u64] {
        assert!(page < self.pages, "page inside the region");
        // SAFETY: as in `page`; `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(page * PAGE).cast(), pattern::WORDS) }
    }

    /// Number of 4 KiB pages.
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Keeps the first `pages` pages.
    fn shrink(&mut self, pages: usize) {
        let keep = pages.clamp(1, self.pages);
        if keep < self.pages {
            // SAFETY: the tail is part of our mapping and is not used after this.
            let _ =
                unsafe { munmap(self.start.as_ptr().add(keep * PAGE).cast(), (self.pages - keep) * PAGE) };
            self.pages = keep;
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody has a reference into it.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.pages * PAGE) };
    }
}
