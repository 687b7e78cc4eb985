//! The guest's physical map: which guest frames are RAM, and where guest space numbers them.

use crate::core::units::{BLOCK_SIZE, FRAME_SIZE, Gfn, GuestFrame};

/// One region of guest RAM in guest physical address space; bytes, multiples of 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// First guest physical address.
    pub gpa: u64,
    /// Length.
    pub len: u64,
}

/// Most guest RAM, bytes. Frames are numbered by `u32`, which ends at 16 TiB; some numbers are left to the arena, which is
/// larger by swap, stash and what stays free.
pub const MAX_RAM: u64 = 15 << 40;

/// Regions in ascending order, numbered through without the holes between them.
#[derive(Debug)]
pub(crate) struct Regions(Vec<RegionSpec>);

impl Regions {
    /// None when there is no region, or one is empty, unaligned, or not above the one before; or when there is more
    /// than [`MAX_RAM`].
    pub(crate) fn new(specs: &[RegionSpec]) -> Option<Self> {
        let block = BLOCK_SIZE as u64;
        let mut end = 0;
        for spec in specs {
            let aligned = spec.gpa.is_multiple_of(block) && spec.len.is_multiple_of(block);
            if spec.len == 0 || !aligned || spec.gpa < end {
                return None;
            }
            end = spec.gpa.checked_add(spec.len)?;
        }
        let regions = Self(specs.to_vec());
        (!specs.is_empty() && regions.bytes() <= MAX_RAM).then_some(regions)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|spec| spec.len).sum()
    }

    /// Where guest space numbers this frame; None when it is not RAM.
    pub(crate) fn frame(&self, gfn: Gfn) -> Option<GuestFrame> {
        let mut before = 0;
        for spec in &self.0 {
            let (first, frames) = (spec.gpa / FRAME_SIZE as u64, spec.len / FRAME_SIZE as u64);
            if gfn.0 >= first && gfn.0 - first < frames {
                return u32::try_from(before + (gfn.0 - first)).ok().map(GuestFrame);
            }
            before += frames;
        }
        None
    }

    /// The first RAM frame above `gfn`, which is not RAM itself.
    pub(crate) fn next_start(&self, gfn: Gfn) -> Option<Gfn> {
        self.0.iter().map(|spec| Gfn(spec.gpa / FRAME_SIZE as u64)).find(|&start| start > gfn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn spec(gpa_mib: u64, len_mib: u64) -> RegionSpec {
        RegionSpec { gpa: gpa_mib * MIB, len: len_mib * MIB }
    }

    #[test]
    fn frames_are_numbered_through_the_hole_below_4_gib() {
        let regions = Regions::new(&[spec(0, 3328), spec(4096, 768)]).unwrap();
        assert_eq!(regions.bytes(), 4096 * MIB);
        assert_eq!(regions.frame(Gfn(0)), Some(GuestFrame(0)));
        assert_eq!(regions.frame(Gfn(3328 * 256 - 1)), Some(GuestFrame(3328 * 256 - 1)));
        assert_eq!(regions.frame(Gfn(3328 * 256)), None);
        assert_eq!(regions.frame(Gfn(4096 * 256)), Some(GuestFrame(3328 * 256)));
        assert_eq!(regions.frame(Gfn(4864 * 256)), None);
        assert_eq!(regions.frame(Gfn(u64::MAX)), None);
    }

    #[test]
    fn frame_numbers_do_not_wrap_in_the_largest_guest() {
        const TIB: u64 = MIB;
        let largest = Regions::new(&[spec(0, 15 * TIB)]).unwrap();
        assert!(largest.frame(Gfn(15 * TIB * 256 - 1)).is_some());
        assert!(Regions::new(&[spec(0, 15 * TIB + 2)]).is_none());
    }

    #[test]
    fn unaligned_empty_and_overlapping_regions_are_refused() {
        for bad in [&[][..], &[spec(0, 0)], &[spec(0, 3)], &[spec(1, 2)], &[spec(0, 4), spec(2, 4)]] {
            assert!(Regions::new(bad).is_none(), "{bad:?}");
        }
    }
}
