//! ACPI tables: what the guest knows of the hardware (ACPI 6.5).
//!
//! ```text
//! RSDP ─▶ XSDT ─┬▶ FADT ─▶ DSDT: COM ports, keyboard controller, virtio-mmio devices, \_S5
//!               └▶ MADT: local APICs, I/O APIC
//! ```
//! The platform is hardware-reduced: no PM timer, no SCI, no legacy interrupt controller or timer to
//! calibrate against. Sleep and reset are byte ports ([`layout::PM_PORT`]).

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout::{self, MmioSlot};

const OEM_ID: [u8; 6] = *b"AEROST";
const OEM_TABLE_ID: [u8; 8] = *b"AEROSTAT";
const OEM_REVISION: u32 = 1;

/// Sleep type of S5, soft off: what `\_S5` says and the guest writes to sleep control.
pub const SLEEP_TYPE_S5: u8 = 5;
/// What the guest writes to the reset register.
pub const RESET_VALUE: u8 = 1;
/// Offset of sleep control from [`layout::PM_PORT`].
pub const SLEEP_CONTROL: u16 = 0;
/// Offset of sleep status.
pub const SLEEP_STATUS: u16 = 1;
/// Offset of the reset register.
pub const RESET: u16 = 2;

/// `IAPC_BOOT_ARCH`: there is an 8042.
const BOOT_ARCH_8042: u16 = 1 << 1;
/// `IAPC_BOOT_ARCH`: there is no VGA.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// `IAPC_BOOT_ARCH`: there is no CMOS clock.
const BOOT_ARCH_NO_CMOS: u16 = 1 << 5;

/// What the tables describe.
#[derive(Clone, Debug, Default)]
pub struct Hardware<'a> {
    /// Number of CPUs; APIC ids count from 0.
    pub cpus: u8,
    /// Whether there is a second serial port.
    pub com2: bool,
    /// The virtio-mmio devices, in the order of their numbers.
    pub devices: &'a [MmioSlot],
}

/// Why tables cannot be written.
#[derive(Debug, Error)]
pub enum AcpiError {
    /// They outgrew their area.
    #[error("the ACPI tables need {0} bytes, more than their area holds; attach fewer devices")]
    TooBig(u64),
    /// The layout and guest memory disagree.
    #[error("cannot write the ACPI tables to guest memory")]
    Write(#[source] vm_memory::GuestMemoryError),
}

/// Writes all tables and returns the address of the RSDP.
pub fn write_tables(memory: &GuestMemoryMmap<()>, hardware: &Hardware<'_>) -> Result<u64, AcpiError> {
    let mut area = Area { memory, next: layout::ACPI_ADDR };
    let dsdt = area.place(&dsdt(hardware))?;
    let fadt = area.place(&fadt(dsdt))?;
    let madt = area.place(&madt(hardware.cpus))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = area.place(&xsdt)?;
    memory
        .write_slice(&bytes(&Rsdp::new(OEM_ID, xsdt)), GuestAddress(layout::RSDP_ADDR))
        .map_err(AcpiError::Write)?;
    Ok(layout::RSDP_ADDR)
}

/// The area of the tables, filled from its start.
struct Area<'a> {
    memory: &'a GuestMemoryMmap<()>,
    next: u64,
}

impl Area<'_> {
    fn place(&mut self, table: &dyn Aml) -> Result<u64, AcpiError> {
        let bytes = bytes(table);
        let addr = self.next;
        let end = addr + bytes.len() as u64;
        if end > layout::ACPI_END {
            return Err(AcpiError::TooBig(end - layout::ACPI_ADDR));
        }
        self.memory.write_slice(&bytes, GuestAddress(addr)).map_err(AcpiError::Write)?;
        self.next = end.next_multiple_of(64);
        Ok(addr)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn pm_register(offset: u16) -> GAS {
    let port = u64::from(layout::PM_PORT + offset);
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        // The power and sleep buttons are not fixed hardware (and are not there).
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (BOOT_ARCH_8042 | BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_CMOS).into();
    fadt.reset_reg = pm_register(RESET);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = pm_register(SLEEP_CONTROL);
    fadt.sleep_status_reg = pm_register(SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"AEROSTAT").into();
    fadt.finalize()
}

fn madt(cpus: u8) -> impl Aml {
    let lapic = LocalInterruptController::Address(layout::LAPIC_ADDR);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, lapic);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC_ADDR, 0));
    madt
}

fn dsdt(hardware: &Hardware<'_>) -> impl Aml {
    let mut body = Vec::new();
    serial(layout::COM1_PORT, layout::COM1_GSI, 0, &mut body);
    if hardware.com2 {
        serial(layout::COM2_PORT, layout::COM2_GSI, 1, &mut body);
    }
    keyboard(&mut body);
    for (number, slot) in (0u32..).zip(hardware.devices) {
        virtio_mmio(number, slot, &mut body);
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&Scope::raw(Path::new("_SB_"), body));
    let s5 = Package::new(vec![&SLEEP_TYPE_S5, &0u8, &0u8, &0u8]);
    dsdt.append_slice(&bytes(&Name::new(Path::new("_S5_"), &s5)));
    dsdt
}

/// A 16550. With its interrupt here, the driver need not probe for it.
fn serial(port: u16, gsi: u32, number: u8, sink: &mut dyn AmlSink) {
    let io = IO::new(port, port, 0, layout::COM_LEN as u8);
    let irq = Interrupt::new(true, true, false, false, gsi);
    Device::new(
        Path::new(&format!("COM{}", number + 1)),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &number),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&io, &irq])),
        ],
    )
    .to_aml_bytes(sink);
}

/// The keyboard controller, without a mouse.
fn keyboard(sink: &mut dyn AmlSink) {
    let data = IO::new(layout::I8042_PORT, layout::I8042_PORT, 0, 1);
    let command = IO::new(layout::I8042_PORT + 4, layout::I8042_PORT + 4, 0, 1);
    let irq = Interrupt::new(true, true, false, false, layout::I8042_GSI);
    Device::new(
        Path::new("PS2K"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0303")),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&data, &command, &irq])),
        ],
    )
    .to_aml_bytes(sink);
}

/// A virtio-mmio device; `LNRO0005` is the id that Linux's virtio_mmio driver asks for.
fn virtio_mmio(number: u32, slot: &MmioSlot, sink: &mut dyn AmlSink) {
    let registers = Memory32Fixed::new(true, slot.addr as u32, layout::MMIO_LEN as u32);
    let irq = Interrupt::new(true, true, false, false, slot.gsi);
    Device::new(
        Path::new(&format!("VM{number:02}")),
        vec![
            &Name::new(Path::new("_HID"), &"LNRO0005"),
            &Name::new(Path::new("_UID"), &number),
            &Name::new(Path::new("_CCA"), &1u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&registers, &irq])),
        ],
    )
    .to_aml_bytes(sink);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory() -> GuestMemoryMmap<()> {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
    }

    fn read(memory: &GuestMemoryMmap<()>, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    fn number(bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |s, b| s.wrapping_add(*b))
    }

    /// Reads the table at `addr` by the length in its header and checks signature and checksum.
    fn table(memory: &GuestMemoryMmap<()>, addr: u64, signature: &[u8; 4]) -> Vec<u8> {
        let len = number(&read(memory, addr + 4, 4)) as usize;
        let bytes = read(memory, addr, len);
        assert_eq!(&bytes[..4], signature);
        assert_eq!(sum(&bytes), 0, "checksum of {}", String::from_utf8_lossy(signature));
        bytes
    }

    proptest! {
        /// Follows the pointers as a kernel does.
        #[test]
        fn every_table_is_found_and_sums_up(cpus in 1u8..=32, devices in 0u32..=19, com2: bool) {
            let memory = memory();
            let slots: Vec<_> = (0..devices).filter_map(layout::mmio_device).collect();
            let rsdp = write_tables(&memory, &Hardware { cpus, com2, devices: &slots }).unwrap();
            let rsdp = read(&memory, rsdp, 36);
            prop_assert_eq!(&rsdp[..8], b"RSD PTR ");
            prop_assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
            let xsdt = table(&memory, number(&rsdp[24..32]), b"XSDT");
            let fadt = table(&memory, number(&xsdt[36..44]), b"FACP");
            let madt = table(&memory, number(&xsdt[44..52]), b"APIC");
            let dsdt = table(&memory, number(&fadt[140..148]), b"DSDT");
            prop_assert_eq!(madt.len(), 44 + 8 * usize::from(cpus) + 12);
            let ids = dsdt.windows(9).filter(|w| w == b"\x0dLNRO0005").count();
            prop_assert_eq!(ids, devices as usize);
            let ports = dsdt.windows(4).filter(|w| w == b"\x41\xD0\x05\x01").count();
            prop_assert_eq!(ports, 1 + usize::from(com2));
        }
    }

    /// Offsets of ACPI 6.5, table 5.9: a mistake here shows only when a guest powers off.
    #[test]
    fn the_fadt_names_the_power_ports() {
        let fadt = bytes(&fadt(0xE_1000));
        let gas = |at: usize| (fadt[at], fadt[at + 1], number(&fadt[at + 4..at + 12]));
        assert_eq!(fadt.len(), 276);
        assert_eq!(gas(116), (1, 8, 0x602));
        assert_eq!(gas(244), (1, 8, 0x600));
        assert_eq!(gas(256), (1, 8, 0x601));
        assert_eq!(fadt[128], RESET_VALUE);
        assert_ne!(number(&fadt[112..116]) & (1 << 20), 0);
    }
}
