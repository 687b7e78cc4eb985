//! Guest RAM as devices see it. Devices that free memory for others announce their touches ([`Reclaimer`]),
//! in the device, its queues or a library: all accesses come through [`RamRegion::get_slice`].

use std::sync::Arc;

use memsvc::Reclaimer;
use vm_memory::bitmap::BS;
use vm_memory::{
    GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes, GuestRegionCollection,
    GuestRegionMmap, GuestUsize, MemoryRegionAddress, VolatileSlice,
};

/// Guest RAM; cloning is cheap and shares the mapping.
pub type GuestRam = GuestRegionCollection<RamRegion>;

/// One region of it.
#[derive(Debug)]
pub struct RamRegion {
    region: GuestRegionMmap<()>,
    reclaimer: Option<Arc<Reclaimer>>,
}

impl RamRegion {
    /// A region for devices; for one that frees memory, `reclaimer` is told what is touched.
    pub fn new(region: GuestRegionMmap<()>, reclaimer: Option<Arc<Reclaimer>>) -> Self {
        Self { region, reclaimer }
    }
}

impl GuestMemoryRegion for RamRegion {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.region.len()
    }

    fn start_addr(&self) -> GuestAddress {
        self.region.start_addr()
    }

    fn bitmap(&self) -> BS<'_, ()> {}

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, ()>>, GuestMemoryError> {
        let slice = self.region.get_slice(offset, count)?;
        if let Some(reclaimer) = &self.reclaimer {
            reclaimer.announce(slice.ptr_guard().as_ptr() as usize, slice.len());
        }
        Ok(slice)
    }
}

impl GuestMemoryRegionBytes for RamRegion {}
