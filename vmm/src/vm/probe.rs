//! The probe guest, of one page, which tells one KVM from another.
//!
//! On some hosts `/dev/kvm` opens and runs small guests, but is not backed by hardware: it emulates
//! the guest's kernel code and stops at the first `lock cmpxchg16b`, which every stock kernel
//! executes. So a guest executes one, in long mode, and says what came of it.
//!
//! ```text
//! 0x1000 PML4 ─▶ 0x2000 PDPT ─▶ 0x3000 directory: one 2 MiB page at 0
//! 0x4000 code, 0x4800 sixteen bytes to exchange
//! ```
#![allow(unsafe_code)] // A memory slot over a mapping made here.

use std::time::{Duration, Instant};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use memsvc::{Region, RegionSpec};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::kvm::{self, KvmError, Vm};
use super::vcpu::describe_internal_error;
use crate::arch::regs::set_long_mode;

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x4000;
const DATA: u64 = 0x4800;
const RAM: usize = 0x10000;
/// Where the guest says its result.
const PORT: u16 = 0xF4;
/// What the exchange is to store.
const TOKEN: u8 = 0x5A;

/// What the probe guest found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stock kernels run here.
    RunsStockKernels,
    /// They do not; the sentence says why.
    DoesNot(String),
}

/// The guest.
#[rustfmt::skip]
const PROGRAM: &[u8] = &[
    0xBF, DATA as u8, (DATA >> 8) as u8, 0, 0,  // mov edi, DATA
    0x31, 0xC0,                                 // xor eax, eax    expected: zeros
    0x31, 0xD2,                                 // xor edx, edx
    0xBB, TOKEN, 0, 0, 0,                       // mov ebx, TOKEN  new value
    0x31, 0xC9,                                 // xor ecx, ecx
    0xF0, 0x48, 0x0F, 0xC7, 0x0F,               // lock cmpxchg16b [rdi]
    0x8A, 0x07,                                 // mov al, [rdi]
    0xE6, PORT as u8,                           // out PORT, al
    0xF4,                                       // hlt
];

/// Runs the probe guest. Errors are those of a KVM that is not there at all.
pub fn probe() -> Result<Verdict, KvmError> {
    let kvm = kvm::open()?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM)])
        .map_err(|_| KvmError::Capability("map memory for a probe guest"))?;
    write_guest(&memory).map_err(|_| KvmError::Capability("write to a probe guest"))?;
    let host = memory
        .get_host_address(GuestAddress(0))
        .map_err(|_| KvmError::Capability("map memory for a probe guest"))?;
    let mut vm = Vm::new(&kvm)?;
    let spec = RegionSpec { gpa: 0, len: RAM as u64 };
    vm.set_memory(&[Region { spec, host: host as usize }], 36)?;
    let mut vcpu = vm.fd().create_vcpu(0).map_err(KvmError::step("create a CPU"))?;
    let cpuid =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(KvmError::step("tell its CPU features"))?;
    vcpu.set_cpuid2(&cpuid).map_err(KvmError::step("set a CPU's features"))?;
    let mut sregs = vcpu.get_sregs().map_err(KvmError::step("read a CPU's registers"))?;
    set_long_mode(&mut sregs, PML4);
    vcpu.set_sregs(&sregs).map_err(KvmError::step("set a CPU's registers"))?;
    let regs = kvm_regs { rip: CODE, rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(KvmError::step("set a CPU's registers"))?;
    let verdict = run(&mut vcpu);
    // The CPU and the machine are gone before the memory they use.
    drop((vcpu, vm));
    drop(memory);
    Ok(verdict)
}

fn write_guest(memory: &GuestMemoryMmap<()>) -> Result<(), vm_memory::GuestMemoryError> {
    memory.write_obj((PDPT | 3).to_le(), GuestAddress(PML4))?;
    memory.write_obj((DIRECTORY | 3).to_le(), GuestAddress(PDPT))?;
    memory.write_obj(0x83u64.to_le(), GuestAddress(DIRECTORY))?;
    memory.write_slice(PROGRAM, GuestAddress(CODE))
}

fn run(vcpu: &mut VcpuFd) -> Verdict {
    // The guest leaves within microseconds; signals may interrupt the entry.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        return match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, [TOKEN])) => Verdict::RunsStockKernels,
            Ok(VcpuExit::IoOut(port, data)) => Verdict::DoesNot(format!(
                "a probe guest computed a wrong result ({data:x?} at port {port:#x})"
            )),
            Ok(VcpuExit::InternalError) => {
                let run = vcpu.get_kvm_run();
                // SAFETY: the exit reason says that `internal` is the union's field; it is made of
                // integers only.
                let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
                Verdict::DoesNot(describe_internal_error(suberror))
            }
            Err(e) if e.errno() == libc::EINTR && Instant::now() < deadline => continue,
            Ok(exit) => Verdict::DoesNot(format!("a probe guest stopped unexpectedly ({exit:?})")),
            Err(e) => Verdict::DoesNot(format!("a probe guest did not run ({e})")),
        };
    }
}
