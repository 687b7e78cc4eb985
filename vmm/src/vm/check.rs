//! `aerostat check`: what this host has and lacks, with a probe guest for its KVM.

use memsvc::StartError;
use memsvc::space::host::{self, Finding, Host};

use super::kvm::{self, KvmError};
use super::probe::{self, Verdict};
use crate::cli::check::{Check, CheckReport, KvmReport};

/// Looks.
pub fn run() -> CheckReport {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let memory = [
        ("userfaultfd", host::check_userfaultfd(), "userfaultfd with UFFDIO_MOVE"),
        ("huge_pages", host::check_huge_pages(), "transparent huge pages are on"),
    ];
    let checks = memory.into_iter().map(|(name, result, good)| match result {
        Ok(()) => Check::good(name, good),
        Err(error) => missing(name, &error),
    });
    let found = Host::here().findings().into_iter().map(|(name, finding)| match finding {
        Finding::Good(note) => Check::good(name, note),
        Finding::Poor(advice) => Check::poor(name, advice.what, advice.remedy),
        Finding::Bad(advice) => Check::bad(name, advice.what, advice.remedy),
    });
    CheckReport::new(release, kvm_report(), checks.chain(found).collect())
}

/// Sentences of the service and of KVM say what is missing, then after a colon how to give it.
fn missing(name: &str, error: &StartError) -> Check {
    let sentence = error.to_string();
    match sentence.split_once(": ") {
        Some((what, remedy)) => Check::bad(name, what, remedy),
        None => Check::bad(name, sentence.as_str(), ""),
    }
}

fn kvm_report() -> KvmReport {
    let version = kvm::open().map(|kvm| kvm.get_api_version());
    let present = !matches!(version, Err(KvmError::Missing | KvmError::Permission | KvmError::Open(_)));
    let api_version = version.as_ref().ok().copied();
    let unusable = |why: &str, remedy: &str| (false, format!("not usable: {why}"), Some(remedy.to_owned()));
    let (stock_kernel, detail, remedy) = match version.and_then(|_| probe::probe()) {
        Ok(Verdict::RunsStockKernels) => {
            (true, "a probe guest ran what a stock kernel runs".to_owned(), None)
        }
        Ok(Verdict::DoesNot(why)) => {
            unusable(&why, "use a machine with VT-x or AMD-V, or turn on nested virtualization for this one")
        }
        Err(error) => {
            let sentence = crate::api::sentence(&error);
            let sentence = sentence.trim_end_matches('.');
            match (&error, sentence.split_once(": ")) {
                (KvmError::Missing, Some((what, remedy))) => {
                    (false, what.to_owned(), Some(remedy.to_owned()))
                }
                (KvmError::Permission, Some((why, remedy))) => unusable(why, remedy),
                _ => unusable(sentence, "load the kvm module of this CPU, on a host kernel of 6.8 or newer"),
            }
        }
    };
    KvmReport { present, api_version, stock_kernel, detail, remedy }
}
