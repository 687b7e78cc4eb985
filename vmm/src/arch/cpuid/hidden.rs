//! Features that KVM offers and guests do not get, because they would not work or are not wanted.
//!
//! | feature | why it is hidden |
//! | --- | --- |
//! | VMX, SVM | virtual machines inside a guest: nobody asked for them, and their code is the host's to defend |
//! | AMX | its registers need a permission that this process never asks for; KVM tells of the feature all the same |
//! | vPMU | only where KVM has none: its counters are not there |

use kvm_bindings::kvm_cpuid_entry2;

/// AMX in leaf 7: BF16, TILE and INT8; then FP16, then COMPLEX.
const AMX_EDX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
const AMX_1_EAX: u32 = 1 << 21;
const AMX_1_EDX: u32 = 1 << 8;
/// Its state components: tile configuration and tile data.
const AMX_STATE: [u32; 2] = [17, 18];
/// State components that have sub-leaves of their own begin behind the legacy region and the header.
const XSAVE_LEAST: u32 = 576;

const VMX: u32 = 1 << 5;
const PERF_CAPABILITIES: u32 = 1 << 15;
const SVM: u32 = 1 << 2;
/// Performance counters of AMD: of the core, of the north bridge, of the last level cache.
const AMD_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;

/// Hides it; `pmu`: KVM has performance counters for guests.
pub(super) fn hide(entries: &mut Vec<kvm_cpuid_entry2>, pmu: bool) {
    entries.retain(|e| match (e.function, e.index) {
        (0xD, index) => !AMX_STATE.contains(&index),
        // Tiles and what multiplies them; features of SVM.
        (0x1D | 0x1E | 0x8000_000A, _) => false,
        // Architectural last branch records and performance counters; those of AMD.
        (0xA | 0x1C | 0x23 | 0x8000_0022, _) => pmu,
        _ => true,
    });
    for e in entries.iter_mut() {
        match (e.function, e.index) {
            (0x1, _) => e.ecx &= !(VMX | if pmu { 0 } else { PERF_CAPABILITIES }),
            (0x7, 0) => e.edx &= !AMX_EDX,
            (0x7, 1) => {
                e.eax &= !AMX_1_EAX;
                e.edx &= !AMX_1_EDX;
            }
            (0x8000_0001, _) => e.ecx &= !(SVM | if pmu { 0 } else { AMD_COUNTERS }),
            _ => {}
        }
    }
    hide_amx_state(entries);
}

/// Takes the tiles out of what XSAVE may save, and out of the room that this takes.
fn hide_amx_state(entries: &mut [kvm_cpuid_entry2]) {
    // EAX and EBX of a component: bytes, and where they are.
    let ends = entries.iter().filter(|e| e.function == 0xD && e.index >= 2).map(|e| e.ebx + e.eax);
    let room = ends.fold(XSAVE_LEAST, u32::max);
    let all = AMX_STATE.iter().fold(0, |bits, component| bits | 1 << component);
    for e in entries.iter_mut().filter(|e| e.function == 0xD && e.index == 0 && e.eax & all != 0) {
        e.eax &= !all;
        e.ecx = room;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    /// Everything that a host may have, all bits set where there are features.
    fn host() -> Vec<kvm_cpuid_entry2> {
        let features = [u32::MAX; 4];
        vec![
            leaf(0x1, 0, features),
            leaf(0x7, 0, features),
            leaf(0x7, 1, features),
            leaf(0xA, 0, [0x0830_0805, 0, 0, 0x603]),
            leaf(0xD, 0, [0x602E7, 11_008, 11_008, 0]),
            leaf(0xD, 1, [0x1F, 0, 0, 0]),
            leaf(0xD, 2, [256, 576, 0, 0]),
            leaf(0xD, 9, [8, 2688, 0, 0]),
            leaf(0xD, 17, [64, 2752, 2, 0]),
            leaf(0xD, 18, [8192, 2816, 6, 0]),
            leaf(0x1C, 0, features),
            leaf(0x1D, 0, [1, 0, 0, 0]),
            leaf(0x1D, 1, features),
            leaf(0x1E, 0, features),
            leaf(0x23, 0, features),
            leaf(0x8000_0001, 0, features),
            leaf(0x8000_000A, 0, features),
            leaf(0x8000_0022, 0, features),
        ]
    }

    fn hidden(pmu: bool) -> Vec<kvm_cpuid_entry2> {
        let mut entries = host();
        hide(&mut entries, pmu);
        entries
    }

    fn registers(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<[u32; 4]> {
        let found = entries.iter().find(|e| e.function == function && e.index == index);
        found.map(|e| [e.eax, e.ebx, e.ecx, e.edx])
    }

    #[test]
    fn guests_have_no_virtualization_and_no_tiles() {
        let entries = hidden(true);
        let left = |function, index| registers(&entries, function, index).expect("leaf");
        assert_eq!(left(1, 0)[2], !(1 << 5), "VMX and nothing else");
        assert_eq!(left(0x8000_0001, 0)[2], !(1 << 2), "SVM and nothing else");
        assert_eq!(left(7, 0)[3], !(1 << 22 | 1 << 24 | 1 << 25));
        assert_eq!([left(7, 1)[0], left(7, 1)[3]], [!(1 << 21), !(1 << 8)]);
        for (function, index) in [(0xD, 17), (0xD, 18), (0x1D, 0), (0x1D, 1), (0x1E, 0), (0x8000_000A, 0)] {
            assert_eq!(registers(&entries, function, index), None, "{function:#x} {index}");
        }
        let [components, _, room, _] = left(0xD, 0);
        assert_eq!((components, room), (0x2E7, 2696), "room for what is left");
    }

    #[test]
    fn performance_counters_are_those_that_kvm_has() {
        let with = hidden(true);
        assert_eq!(registers(&with, 0xA, 0), Some([0x0830_0805, 0, 0, 0x603]));
        let without = hidden(false);
        for function in [0xA, 0x1C, 0x23, 0x8000_0022] {
            assert_eq!(registers(&without, function, 0), None, "{function:#x}");
        }
        let ecx = |function| registers(&without, function, 0).expect("leaf")[2];
        assert_eq!(ecx(1), !(1 << 5 | 1 << 15));
        assert_eq!(ecx(0x8000_0001), !(1 << 2 | 1 << 23 | 1 << 24 | 1 << 28));
    }
}
