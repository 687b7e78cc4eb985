//! The guest's physical memory map.
//!
//! ```text
//! 0x0000_0500  boot GDT                            ┐
//! 0x0000_6000  PVH start info, module, memory map  │ low memory, given to the kernel as usable;
//! 0x0000_7000  zero page (bzImage)                 │ it has copied all of it before it reuses it
//! 0x0000_9000  boot page tables (6 pages)          │
//! 0x0002_0000  command line                        ┘
//! 0x0009_FC00  reserved (legacy BIOS area) … 0x000E_0000 RSDP, 0x000E_1000 ACPI tables,
//!              0x000F_0000 MP table, 0x000F_FFF0 reset vector, 1 MiB
//! 0x0010_0000  kernel, initrd, RAM up to 0xD000_0000 at most
//! 0xD000_0000  virtio-mmio devices, 4 KiB each     ┐
//! 0xFEC0_0000  I/O APIC                            │ the hole
//! 0xFEE0_0000  local APICs                         │
//! 0xFFFB_C000  KVM's identity map page and TSS     ┘
//! 4 GiB        the rest of RAM
//! ```

use memsvc::RegionSpec;
use thiserror::Error;

/// Bytes in a block; regions of RAM are made of whole blocks.
pub const BLOCK: u64 = 2 << 20;
/// The least RAM that a stock kernel starts in, bytes.
pub const MIN_RAM: u64 = 64 << 20;
/// The most RAM that the layout can place, bytes (46 bits of physical address, less the hole).
pub const MAX_RAM: u64 = (1 << 46) - HOLE_LEN;

/// End of RAM below 4 GiB, where the hole starts.
pub const HOLE_START: u64 = 0xD000_0000;
/// Where RAM goes on after the hole.
pub const HOLE_END: u64 = 1 << 32;
const HOLE_LEN: u64 = HOLE_END - HOLE_START;

/// Registers of the first virtio-mmio device.
pub const MMIO_BASE: u64 = 0xD000_0000;
/// Bytes of guest physical address space that a virtio-mmio device takes: a page, which KVM shows.
pub const MMIO_LEN: u64 = 0x1000;
/// Interrupt line of the first virtio-mmio device.
pub const FIRST_GSI: u32 = 5;
/// Interrupt lines that KVM's I/O APIC has.
pub const GSI_COUNT: u32 = 24;
/// How many virtio-mmio devices there are lines for.
pub const MAX_MMIO_DEVICES: u32 = GSI_COUNT - FIRST_GSI;

/// I/O APIC registers (the address KVM gives its own).
pub const IOAPIC_ADDR: u32 = 0xFEC0_0000;
/// Local APIC registers (the architecture's reset value of `IA32_APIC_BASE`).
pub const LAPIC_ADDR: u32 = 0xFEE0_0000;
/// One page that KVM uses on CPUs without unrestricted guest mode.
pub const IDENTITY_MAP_ADDR: u64 = 0xFFFB_C000;
/// Three pages that KVM uses on the same CPUs.
pub const TSS_ADDR: u64 = 0xFFFB_D000;

/// Boot GDT.
pub const GDT_ADDR: u64 = 0x500;
/// PVH: `hvm_start_info`.
pub const PVH_INFO_ADDR: u64 = 0x6000;
/// PVH: the one module, the initrd.
pub const PVH_MODULE_ADDR: u64 = 0x6040;
/// PVH: memory map.
pub const PVH_MEMMAP_ADDR: u64 = 0x6080;
/// The zero page (`struct boot_params`).
pub const ZERO_PAGE_ADDR: u64 = 0x7000;
/// Page tables for the 64-bit entry: PML4, PDPT, four page directories.
pub const PAGE_TABLES_ADDR: u64 = 0x9000;
/// Command line.
pub const CMDLINE_ADDR: u64 = 0x2_0000;
/// Longest command line an x86 kernel takes, without its final zero (`COMMAND_LINE_SIZE` - 1).
pub const CMDLINE_MAX: usize = 2047;
/// Where the legacy BIOS area starts (an EBDA of 1 KiB would be here).
pub const BIOS_START: u64 = 0x9_FC00;
/// RSDP: in the area that a kernel without a boot loader's hint searches.
pub const RSDP_ADDR: u64 = 0xE_0000;
/// ACPI tables other than the RSDP.
pub const ACPI_ADDR: u64 = 0xE_1000;
/// End of the ACPI tables' area.
pub const ACPI_END: u64 = 0xF_0000;
/// MP table: in the BIOS's ROM, which kernels search.
pub const MP_TABLE_ADDR: u64 = 0xF_0000;
/// Where a CPU in real mode starts after a reset: F000:FFF0, in the segment of a PC's ROM.
pub const RESET_VECTOR: u64 = 0xF_FFF0;
/// Start of high memory, where kernels are loaded.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// First serial port.
pub const COM1_PORT: u16 = 0x3F8;
/// First serial port's line.
pub const COM1_GSI: u32 = 4;
/// Second serial port.
pub const COM2_PORT: u16 = 0x2F8;
/// Second serial port's line.
pub const COM2_GSI: u32 = 3;
/// Registers of a serial port.
pub const COM_LEN: u16 = 8;
/// Keyboard controller: data here, status and command 4 above.
pub const I8042_PORT: u16 = 0x60;
/// Span of the keyboard controller's two ports.
pub const I8042_LEN: u16 = 5;
/// Keyboard's line.
pub const I8042_GSI: u32 = 1;
/// Power control: sleep control, sleep status and reset register, a byte each.
pub const PM_PORT: u16 = 0x600;
/// Ports of power control.
pub const PM_LEN: u16 = 3;

/// Why this amount of memory cannot be laid out.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// Not a multiple of a block.
    #[error("guest memory comes in steps of 2 MiB, and {0} bytes is not one; use {below} or {above} MiB", below = .0 / BLOCK * 2, above = (.0 / BLOCK + 1) * 2)]
    NotBlocks(u64),
    /// Too little.
    #[error("{mib} MiB of guest memory is too little for a stock kernel; give it 64 MiB or more", mib = .0 >> 20)]
    TooLittle(u64),
    /// Too much.
    #[error("{mib} MiB of guest memory is more than an address space of 46 bits holds", mib = .0 >> 20)]
    TooMuch(u64),
}

/// Divides `bytes` of RAM around the hole: one region, or two if it reaches beyond.
pub fn ram_regions(bytes: u64) -> Result<Vec<RegionSpec>, LayoutError> {
    if bytes < MIN_RAM {
        return Err(LayoutError::TooLittle(bytes));
    }
    if bytes > MAX_RAM {
        return Err(LayoutError::TooMuch(bytes));
    }
    if !bytes.is_multiple_of(BLOCK) {
        return Err(LayoutError::NotBlocks(bytes));
    }
    let low = bytes.min(HOLE_START);
    let mut regions = vec![RegionSpec { gpa: 0, len: low }];
    if bytes > low {
        regions.push(RegionSpec { gpa: HOLE_END, len: bytes - low });
    }
    Ok(regions)
}

/// Address and line of the virtio-mmio device with this index, or `None` when the lines are used up.
pub fn mmio_device(index: u32) -> Option<MmioSlot> {
    (index < MAX_MMIO_DEVICES)
        .then(|| MmioSlot { addr: MMIO_BASE + u64::from(index) * MMIO_LEN, gsi: FIRST_GSI + index })
}

/// Where one virtio-mmio device sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioSlot {
    /// Guest physical address of its registers, [`MMIO_LEN`] bytes.
    pub addr: u64,
    /// Its interrupt line.
    pub gsi: u32,
}

/// What a range of guest physical memory is, in the numbers of E820 (and of PVH's memory map).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// RAM.
    Usable = 1,
    /// Not for the kernel.
    Reserved = 2,
}

/// One line of the memory map that the kernel gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// The memory map for the kernel: `regions` with the legacy BIOS area (and the ACPI tables in it)
/// taken out.
pub fn memory_map(regions: &[RegionSpec]) -> Vec<MapEntry> {
    let usable = |addr, end: u64| MapEntry { addr, len: end - addr, kind: MemoryKind::Usable };
    let mut map = Vec::with_capacity(4);
    for region in regions {
        let end = region.gpa + region.len;
        if region.gpa == 0 {
            map.push(usable(0, BIOS_START));
            map.push(MapEntry {
                addr: BIOS_START,
                len: HIGH_MEMORY - BIOS_START,
                kind: MemoryKind::Reserved,
            });
            map.push(usable(HIGH_MEMORY, end));
        } else {
            map.push(usable(region.gpa, end));
        }
    }
    map
}

/// End of RAM below 4 GiB.
pub fn low_ram_end(regions: &[RegionSpec]) -> u64 {
    regions.iter().filter(|r| r.gpa < HOLE_START).map(|r| r.gpa + r.len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn regions_hold_all_memory_and_leave_the_hole(blocks in MIN_RAM / BLOCK..=MAX_RAM / BLOCK) {
            let bytes = blocks * BLOCK;
            let regions = ram_regions(bytes).unwrap();
            prop_assert_eq!(regions.iter().map(|r| r.len).sum::<u64>(), bytes);
            for r in &regions {
                prop_assert!(r.gpa % BLOCK == 0 && r.len % BLOCK == 0 && r.len > 0);
                let end = r.gpa + r.len;
                prop_assert!(end <= HOLE_START || r.gpa >= HOLE_END);
                prop_assert!(end <= 1 << 46);
            }
            // The kernel's map covers the same bytes, in order, without overlap.
            let map = memory_map(&regions);
            prop_assert_eq!(map.iter().map(|e| e.len).sum::<u64>(), bytes);
            prop_assert!(map.windows(2).all(|w| w[0].addr + w[0].len <= w[1].addr));
            // Nothing that the tables occupy is given away as usable.
            for e in map.iter().filter(|e| e.kind == MemoryKind::Usable) {
                prop_assert!(e.addr + e.len <= RSDP_ADDR || e.addr > RESET_VECTOR);
            }
        }

        #[test]
        fn odd_sizes_are_refused(bytes in any::<u64>()) {
            let fits = (MIN_RAM..=MAX_RAM).contains(&bytes) && bytes % BLOCK == 0;
            prop_assert_eq!(ram_regions(bytes).is_ok(), fits);
        }
    }

    #[test]
    fn devices_end_with_the_lines() {
        assert_eq!(mmio_device(0), Some(MmioSlot { addr: 0xD000_0000, gsi: 5 }));
        assert_eq!(mmio_device(18).map(|s| s.gsi), Some(23));
        assert_eq!(mmio_device(19), None);
    }
}
