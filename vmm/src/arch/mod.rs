//! An x86-64 PC: its memory map, its tables, the state its CPUs start in, and how a Linux kernel is put into
//! it.
//!
//! ```text
//! layout   where everything lies in guest physical memory
//! kernel   kernel, initrd and command line into guest memory (bzimage, pvh)
//! acpi     the tables that describe the hardware to the guest
//! mptable  the same of CPUs and interrupt lines, for a kernel without ACPI
//! cmdline  words for the kernel that say where the devices are
//! cpuid    what the guest's CPUs say about themselves
//! regs     registers a CPU starts with: 64-bit entry or PVH entry
//! msrs     model specific registers a CPU starts with
//! rom      reset for a kernel that believes in a BIOS
//! lapic    local interrupt controller wiring
//! ```

pub mod acpi;
pub mod bzimage;
pub mod cmdline;
pub mod cpuid;
pub mod kernel;
pub mod lapic;
pub mod layout;
pub mod mptable;
pub mod msrs;
pub mod pvh;
pub mod regs;
pub mod rom;
