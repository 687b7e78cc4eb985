//! The one thing that a PC's ROM still does for our guests: reset.
//!
//! On hardware-reduced ACPI Linux prefers EFI for a reset, has none, and falls back to the BIOS: it goes
//! to real mode and jumps to the reset vector (`machine_real_restart`, arch/x86/kernel/reboot.c). There
//! these few instructions pull the reset line through the keyboard controller.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::layout;

#[rustfmt::skip]
const RESET: [u8; 7] = [
    0xB0, 0xFE,       // mov al, 0xFE
    0xE6, 0x64,       // out 0x64, al
    0xF4,             // hlt
    0xEB, 0xFD,       // jmp to the hlt
];

const _: () = assert!(layout::I8042_PORT + 4 == RESET[3] as u16);
const _: () = assert!(layout::RESET_VECTOR >= layout::ACPI_END);

/// Writes it.
pub fn write(memory: &GuestMemoryMmap<()>) -> Result<(), GuestMemoryError> {
    memory.write_slice(&RESET, GuestAddress(layout::RESET_VECTOR))
}
