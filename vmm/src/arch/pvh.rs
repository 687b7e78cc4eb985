//! The PVH boot protocol (Xen's `docs/misc/pvh.pandoc`, `include/public/arch-x86/hvm/start_info.h`).
//!
//! ```text
//! ELF file:  header, program headers: PT_LOAD… (to p_paddr), PT_NOTE (owner "Xen", type 18: entry)
//! guest:     start info ─▶ memory map, module (initrd), command line, RSDP
//! ```
//! The kernel is not packed, so nothing is copied twice.

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use memsvc::RegionSpec;
use vm_memory::{ByteValued, GuestMemoryMmap};

use super::kernel::{Entry, Image, LoadError, load_initrd, write, write_cmdline};
use super::layout;

/// `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336E_C578;
/// Version 1 has the memory map.
const START_VERSION: u32 = 1;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_ENTRY: u32 = 18;
/// `e_machine` of x86-64.
const EM_X86_64: u16 = 62;
/// Most program headers that a kernel is believed to have.
const MAX_HEADERS: u16 = 64;
/// Most bytes of notes that are looked at.
const MAX_NOTES: u64 = 64 << 10;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// The fields of a program header that matter here.
#[derive(Clone, Copy, Debug)]
struct Segment {
    kind: u32,
    offset: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
}

pub(super) fn load(
    memory: &GuestMemoryMmap<()>,
    regions: &[RegionSpec],
    image: &Image<'_>,
    initrd: Option<&Image<'_>>,
    cmdline: &str,
    rsdp: u64,
) -> Result<Entry, LoadError> {
    let segments = read_segments(image)?;
    let mut entry = None;
    for notes in segments.iter().filter(|s| s.kind == PT_NOTE) {
        entry = entry.or(find_entry(image, notes)?);
    }
    let entry = entry.ok_or_else(|| {
        image.unsupported("it is an ELF file without a PVH note; the kernel needs CONFIG_PVH=y")
    })?;

    let low_end = layout::low_ram_end(regions);
    let mut kernel_end = layout::HIGH_MEMORY;
    for segment in segments.iter().filter(|s| s.kind == PT_LOAD && s.memsz.max(s.filesz) > 0) {
        let end = segment.paddr.saturating_add(segment.memsz.max(segment.filesz));
        if segment.paddr < layout::HIGH_MEMORY {
            return Err(image.unsupported("it loads below 1 MiB; use a stock x86-64 kernel"));
        }
        image.check_fits(end, low_end)?;
        kernel_end = kernel_end.max(end);
    }
    if !(layout::HIGH_MEMORY..kernel_end).contains(&entry) {
        return Err(image.unsupported("its PVH entry lies outside what it loads"));
    }
    for segment in segments.iter().filter(|s| s.kind == PT_LOAD && s.filesz > 0) {
        // What lies between filesz and memsz is zero: guest memory starts as zero.
        image.read_to_guest(memory, segment.paddr, segment.offset, segment.filesz)?;
    }
    write_cmdline(memory, cmdline, layout::CMDLINE_MAX)?;
    let initrd = initrd.map(|initrd| load_initrd(memory, initrd, kernel_end, low_end)).transpose()?;
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry { paddr: initrd.addr, size: initrd.len, ..Default::default() };
        write(memory, layout::PVH_MODULE_ADDR, module.as_slice())?;
    }
    let map = layout::memory_map(regions);
    let entry_len = size_of::<hvm_memmap_table_entry>() as u64;
    for (i, e) in (0u64..).zip(&map) {
        let entry = hvm_memmap_table_entry { addr: e.addr, size: e.len, type_: e.kind as u32, reserved: 0 };
        write(memory, layout::PVH_MEMMAP_ADDR + i * entry_len, entry.as_slice())?;
    }
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: START_VERSION,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { layout::PVH_MODULE_ADDR } else { 0 },
        cmdline_paddr: layout::CMDLINE_ADDR,
        rsdp_paddr: rsdp,
        memmap_paddr: layout::PVH_MEMMAP_ADDR,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    write(memory, layout::PVH_INFO_ADDR, info.as_slice())?;
    Ok(Entry::Pvh(entry))
}

fn read_segments(image: &Image<'_>) -> Result<Vec<Segment>, LoadError> {
    let mut header = [0; 64];
    image.read_at(&mut header, 0)?;
    let (class, order, machine) = (header[4], header[5], u16_at(&header, 18));
    if class != 2 || order != 1 || machine != EM_X86_64 {
        return Err(image.unsupported("it is an ELF file for another machine than x86-64"));
    }
    let (offset, size, count) = (u64_at(&header, 32), u16_at(&header, 54), u16_at(&header, 56));
    if size != 56 || count == 0 || count > MAX_HEADERS {
        return Err(image.unsupported("its ELF program headers make no sense"));
    }
    let mut raw = vec![0; usize::from(count) * 56];
    let end = offset.saturating_add(raw.len() as u64);
    if end > image.len {
        return Err(image.truncated(end));
    }
    image.read_at(&mut raw, offset)?;
    let segments: Vec<_> = raw
        .chunks_exact(56)
        .map(|p| Segment {
            kind: u32_at(p, 0),
            offset: u64_at(p, 8),
            paddr: u64_at(p, 24),
            filesz: u64_at(p, 32),
            memsz: u64_at(p, 40),
        })
        .collect();
    for s in segments.iter().filter(|s| matches!(s.kind, PT_LOAD | PT_NOTE)) {
        let end = s.offset.saturating_add(s.filesz);
        if end > image.len {
            return Err(image.truncated(end));
        }
    }
    Ok(segments)
}

/// Looks for the PVH entry in a segment of notes: name size, descriptor size, type, then name and
/// descriptor, each padded to 4 bytes.
fn find_entry(image: &Image<'_>, notes: &Segment) -> Result<Option<u64>, LoadError> {
    let mut raw = vec![0; notes.filesz.min(MAX_NOTES) as usize];
    image.read_at(&mut raw, notes.offset)?;
    let mut rest = raw.as_slice();
    while rest.len() >= 12 {
        let (name_len, desc_len) = (u32_at(rest, 0) as usize, u32_at(rest, 4) as usize);
        let kind = u32_at(rest, 8);
        let desc_at = 12 + name_len.next_multiple_of(4);
        if kind == NOTE_ENTRY
            && rest.get(12..16) == Some(b"Xen\0")
            && name_len == 4
            && desc_len >= 4
            && rest.len() >= desc_at + 4
        {
            return Ok(Some(u64::from(u32_at(rest, desc_at))));
        }
        match rest.get(desc_at + desc_len.next_multiple_of(4)..) {
            Some(next) => rest = next,
            None => break,
        }
    }
    Ok(None)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// `N` bytes at `at`; zeros where `bytes` ends before (callers have checked lengths).
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|s| s.try_into().ok()).unwrap_or([0; N])
}
