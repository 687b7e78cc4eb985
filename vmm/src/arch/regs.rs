//! The registers that the first CPU starts with. Other CPUs wait for the guest to start them.
//!
//! ```text
//! 64-bit entry   long mode, first 4 GiB mapped one to one in 2 MiB pages, RSI = zero page
//! PVH entry      protected mode, paging off, flat segments, EBX = start info
//! ```

use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::kernel::Entry;
use super::layout;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS bit 1 is always one.
const RFLAGS_RESERVED: u64 = 2;
/// Page table entry: present, writable.
const PTE_TABLE: u64 = 3;
/// Page directory entry: present, writable, 2 MiB page.
const PDE_PAGE: u64 = 0x83;

/// Selectors of the 64-bit boot protocol: `__BOOT_CS` and `__BOOT_DS`; the task register's is free.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

/// Why a CPU's first registers cannot be set.
#[derive(Debug, Error)]
pub enum RegsError {
    /// KVM refused.
    #[error("cannot set the first CPU's registers")]
    Kvm(#[source] kvm_ioctls::Error),
    /// The layout and guest memory disagree.
    #[error("cannot write the boot GDT and page tables to guest memory")]
    Write(#[source] vm_memory::GuestMemoryError),
}

/// Prepares the first CPU to enter the kernel.
pub fn set_boot_cpu(vcpu: &VcpuFd, memory: &GuestMemoryMmap<()>, entry: Entry) -> Result<(), RegsError> {
    write_gdt(memory, entry).map_err(RegsError::Write)?;
    let mut sregs = vcpu.get_sregs().map_err(RegsError::Kvm)?;
    let mut regs = kvm_regs { rflags: RFLAGS_RESERVED, ..Default::default() };
    match entry {
        Entry::Linux64(rip) => {
            write_page_tables(memory).map_err(RegsError::Write)?;
            set_long_mode(&mut sregs, layout::PAGE_TABLES_ADDR);
            regs.rip = rip;
            regs.rsi = layout::ZERO_PAGE_ADDR;
        }
        Entry::Pvh(rip) => {
            set_protected_mode(&mut sregs);
            regs.rip = rip;
            regs.rbx = layout::PVH_INFO_ADDR;
        }
    }
    sregs.gdt.base = layout::GDT_ADDR;
    sregs.gdt.limit = (GDT_LEN * 8 - 1) as u16;
    vcpu.set_sregs(&sregs).map_err(RegsError::Kvm)?;
    vcpu.set_regs(&regs).map_err(RegsError::Kvm)?;
    // The x87 control word and MXCSR as after FNINIT and reset.
    let fpu = kvm_fpu { fcw: 0x37F, mxcsr: 0x1F80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(RegsError::Kvm)
}

/// Long mode with the page tables at `cr3`.
pub(crate) fn set_long_mode(sregs: &mut kvm_sregs, cr3: u64) {
    set_segments(sregs, true);
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = cr3;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

fn set_protected_mode(sregs: &mut kvm_sregs) {
    set_segments(sregs, false);
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

fn set_segments(sregs: &mut kvm_sregs, long: bool) {
    sregs.cs = code_segment(long);
    let data = data_segment();
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: 0,
        limit: 0x67,
        selector: TASK_SELECTOR,
        type_: 11, // busy 32/64-bit TSS
        present: 1,
        ..Default::default()
    };
}

fn code_segment(long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector: CODE_SELECTOR,
        type_: 11, // execute, read, accessed
        present: 1,
        s: 1,
        g: 1,
        l: u8::from(long),
        db: u8::from(!long),
        ..Default::default()
    }
}

fn data_segment() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector: DATA_SELECTOR,
        type_: 3, // read, write, accessed
        present: 1,
        s: 1,
        g: 1,
        db: 1,
        ..Default::default()
    }
}

/// Entries in the GDT: two unused, code, data, task (two slots in long mode).
const GDT_LEN: usize = 6;

fn write_gdt(memory: &GuestMemoryMmap<()>, entry: Entry) -> Result<(), vm_memory::GuestMemoryError> {
    let code = match entry {
        Entry::Linux64(_) => 0x00AF_9B00_0000_FFFF_u64,
        Entry::Pvh(_) => 0x00CF_9B00_0000_FFFF,
    };
    let gdt: [u64; GDT_LEN] = [0, 0, code, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067, 0];
    for (i, descriptor) in (0u64..).zip(gdt) {
        memory.write_obj(descriptor, GuestAddress(layout::GDT_ADDR + i * 8))?;
    }
    Ok(())
}

/// PML4, PDPT and four page directories in a row: the first 4 GiB, one to one.
fn write_page_tables(memory: &GuestMemoryMmap<()>) -> Result<(), vm_memory::GuestMemoryError> {
    const PAGE: u64 = 4096;
    const DIRECTORIES: u64 = 4;
    let pml4 = layout::PAGE_TABLES_ADDR;
    let pdpt = pml4 + PAGE;
    memory.write_obj((pdpt | PTE_TABLE).to_le(), GuestAddress(pml4))?;
    for gib in 0..DIRECTORIES {
        let directory = pdpt + PAGE * (gib + 1);
        memory.write_obj((directory | PTE_TABLE).to_le(), GuestAddress(pdpt + gib * 8))?;
        let mut entries = [0u8; PAGE as usize];
        for (i, entry) in (0u64..).zip(entries.chunks_exact_mut(8)) {
            let addr = gib << 30 | i << 21;
            entry.copy_from_slice(&(addr | PDE_PAGE).to_le_bytes());
        }
        memory.write_slice(&entries, GuestAddress(directory))?;
    }
    Ok(())
}
