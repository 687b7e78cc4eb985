//! Model specific registers that a CPU starts with: what firmware would have set.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use thiserror::Error;

/// `IA32_MTRR_DEF_TYPE`.
const MTRR_DEF_TYPE: u32 = 0x2FF;
/// MTRRs on, default type write-back: all RAM cached, as the guest's page tables then refine.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
/// `IA32_MISC_ENABLE`.
const MISC_ENABLE: u32 = 0x1A0;
/// Fast string operations.
const MISC_ENABLE_FAST_STRING: u64 = 1;

/// Why the registers cannot be set.
#[derive(Debug, Error)]
pub enum MsrError {
    /// The list could not be made (it is short, so this does not happen).
    #[error("cannot build the list of model specific registers")]
    List,
    /// The ioctl failed.
    #[error("cannot set the model specific registers of a CPU")]
    Set(#[source] kvm_ioctls::Error),
    /// KVM does not take one of them.
    #[error("KVM does not let the guest have model specific register {0:#x}")]
    Refused(u32),
}

/// Sets them on one CPU.
pub fn set(vcpu: &VcpuFd) -> Result<(), MsrError> {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries =
        [entry(MISC_ENABLE, MISC_ENABLE_FAST_STRING), entry(MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK)];
    let msrs = Msrs::from_entries(&entries).map_err(|_| MsrError::List)?;
    let done = vcpu.set_msrs(&msrs).map_err(MsrError::Set)?;
    match entries.get(done) {
        Some(refused) => Err(MsrError::Refused(refused.index)),
        None => Ok(()),
    }
}
