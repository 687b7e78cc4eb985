//! Guest memory as loader and devices see it: vm-memory regions over the mappings that the memory
//! service owns.
#![allow(unsafe_code)] // Regions over mappings that somebody else made; argued below.

use std::sync::Arc;

use memsvc::{Reclaimer, Region};
use thiserror::Error;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionCollectionError, GuestRegionMmap};

use crate::devices::virtio::{GuestRam, RamRegion};

/// Why guest memory cannot be described.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// A mapping is not one.
    #[error("guest RAM at {gpa:#x} is not mapped as expected")]
    Region {
        /// Where the guest sees it.
        gpa: u64,
        /// Why.
        #[source]
        source: MmapRegionError,
    },
    /// A region ends outside the address space.
    #[error("guest RAM at {gpa:#x} does not fit into the address space")]
    Range {
        /// Where the guest sees it.
        gpa: u64,
    },
    /// Regions overlap or are out of order.
    #[error("regions of guest RAM overlap or are out of order")]
    Order(#[source] GuestRegionCollectionError),
}

/// Describes `regions` to vm-memory, for the loader.
///
/// The mappings are not owned by the result: the memory service must outlive it and all its clones.
pub fn guest_memory(regions: &[Region]) -> Result<GuestMemoryMmap<()>, MemoryError> {
    let regions = regions.iter().map(describe).collect::<Result<Vec<_>, _>>()?;
    GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Order)
}

/// As [`guest_memory`], for devices; `reclaimer` for those that free memory.
pub fn guest_ram(regions: &[Region], reclaimer: Option<&Arc<Reclaimer>>) -> Result<GuestRam, MemoryError> {
    let for_devices = |region| Ok(RamRegion::new(describe(region)?, reclaimer.cloned()));
    let regions = regions.iter().map(for_devices).collect::<Result<Vec<_>, _>>()?;
    GuestRam::from_regions(regions).map_err(MemoryError::Order)
}

fn describe(region: &Region) -> Result<GuestRegionMmap<()>, MemoryError> {
    let gpa = region.spec.gpa;
    let builder = MmapRegionBuilder::new(region.spec.len as usize)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: the memory service mapped `len` bytes at `host`, readable and writable, and
    // keeps that range mapped as long as it lives (pages behind it come and go, which a
    // touch does not notice). Whoever assembles the machine drops the service last. Access
    // goes through volatile reads and writes only, as the guest shares the memory.
    let builder = unsafe { builder.with_raw_mmap_pointer(region.host as *mut u8) };
    let mapping = builder.build().map_err(|source| MemoryError::Region { gpa, source })?;
    GuestRegionMmap::new(mapping, GuestAddress(gpa)).ok_or(MemoryError::Range { gpa })
}
