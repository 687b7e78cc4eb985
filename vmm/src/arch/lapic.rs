//! Local APIC wiring at reset, as firmware leaves it: LINT0 takes the legacy controller's
//! interrupts (ExtINT), LINT1 the NMI (Intel SDM volume 3, 11.5.1).

use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::VcpuFd;

/// Register offsets.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivery modes, bits 8 to 10 of a local vector table entry.
const MODE_MASK: u32 = 0x700;
const MODE_NMI: u32 = 0x400;
const MODE_EXTINT: u32 = 0x700;

/// Sets both lines of this CPU's local APIC.
pub fn set_lint(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut lapic = vcpu.get_lapic()?;
    set_mode(&mut lapic, LVT_LINT0, MODE_EXTINT);
    set_mode(&mut lapic, LVT_LINT1, MODE_NMI);
    vcpu.set_lapic(&lapic)
}

fn set_mode(lapic: &mut kvm_lapic_state, at: usize, mode: u32) {
    let Some(bytes) = lapic.regs.get_mut(at..at + 4) else {
        return;
    };
    let mut value = 0;
    for (i, b) in bytes.iter().enumerate() {
        value |= u32::from(*b as u8) << (8 * i);
    }
    value = value & !MODE_MASK | mode;
    for (b, new) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *b = new as _;
    }
}
