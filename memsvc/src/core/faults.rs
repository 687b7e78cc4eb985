//! Every point where getting memory can fail, made to fail: each is tried, nothing leaks, all is told.
//!
//! There are four, all in the free lists: frames, blocks and chunks are looked for and not found, and no
//! emptied block is there. (Limit and reserve refuse before anything is looked for; the model has them.) The
//! allocator looks a second time once all per-CPU lists are drained, so a fault that strikes once is
//! healed, and one that strikes twice is an error for the requester.

/// Which looks find nothing: `count` of them, after `spared`.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    looks: u32,
    spared: u32,
    count: u32,
}

impl Faults {
    pub(crate) fn strikes(&mut self) -> bool {
        self.looks += 1;
        self.looks > self.spared && self.looks <= self.spared + self.count
    }
}

#[cfg(not(memsvc_loom))]
mod tests {
    use super::Faults;
    use crate::core::alloc::{Config, FrameAllocator};
    use crate::core::page_type::PageType;
    use crate::core::request::{AllocError, Flags, Request};
    use crate::core::sync::lock;
    use crate::core::units::{CpuId, FrameId, Order, OwnerId};
    use crate::core::watermark::Watermarks;

    const BLOCKS: u32 = 4;
    const MARKS: Watermarks = Watermarks { min: 40, low: 50, high: 60 };

    #[derive(Default)]
    struct Story {
        live: Vec<(FrameId, Order)>,
        failed: u64,
    }

    impl Story {
        fn get(&mut self, alloc: &FrameAllocator, cpu: u8, request: &Request, order: Order, times: u32) {
            for _ in 0..times {
                match alloc.enter(CpuId(cpu)).alloc(request) {
                    Ok(head) => self.live.push((head, order)),
                    Err(AllocError::NoMemory { .. }) => {
                        self.failed += 1;
                        assert_eq!(alloc.check(), Ok(()));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(alloc.check(), Ok(()));
        }

        fn put(&mut self, alloc: &FrameAllocator, cpu: u8, times: usize) {
            for (head, order) in self.live.split_off(self.live.len().saturating_sub(times)) {
                assert_eq!(alloc.free(CpuId(cpu), head, order), Ok(()));
            }
            assert_eq!(alloc.check(), Ok(()));
        }

        /// All orders, what is taken only for who frees memory, lists that fill, drain and change over,
        /// on two CPUs; and all is given back.
        fn run(alloc: &FrameAllocator) -> Self {
            let mut story = Self::default();
            let order = |order| Order::new(order).unwrap();
            let guest = Request::new(Order::FRAME, PageType::Guest).charge_to(OwnerId(1));
            let kmem = Request::new(order(3), PageType::Kmem);
            let block = Request::new(Order::BLOCK, PageType::Stash);
            story.get(alloc, 0, &guest, Order::FRAME, 70);
            story.get(alloc, 1, &guest, Order::FRAME, 3);
            story.get(alloc, 0, &kmem, order(3), 4);
            story.get(alloc, 1, &block, Order::BLOCK, 2);
            story.put(alloc, 0, 4);
            // As many as there are above the reserve, and then from it.
            let free = alloc.zone_info().free;
            let some = free.saturating_sub(MARKS.min + 8) as u32;
            let slab = Request::new(Order::FRAME, PageType::Slab);
            story.get(alloc, 0, &slab, Order::FRAME, some);
            let memalloc = Flags::MEMALLOC;
            story.get(alloc, 0, &slab.flags(memalloc), Order::FRAME, 12);
            story.get(alloc, 1, &kmem.flags(memalloc), order(3), 1);
            story.put(alloc, 1, usize::MAX);
            alloc.drain_all();
            if let Some(block) = alloc.take_emptied() {
                assert_eq!(alloc.free(CpuId(0), block.frame(0), Order::BLOCK), Ok(()));
            }
            alloc.drain_all();
            assert_eq!(alloc.check(), Ok(()));
            assert_eq!(alloc.free_blocks(), u64::from(BLOCKS), "something leaked");
            story
        }
    }

    fn new(spared: u32, count: u32) -> FrameAllocator {
        let alloc = FrameAllocator::new(Config { blocks: BLOCKS, cpus: 2, watermarks: MARKS });
        lock(&alloc.buddy).faults = Faults { looks: 0, spared, count };
        alloc
    }

    #[test]
    fn nothing_leaks_wherever_memory_is_not_found_and_every_failure_is_told() {
        let alloc = new(0, 0);
        let well = Story::run(&alloc);
        let looks = lock(&alloc.buddy).faults.looks;
        assert!(well.failed == 0 && looks > 20, "{} failed, {looks} looks", well.failed);
        let mut told = 0;
        for spared in 0..looks {
            // One look in vain is followed by another, after all lists have been drained.
            assert_eq!(Story::run(&new(spared, 1)).failed, 0, "look {spared}");
            let alloc = new(spared, 2);
            let story = Story::run(&alloc);
            assert_eq!(story.failed, alloc.zone_info().counters.failed, "looks {spared} and the next");
            told += story.failed;
        }
        assert!(told >= u64::from(looks / 2), "{told} of {looks}");
    }
}
