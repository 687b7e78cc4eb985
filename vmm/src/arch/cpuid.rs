//! The words of the guest's CPUs about themselves.
//!
//! KVM tells what it can offer on this host; per CPU we add who it is. The topology is one socket
//! with as many cores as there are CPUs, one thread each, and says so in every leaf that speaks of
//! it: host values left in there would send the guest's scheduler looking for siblings that do not
//! exist.
//!
//! ```text
//! 0x1               APIC id, number of CPUs, hypervisor bit, TSC deadline timer
//! 0x4, 0x8000_001D  caches: who shares them (Intel, AMD)
//! 0x6               power management: nothing of it reaches a guest
//! 0xB, 0x1F         topology by levels: thread, core
//! 0x8000_0008       AMD: cores in the package
//! 0x8000_001E       AMD: core and node
//! ```
//!
//! [`hidden`] says what KVM offers and guests do not get.

mod hidden;

use kvm_bindings::{CpuId, KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use thiserror::Error;

/// The most CPUs of a guest.
pub const MAX_CPUS: u8 = 32;

/// EBX of leaf 0, the start of `AuthenticAMD` and `HygonGenuine`.
const AMD: u32 = u32::from_le_bytes(*b"Auth");
const HYGON: u32 = u32::from_le_bytes(*b"Hygo");

/// Why CPUID cannot be made.
#[derive(Debug, Error)]
pub enum CpuidError {
    /// KVM does not say what it supports.
    #[error("KVM does not tell which CPU features it supports")]
    Supported(#[source] kvm_ioctls::Error),
    /// The list grew too long.
    #[error("the list of CPU features is longer than KVM takes")]
    TooLong,
}

/// What KVM supports here, with what is common to all CPUs of the guest.
#[derive(Clone, Debug)]
pub struct Template {
    entries: Vec<kvm_cpuid_entry2>,
    cpus: u8,
}

impl Template {
    /// Asks KVM. `cpus` is from 1 to [`MAX_CPUS`].
    pub fn new(kvm: &Kvm, cpus: u8) -> Result<Self, CpuidError> {
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(CpuidError::Supported)?;
        let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        let pmu = kvm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into()) > 0;
        Ok(Self::from_entries(supported.as_slice().to_vec(), cpus, tsc_deadline, pmu))
    }

    fn from_entries(mut entries: Vec<kvm_cpuid_entry2>, cpus: u8, tsc_deadline: bool, pmu: bool) -> Self {
        // Leaf 0x1F says the same as 0xB and more of it; a topology of two levels needs no more.
        entries.retain(|e| e.function != 0x1F && e.function != 0xB);
        hidden::hide(&mut entries, pmu);
        let amd = entries.iter().any(|e| e.function == 0 && matches!(e.ebx, AMD | HYGON));
        for e in &mut entries {
            adjust_common(e, cpus, tsc_deadline);
            if amd {
                adjust_amd(e, cpus);
            }
        }
        if entries.iter().any(|e| e.function == 0 && e.eax >= 0xB) {
            entries.push(level(0));
            entries.push(level(1));
        }
        Self { entries, cpus }
    }

    /// CPUID of one CPU.
    pub fn for_cpu(&self, apic_id: u8) -> Result<CpuId, CpuidError> {
        let mut entries = self.entries.clone();
        for e in &mut entries {
            adjust_for_cpu(e, apic_id, self.cpus);
        }
        CpuId::from_entries(&entries).map_err(|_| CpuidError::TooLong)
    }

    /// Bits of a guest physical address.
    pub fn address_bits(&self) -> u8 {
        let leaf = self.entries.iter().find(|e| e.function == 0x8000_0008);
        leaf.map_or(36, |e| (e.eax & 0xFF) as u8)
    }
}

fn level(index: u32) -> kvm_cpuid_entry2 {
    const SIGNIFICANT_INDEX: u32 = 1;
    kvm_cpuid_entry2 { function: 0xB, index, flags: SIGNIFICANT_INDEX, ..Default::default() }
}

/// Bits that an APIC id takes for `cpus` CPUs.
fn id_bits(cpus: u8) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

/// Puts `value` into `width` bits of `register` from bit `shift`.
fn set_bits(register: &mut u32, shift: u32, width: u32, value: u32) {
    let mask = ((1 << width) - 1) << shift;
    *register = *register & !mask | (value << shift) & mask;
}

fn adjust_common(e: &mut kvm_cpuid_entry2, cpus: u8, tsc_deadline: bool) {
    let last_cpu = u32::from(cpus) - 1;
    // In the cache leaves: bits 7:5 are the level; level 3 is everyone's, the others private.
    let sharers = if e.eax >> 5 & 7 >= 3 { last_cpu } else { 0 };
    match e.function {
        0x1 => {
            set_bits(&mut e.ecx, 31, 1, 1);
            set_bits(&mut e.ecx, 24, 1, u32::from(tsc_deadline));
            set_bits(&mut e.ebx, 16, 8, u32::from(cpus).next_power_of_two());
            set_bits(&mut e.edx, 28, 1, u32::from(cpus > 1));
        }
        // EAX 4:0 is the kind of cache; 0 ends the list.
        0x4 if e.eax & 0x1F != 0 => {
            set_bits(&mut e.eax, 14, 12, sharers);
            set_bits(&mut e.eax, 26, 6, last_cpu);
        }
        0x8000_001D if e.eax & 0x1F != 0 => {
            set_bits(&mut e.eax, 14, 12, sharers);
        }
        // Only ARAT: the local APIC timer goes on in every sleep state.
        0x6 => (e.eax, e.ebx, e.ecx, e.edx) = (1 << 2, 0, 0, 0),
        _ => {}
    }
}

fn adjust_amd(e: &mut kvm_cpuid_entry2, cpus: u8) {
    match e.function {
        // CMP_LEGACY: the count in leaf 1 is of cores, not of threads.
        0x8000_0001 => set_bits(&mut e.ecx, 1, 1, u32::from(cpus > 1)),
        0x8000_0008 => {
            set_bits(&mut e.ecx, 0, 8, u32::from(cpus) - 1);
            set_bits(&mut e.ecx, 12, 4, id_bits(cpus));
        }
        _ => {}
    }
}

fn adjust_for_cpu(e: &mut kvm_cpuid_entry2, apic_id: u8, cpus: u8) {
    const LEVEL_THREAD: u32 = 1;
    const LEVEL_CORE: u32 = 2;
    let id = u32::from(apic_id);
    match (e.function, e.index) {
        (0x1, _) => set_bits(&mut e.ebx, 24, 8, id),
        (0xB, 0) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 1, LEVEL_THREAD << 8, id),
        (0xB, index) => {
            let (bits, count) = (id_bits(cpus), u32::from(cpus));
            (e.eax, e.ebx, e.ecx, e.edx) = (bits, count, LEVEL_CORE << 8 | index, id);
        }
        // One thread a core, one node.
        (0x8000_001E, _) => (e.eax, e.ebx, e.ecx, e.edx) = (id, id, 0, 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ..Default::default() }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found = cpuid.as_slice().iter().find(|e| e.function == function && e.index == index);
        *found.unwrap()
    }

    /// All leaves that speak of topology agree, on a host with other ideas.
    #[test]
    fn topology_is_one_socket_of_single_threaded_cores() {
        for cpus in [1u8, 2, 3, 4, 7, 32] {
            let host = vec![
                kvm_cpuid_entry2 { ebx: AMD, ..leaf(0, 0, 0x1F) },
                leaf(1, 0, 0),
                leaf(4, 0, 7 << 26 | 1 << 14 | 1 << 5 | 1),
                leaf(4, 3, 7 << 26 | 7 << 14 | 3 << 5 | 3),
                leaf(0xB, 0, 1),
                leaf(0x1F, 0, 1),
                leaf(0x8000_0008, 0, 46),
                leaf(0x8000_001E, 0, 99),
            ];
            let template = Template::from_entries(host, cpus, true, true);
            assert_eq!(template.address_bits(), 46);
            for id in 0..cpus {
                let cpuid = template.for_cpu(id).unwrap();
                let (id, cpus) = (u32::from(id), u32::from(cpus));
                let one = find(&cpuid, 1, 0);
                assert_eq!(one.ebx >> 24, id);
                assert_eq!(one.ebx >> 16 & 0xFF, cpus.next_power_of_two());
                assert_eq!(one.ecx >> 31 & one.ecx >> 24, 1);
                assert_eq!(one.edx >> 28 & 1, u32::from(cpus > 1));
                assert_eq!(find(&cpuid, 4, 0).eax >> 14, (cpus - 1) << 12);
                assert_eq!(find(&cpuid, 4, 3).eax >> 14, (cpus - 1) << 12 | (cpus - 1));
                let core = find(&cpuid, 0xB, 1);
                assert_eq!((core.ebx, core.edx), (cpus, id));
                assert!(1 << core.eax >= cpus && id >> core.eax == 0);
                assert_eq!(find(&cpuid, 0xB, 0).ebx, 1);
                assert_eq!(find(&cpuid, 0x8000_0008, 0).ecx & 0xFF, cpus - 1);
                assert_eq!(find(&cpuid, 0x8000_001E, 0).eax, id);
                assert!(cpuid.as_slice().iter().all(|e| e.function != 0x1F));
            }
        }
    }
}
