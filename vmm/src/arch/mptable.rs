//! The MP table: CPUs and interrupt lines, for a kernel that does not read ACPI (MultiProcessor Specification 1.4).
//!
//! ```text
//! floating pointer "_MP_" ─▶ table "PCMP": CPUs, ISA bus, I/O APIC, the line of each of its pins, LINT0 and LINT1
//! ```
//! It says what the ACPI tables say: APIC ids count from 0, and a line is the pin of its number, edge-triggered and
//! active high, which is what an ISA bus has where a line says nothing of its own.

use vm_memory::GuestMemoryMmap;

use super::kernel::{self, LoadError};
use super::layout;

/// Entries in the table: what they are, and how long. A CPU's is the only one of another length.
const CPU: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const LINE: u8 = 3;
const LOCAL_LINE: u8 = 4;

/// Bytes of the floating pointer.
const POINTER: usize = 16;
/// Bytes of the table before its entries.
const HEADER: usize = 44;
/// Version of the specification.
const VERSION: u8 = 4;
/// Version of the local APICs: integrated, xAPIC.
const LAPIC_VERSION: u8 = 0x14;
/// Version of KVM's I/O APIC.
const IO_APIC_VERSION: u8 = 0x11;
/// A CPU, or an I/O APIC, may be used.
const ENABLED: u8 = 1;
/// The CPU that boots.
const BOOTS: u8 = 2;
/// Feature bits of a CPU: FPU and APIC. Kernels ask the CPU itself.
const FEATURES: u32 = 1 | 1 << 9;
/// Kinds of interrupts: vectored, non-maskable, from an 8259.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
/// All local APICs.
const ALL: u8 = 0xFF;

/// Writes the table for so many CPUs.
///
/// # Errors
/// The layout and guest memory disagree.
pub fn write(memory: &GuestMemoryMmap<()>, cpus: u8) -> Result<(), LoadError> {
    let table_addr = layout::MP_TABLE_ADDR + POINTER as u64;
    kernel::write(memory, layout::MP_TABLE_ADDR, &pointer(table_addr))?;
    kernel::write(memory, table_addr, &table(cpus))
}

fn pointer(table: u64) -> [u8; POINTER] {
    let mut pointer = [0; POINTER];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(table as u32).to_le_bytes());
    // Its own length in paragraphs of 16 bytes.
    (pointer[8], pointer[9]) = (1, VERSION);
    pointer[10] = checksum(&pointer);
    pointer
}

fn table(cpus: u8) -> Vec<u8> {
    // The first number that is no CPU's.
    let io_apic = cpus;
    let mut table = vec![0; HEADER];
    let mut count = 0u16;
    let mut add = |entry: &[u8]| {
        table.extend_from_slice(entry);
        count += 1;
    };
    for cpu in 0..cpus {
        let flags = ENABLED | if cpu == 0 { BOOTS } else { 0 };
        let mut entry = [0; 20];
        entry[..4].copy_from_slice(&[CPU, cpu, LAPIC_VERSION, flags]);
        entry[8..12].copy_from_slice(&FEATURES.to_le_bytes());
        add(&entry);
    }
    add(&[BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a0, a1, a2, a3] = layout::IOAPIC_ADDR.to_le_bytes();
    add(&[IO_APIC, io_apic, IO_APIC_VERSION, ENABLED, a0, a1, a2, a3]);
    for line in 0..layout::GSI_COUNT as u8 {
        add(&[LINE, INT, 0, 0, 0, line, io_apic, line]);
    }
    add(&[LOCAL_LINE, EXT_INT, 0, 0, 0, 0, 0, 0]);
    add(&[LOCAL_LINE, NMI, 0, 0, 0, 0, ALL, 1]);

    let len = table.len() as u16;
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(room) = table.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
    };
    put(0, b"PCMP");
    put(4, &len.to_le_bytes());
    put(6, &[VERSION]);
    put(8, b"AEROST  AEROSTAT    ");
    put(34, &count.to_le_bytes());
    put(36, &layout::LAPIC_ADDR.to_le_bytes());
    let checksum = checksum(&table);
    if let Some(byte) = table.get_mut(7) {
        *byte = checksum;
    }
    table
}

/// The byte that makes the sum of all zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    /// Reads the table as a kernel does: searches for its pointer, and goes through its entries by their lengths.
    fn entries(cpus: u8) -> Vec<Vec<u8>> {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory");
        write(&memory, cpus).expect("written");
        let read = |addr: u64, len: usize| {
            let mut bytes = vec![0; len];
            memory.read_slice(&mut bytes, GuestAddress(addr)).expect("in memory");
            bytes
        };
        // The BIOS's ROM, in steps of 16 bytes.
        let found = (0xF_0000..0x10_0000).step_by(16).find(|at| read(*at, 4) == b"_MP_").expect("a pointer");
        let pointer = read(found, 16);
        assert_eq!(checksum(&pointer), 0);
        assert_eq!(pointer[11..], [0; 5], "no default configuration, no IMCR");
        let at = u64::from(u32::from_le_bytes(pointer[4..8].try_into().expect("4 bytes")));
        let header = read(at, HEADER);
        let len = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let table = read(at, len);
        assert_eq!((&table[..4], checksum(&table)), (&b"PCMP"[..], 0));
        assert_eq!(table[36..40], 0xFEE0_0000u32.to_le_bytes(), "local APICs");
        assert!(at + len as u64 <= layout::RESET_VECTOR, "it leaves the reset vector");
        let mut rest = &table[HEADER..];
        let mut entries = Vec::new();
        while let Some(&kind) = rest.first() {
            let (entry, later) = rest.split_at(if kind == CPU { 20 } else { 8 });
            entries.push(entry.to_vec());
            rest = later;
        }
        assert_eq!(entries.len(), usize::from(u16::from_le_bytes([table[34], table[35]])));
        entries
    }

    #[test]
    fn it_names_all_cpus_and_the_first_boots() {
        for cpus in [1, 2, 32] {
            let entries = entries(cpus);
            let found: Vec<_> = entries.iter().filter(|entry| entry[0] == CPU).collect();
            assert_eq!(found.len(), usize::from(cpus));
            for (id, cpu) in found.iter().enumerate() {
                assert_eq!((usize::from(cpu[1]), cpu[3]), (id, if id == 0 { 3 } else { 1 }));
            }
        }
    }

    /// The same numbers as in the ACPI tables, or a kernel without ACPI waits for another line.
    #[test]
    fn every_line_is_the_pin_of_its_number_on_an_isa_bus() {
        let entries = entries(2);
        let of = |kind: u8| -> Vec<&[u8]> {
            entries.iter().filter(|entry| entry[0] == kind).map(Vec::as_slice).collect()
        };
        assert_eq!(of(BUS), [b"\x01\0ISA   "]);
        assert_eq!(of(IO_APIC), [[2, 2, 0x11, 1, 0, 0, 0xC0, 0xFE]], "an id that no CPU has");
        let lines: Vec<_> = (0..24).map(|line| [3, 0, 0, 0, 0, line, 2, line]).collect();
        assert_eq!(of(LINE), lines, "edge-triggered, active high");
        assert_eq!(of(LOCAL_LINE), [[4, 3, 0, 0, 0, 0, 0, 0], [4, 1, 0, 0, 0, 0, 0xFF, 1]]);
    }
}
