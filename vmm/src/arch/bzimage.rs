//! Linux's 64-bit boot protocol (`Documentation/arch/x86/boot.rst`).
//!
//! ```text
//! file:   [boot sector][setup_sects × 512: real mode code, header at 0x1F1][protected mode kernel]
//! guest:  zero page (header + memory map), kernel at 1 MiB, entry at kernel + 0x200
//! ```
//! The kernel unpacks itself to its preferred address, or elsewhere if it randomizes.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use memsvc::RegionSpec;
use vm_memory::{ByteValued, GuestMemoryMmap};

use super::kernel::{Entry, Image, LoadError, load_initrd, write, write_cmdline};
use super::layout;

/// Where the setup header starts in the file and in the zero page.
const HEADER_OFFSET: u64 = 0x1F1;
/// `HdrS`.
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Protocol 2.12: the first with `xloadflags`.
const MIN_VERSION: u16 = 0x020C;
/// `loadflags`: the kernel is loaded high.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry at 0x200.
const XLF_KERNEL_64: u16 = 1;
/// `type_of_loader`: a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xFF;
/// Offset of the 64-bit entry in the protected mode kernel.
const ENTRY_64: u64 = 0x200;

const _: () = assert!(size_of::<boot_params>() == 4096);

pub(super) fn load(
    memory: &GuestMemoryMmap<()>,
    regions: &[RegionSpec],
    image: &Image<'_>,
    initrd: Option<&Image<'_>>,
    cmdline: &str,
    rsdp: u64,
) -> Result<Entry, LoadError> {
    let header = read_header(image)?;
    let setup_sects = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let setup_len = (setup_sects + 1) * 512;
    let need = setup_len + u64::from(header.syssize) * 16;
    if image.len < need || image.len <= setup_len {
        return Err(image.truncated(need.max(setup_len + 1)));
    }

    let low_end = layout::low_ram_end(regions);
    let kernel_len = image.len - setup_len;
    let loaded_end = layout::HIGH_MEMORY + kernel_len;
    let unpacked_end = header.pref_address.saturating_add(u64::from(header.init_size)).max(loaded_end);
    image.check_fits(unpacked_end, low_end)?;
    image.read_to_guest(memory, layout::HIGH_MEMORY, setup_len, kernel_len)?;

    let cmdline_max = (header.cmdline_size as usize).min(layout::CMDLINE_MAX);
    write_cmdline(memory, cmdline, cmdline_max)?;

    let mut params = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.code32_start = layout::HIGH_MEMORY as u32;
    params.hdr.cmd_line_ptr = layout::CMDLINE_ADDR as u32;
    if let Some(initrd) = initrd {
        let limit = low_end.min(u64::from(header.initrd_addr_max) + 1);
        let initrd = load_initrd(memory, initrd, unpacked_end, limit)?;
        params.hdr.ramdisk_image = initrd.addr as u32;
        params.hdr.ramdisk_size = initrd.len as u32;
    }
    let map = layout::memory_map(regions);
    params.e820_entries = map.len() as u8;
    let mut table = params.e820_table;
    for (slot, entry) in table.iter_mut().zip(map) {
        *slot = boot_e820_entry { addr: entry.addr, size: entry.len, r#type: entry.kind as u32 };
    }
    params.e820_table = table;
    write(memory, layout::ZERO_PAGE_ADDR, params.as_slice())?;
    Ok(Entry::Linux64(layout::HIGH_MEMORY + ENTRY_64))
}

fn read_header(image: &Image<'_>) -> Result<setup_header, LoadError> {
    let mut raw = RawHeader([0; size_of::<setup_header>()]);
    if image.len < HEADER_OFFSET + raw.0.len() as u64 {
        return Err(image.not_a_kernel());
    }
    image.read_at(&mut raw.0, HEADER_OFFSET)?;
    // The byte after the jump's opcode says where the header ends; what lies behind is code.
    let header_end = 0x202 + usize::from(raw.0[0x201 - HEADER_OFFSET as usize]);
    let valid = header_end.saturating_sub(HEADER_OFFSET as usize).min(raw.0.len());
    raw.0[valid..].fill(0);
    let header = raw.parse();

    if header.header != HEADER_MAGIC {
        return Err(image.not_a_kernel());
    }
    if header.version < MIN_VERSION {
        return Err(image.unsupported("its boot protocol is older than 2.12 (Linux 3.8)"));
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(image.unsupported("it is a zImage that loads below 1 MiB"));
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(image.unsupported("it has no 64-bit entry; use an x86-64 kernel"));
    }
    Ok(header)
}

/// The header's bytes as they are in the file.
struct RawHeader([u8; size_of::<setup_header>()]);

impl RawHeader {
    fn parse(&self) -> setup_header {
        let mut header = setup_header::default();
        // `setup_header` is `ByteValued` (packed integers only), so any bytes are a valid value.
        header.as_mut_slice().copy_from_slice(&self.0);
        header
    }
}
