//! The KVM virtual machine: what is made once, before the CPUs.
#![allow(unsafe_code)] // Memory slots hand host addresses to the kernel; argued below.

use std::io;
use std::sync::Arc;

use kvm_bindings::{KVM_API_VERSION, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VmFd};
use memsvc::Region;
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use crate::arch::layout;
use crate::devices::virtio::transport::RegisterPage;

/// Why there is no virtual machine.
#[derive(Debug, Error)]
pub enum KvmError {
    /// No device node.
    #[error(
        "there is no /dev/kvm: load the kvm module of this CPU, or turn on virtualization (or nested virtualization) for this machine"
    )]
    Missing,
    /// No permission.
    #[error("no permission for /dev/kvm: add this user to the group kvm")]
    Permission,
    /// It cannot be opened for another reason.
    #[error("cannot open /dev/kvm")]
    Open(#[source] kvm_ioctls::Error),
    /// An interface of another time.
    #[error("/dev/kvm speaks API version {0} and {KVM_API_VERSION} is needed")]
    Version(i32),
    /// A capability is missing.
    #[error("this KVM cannot {0}; a host kernel of 6.8 or newer can")]
    Capability(&'static str),
    /// More memory slots or CPUs than there are.
    #[error("this KVM has {have} {what} and the guest needs {need}")]
    TooFew {
        /// Of what.
        what: &'static str,
        /// How many there are.
        have: usize,
        /// How many are needed.
        need: usize,
    },
    /// RAM beyond the CPU's physical addresses.
    #[error(
        "the guest's memory ends at {end:#x}, beyond the {bits} address bits of this CPU; give it less memory"
    )]
    AddressBits {
        /// End of guest RAM.
        end: u64,
        /// Address bits.
        bits: u8,
    },
    /// A step failed.
    #[error("KVM cannot {what}")]
    Step {
        /// What was being done.
        what: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
}

impl KvmError {
    /// For `map_err`: the step that failed.
    pub(crate) fn step(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |source| Self::Step { what, source }
    }
}

/// Opens `/dev/kvm` and checks that it has what is needed.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|e| match io::Error::from(e).kind() {
        io::ErrorKind::NotFound => KvmError::Missing,
        io::ErrorKind::PermissionDenied => KvmError::Permission,
        _ => KvmError::Open(e),
    })?;
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err(KvmError::Version(version));
    }
    let needed = [
        (Cap::Irqchip, "emulate interrupt controllers"),
        (Cap::Ioeventfd, "notify devices through event descriptors"),
        (Cap::Irqfd, "raise interrupts through event descriptors"),
        (Cap::UserMemory, "map user memory"),
        (Cap::ReadonlyMem, "map memory that a guest may only read"),
        (Cap::SetTssAddr, "place its task state segment"),
        (Cap::ImmediateExit, "be interrupted without a race"),
    ];
    for (cap, what) in needed {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Capability(what));
        }
    }
    Ok(kvm)
}

/// A virtual machine with interrupt controllers, without memory and CPUs yet.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    slots: u32,
    max_slots: usize,
    /// Shown to the guest, and so kept until `fd` is closed.
    registers: Vec<Arc<RegisterPage>>,
}

impl Vm {
    /// Makes one. There is no PIT: the platform is hardware-reduced and the guest has the local
    /// APIC timer and kvm-clock.
    pub fn new(kvm: &Kvm) -> Result<Self, KvmError> {
        let fd = kvm.create_vm().map_err(KvmError::step("create a virtual machine"))?;
        fd.set_identity_map_address(layout::IDENTITY_MAP_ADDR)
            .map_err(KvmError::step("place its identity map"))?;
        fd.set_tss_address(layout::TSS_ADDR as usize)
            .map_err(KvmError::step("place its task state segment"))?;
        fd.create_irq_chip().map_err(KvmError::step("create interrupt controllers"))?;
        Ok(Self { fd, slots: 0, max_slots: kvm.get_nr_memslots(), registers: Vec::new() })
    }

    /// Makes guest RAM known: a memory slot for each region. `address_bits` is the guest's
    /// ([`crate::arch::cpuid::Template::address_bits`]).
    ///
    /// The memory service behind `regions` must outlive this virtual machine.
    pub fn set_memory(&mut self, regions: &[Region], address_bits: u8) -> Result<(), KvmError> {
        for region in regions {
            let end = region.spec.gpa.saturating_add(region.spec.len);
            if address_bits < 64 && end > 1 << address_bits {
                return Err(KvmError::AddressBits { end, bits: address_bits });
            }
            let slot = kvm_userspace_memory_region {
                slot: self.take_slot()?,
                flags: 0,
                guest_phys_addr: region.spec.gpa,
                memory_size: region.spec.len,
                userspace_addr: region.host as u64,
            };
            // SAFETY: the memory service mapped `len` bytes at `host` and keeps the range mapped as
            // long as it lives; the caller keeps it longer than the virtual machine. Nothing else
            // of this process lies in that range, so the guest reaches nothing but its RAM.
            unsafe { self.fd.set_user_memory_region(slot) }.map_err(KvmError::step("map guest RAM"))?;
        }
        Ok(())
    }

    /// Shows `page` to the guest at `gpa`, read-only: what it writes there goes on as to a device.
    ///
    /// CPUs made from [`Self::fd`] must not outlive this virtual machine, which keeps the page.
    pub fn show_registers(&mut self, page: &Arc<RegisterPage>, gpa: u64) -> Result<(), KvmError> {
        let slot = kvm_userspace_memory_region {
            slot: self.take_slot()?,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: gpa,
            memory_size: size_of::<RegisterPage>() as u64,
            userspace_addr: Arc::as_ptr(page) as u64,
        };
        // SAFETY: the page is all of `RegisterPage`, which is made of atomics, and the guest only reads it. It stays
        // where it is as long as an `Arc` of it lives; ours does until `fd`, the field before it, is closed, and the
        // caller ends the CPUs before (`Machine` by the order of its fields).
        unsafe { self.fd.set_user_memory_region(slot) }
            .map_err(KvmError::step("show registers of a device"))?;
        self.registers.push(Arc::clone(page));
        Ok(())
    }

    fn take_slot(&mut self) -> Result<u32, KvmError> {
        let slot = self.slots;
        self.slots += 1;
        if self.slots as usize > self.max_slots {
            let need = self.slots as usize;
            return Err(KvmError::TooFew { what: "memory slots", have: self.max_slots, need });
        }
        Ok(slot)
    }

    /// Every write to `event` raises interrupt line `gsi`.
    pub fn connect_irq(&self, event: &EventFd, gsi: u32) -> Result<(), KvmError> {
        self.fd.register_irqfd(event, gsi).map_err(KvmError::step("connect an interrupt line"))
    }

    /// The guest's 32-bit write of `value` (of anything, if `None`) to `addr` writes to `event`
    /// without leaving the kernel.
    pub fn connect_notify(&self, event: &EventFd, addr: u64, value: Option<u32>) -> Result<(), KvmError> {
        let addr = IoEventAddress::Mmio(addr);
        match value {
            Some(value) => self.fd.register_ioevent(event, &addr, value),
            None => self.fd.register_ioevent(event, &addr, NoDatamatch),
        }
        .map_err(KvmError::step("connect a notification"))
    }

    /// For CPUs and what is not wrapped here.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }
}
