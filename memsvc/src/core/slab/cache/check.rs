//! The invariants of a class, for tests.

use super::{Cache, List, NIL, SlabId, ends, low_bits};
use crate::core::slab::class::GROUP;
use crate::core::slab::front::GroupId;
use crate::core::units::CpuId;

impl Cache {
    /// Looks at every slab and list, and says how many frames there are.
    pub(in crate::core::slab) fn check(
        &self,
        ready: impl Fn(CpuId, bool, GroupId) -> Option<u32>,
    ) -> Result<u64, String> {
        let mut frames = 0;
        let (mut live, mut live_reserve) = (0, 0);
        for (id, entry) in self.slabs.iter().enumerate().filter(|(_, entry)| entry.span.frames > 0) {
            let slab = SlabId(id as u32);
            frames += u64::from(entry.span.frames);
            live += 1;
            live_reserve += u32::from(entry.reserve);
            let mut places = usize::from(self.class.class().places(entry.span.frames));
            let (mut available, mut all_free) = (false, true);
            for (index, group) in self.groups(slab).iter().enumerate() {
                let whole = low_bits(places.min(GROUP));
                places -= places.min(GROUP);
                let held = match group.holder {
                    0 => 0,
                    holder => ready(CpuId(holder - 1), entry.reserve, slab.group(index))
                        .ok_or(format!("{:?} {slab:?}: CPU {holder} does not hold it", self.class))?,
                };
                if (group.free | held) & !whole != 0 || group.free & held != 0 {
                    return Err(format!("{:?} {slab:?}: {group:?} and {held:x} of {whole:x}", self.class));
                }
                available |= group.holder == 0 && group.free != 0;
                all_free &= group.holder == 0 && group.free == whole;
            }
            let list = match (available && !entry.isolated, all_free) {
                (false, _) => List::Unlisted,
                (true, true) => List::Empty,
                (true, false) => List::Partial,
            };
            if entry.list != list || entry.isolated {
                return Err(format!("{:?} {entry:?} belongs to {list:?}", self.class));
            }
        }
        if (live, live_reserve) != (self.live, self.live_reserve) {
            return Err(format!("{:?}: {live} slabs, {live_reserve} of the reserve", self.class));
        }
        for list in [List::Partial, List::Empty] {
            for reserve in [false, true] {
                self.check_list(list, reserve)?;
            }
        }
        Ok(frames)
    }

    fn check_list(&self, list: List, reserve: bool) -> Result<(), String> {
        let ends = self.lists[ends(list, reserve)];
        let (mut at, mut prev, mut len) = (ends.head, NIL, 0);
        while at != NIL {
            let entry = &self.slabs[at as usize];
            if entry.list != list || entry.reserve != reserve || entry.prev != prev || len > self.live {
                return Err(format!("{:?}: {list:?} has {entry:?}", self.class));
            }
            (prev, at, len) = (at, entry.next, len + 1);
        }
        let listed = self.slabs.iter().filter(|entry| entry.list == list && entry.reserve == reserve).count();
        if len != ends.len || len as usize != listed {
            return Err(format!("{:?}: {list:?} has {len} of {listed}", self.class));
        }
        Ok(())
    }
}
