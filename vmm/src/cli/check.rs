//! `aerostat check`: can this host run guests, what does it lack, and which KVM is it really? The
//! looking is done elsewhere; here is what it found, for machines and for people.

use std::{fmt::Write, process::ExitCode};

use serde::Serialize;
use utoipa::ToSchema;

use super::{Outcome, args::CheckArgs, output, table};

/// What was found. Make it with [`CheckReport::new`].
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CheckReport {
    /// Whether this host can run Aerostat.
    pub ok: bool,
    /// Whether KVM here runs a stock kernel: the same as `kvm.stock_kernel`.
    pub stock_kernel: bool,
    /// Version of the host's kernel.
    pub kernel_release: String,
    /// The KVM of this host.
    pub kvm: KvmReport,
    /// Everything else, in the order in which it is shown.
    pub checks: Vec<Check>,
}

/// Which KVM it is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KvmReport {
    /// Whether `/dev/kvm` can be opened.
    pub present: bool,
    /// Version of its API; 12 is the only one there is.
    pub api_version: Option<i32>,
    /// Whether a probe guest that runs what a stock kernel runs came through.
    pub stock_kernel: bool,
    /// What was seen, in a sentence.
    pub detail: String,
    /// How to give what is missing; `None` if nothing is.
    pub remedy: Option<String>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Check {
    /// Name for machines, such as `uffd_move`.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether guests cannot run without.
    pub required: bool,
    /// What was found, or what is missing, in a few words.
    pub detail: String,
    /// How to give it; `None` if it is there.
    pub remedy: Option<String>,
}

impl Check {
    /// It is there.
    pub fn good(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), ok: true, required: true, detail: detail.into(), remedy: None }
    }

    /// It is missing, and guests cannot run without.
    pub fn bad(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { ok: false, remedy: Some(remedy.into()), ..Self::good(name, detail) }
    }

    /// It could be better, but guests run.
    pub fn poor(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { required: false, ..Self::bad(name, detail, remedy) }
    }
}

impl CheckReport {
    /// Puts findings together: the host is ok if KVM runs a stock kernel and nothing that is
    /// required is missing.
    pub fn new(kernel_release: String, kvm: KvmReport, checks: Vec<Check>) -> Self {
        let ok = kvm.present && kvm.stock_kernel && checks.iter().all(|check| check.ok || !check.required);
        Self { ok, stock_kernel: kvm.stock_kernel, kernel_release, kvm, checks }
    }
}

/// Prints the report; exit code 0 if guests can run here, 1 if not.
pub(super) fn check(args: &CheckArgs, report: CheckReport) -> Outcome {
    output::answer(args.json, &report, |report| human(report, output::columns()))?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Findings that only the start of a guest has.
const NOT_TESTED: &str = "whether memory is free for a guest, disks and io_uring, TAP interfaces, directories and servers \
                          for swap, and the boot of a whole kernel. The start of a guest says what is wrong there.";

fn human(report: &CheckReport, columns: Option<usize>) -> String {
    let kvm = Check {
        name: "kvm".to_owned(),
        ok: report.kvm.present && report.kvm.stock_kernel,
        required: true,
        detail: report.kvm.detail.clone(),
        remedy: report.kvm.remedy.clone(),
    };
    let all = || std::iter::once(&kvm).chain(&report.checks);
    let width = all().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = format!("Host kernel {}\n\n", report.kernel_release);
    for check in all() {
        let mark = match (check.ok, check.required) {
            (true, _) => "ok",
            (false, true) => "BAD",
            (false, false) => "poor",
        };
        let remedy = check.remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
        let name = format!("  {mark:<4}  {:width$}  ", check.name);
        text.push_str(&table::wrapped(&name, &format!("{}{remedy}", check.detail), columns));
    }
    let verdict = if report.ok { "This host can run guests." } else { "This host cannot run guests." };
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n{verdict}");
    text + &table::wrapped("Not tested: ", NOT_TESTED, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_required_decides() {
        let kvm = |stock_kernel| KvmReport {
            present: true,
            api_version: Some(12),
            stock_kernel,
            detail: "a probe guest ran".to_owned(),
            remedy: None,
        };
        let report = |stock, checks| CheckReport::new("6.12.0".to_owned(), kvm(stock), checks);
        let poor = Check::poor("thp_defrag", "is never", "write madvise to it");
        let bad = Check::bad("uffd", "is not permitted", "run as root");
        assert!(report(true, vec![Check::good("uffd", "may be used"), poor.clone()]).ok);
        assert!(!report(false, vec![]).ok);
        let failed = report(true, vec![poor, bad]);
        assert!(!failed.ok);
        let text = human(&failed, None);
        assert!(text.contains("  BAD   uffd        is not permitted: run as root\n"), "{text}");
        assert!(text.contains("  poor  thp_defrag  is never: write madvise to it\n"), "{text}");
        assert!(text.contains("\nThis host cannot run guests.\nNot tested: "), "{text}");
        let narrow = human(&failed, Some(40));
        assert!(
            narrow.contains("  BAD   uffd        is not permitted:\n                    run as root\n"),
            "{narrow}"
        );
    }
}
