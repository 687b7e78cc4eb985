//! Scenarios with real guests, in plain words: one file for each theme.
//!
//! `cargo test -p guest-tests --test scenarios [-- FILTER]`. They run one after the other, where KVM runs
//! a stock kernel: this program starts itself again through `ci/kvm-host`, or twice, each for some of them, where that
//! is a nested host. With `AEROSTAT_SUBJECT=qemu-pc` they run against QEMU, and with `AEROSTAT_KVM_HOST=none` besides,
//! QEMU emulates: that tries out the scenarios themselves.

mod acpi;
mod balloon;
mod boot;
mod clients;
mod debian;
mod disk;
mod host;
mod life;
mod looks;
mod meanwhile;
mod memory;
mod noisy_host;
mod operator;
mod parts;
mod swap;

use std::process::ExitCode;
use std::time::Instant;

use guest_tests::agent_client::{OVERDUE, WRONG_DATA};
use guest_tests::{Kernel, Spec, Subject, TestVm, http, kvm_host};
use libtest_mimic::{Arguments, Completion, Conclusion, Trial};

/// Guest RAM of most scenarios.
const RAM_MIB: u64 = 512;
/// What a guest needs for itself while a scenario fills the rest.
const SPARE_MIB: u64 = 8;
/// Guests that swap read 2^5 pages at a time, not 2^3: an emulated host takes 10 ms for a request, however long it is.
const READAHEAD: &str = "sysctl.vm.page-cluster=5";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if arguments.list || kvm_host::inside() {
        return run(arguments).exit_code();
    }
    outside(&arguments).unwrap_or_else(|error| {
        eprintln!("scenarios: {error:?}");
        ExitCode::FAILURE
    })
}

/// Makes all that cannot be made in the nested host, and has the scenarios run where KVM is.
fn outside(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    guest_tests::debian::build()?;
    // All in a nested host runs on one CPU, so there are two hosts.
    let is_for_two = arguments.filter.is_none() && kvm_host::would_be()? == "nested";
    if !is_for_two {
        kvm_host::enter()?;
    }
    kvm_host::prepare()?;
    Ok(ExitCode::from(parts::run(2)?))
}

fn run(mut arguments: Arguments) -> Conclusion {
    // Two guests at once would share a CPU and measure each other.
    arguments.test_threads.get_or_insert(1);
    // Those that take long come first, so that no host of two is idle at the end.
    let mut trials = swap::trials();
    trials.extend(noisy_host::trials());
    trials.extend(debian::trials());
    trials.extend(operator::trials());
    trials.extend(balloon::trials());
    trials.extend(boot::trials());
    trials.extend(acpi::trials());
    trials.extend(disk::trials());
    trials.extend(memory::trials());
    trials.extend(life::trials());
    trials.extend(clients::trials());
    trials.extend(host::trials());
    libtest_mimic::run(&arguments, trials)
}

/// A scenario that holds for every monitor.
fn scenario(name: &str, run: impl Fn() -> anyhow::Result<()> + Send + 'static) -> Trial {
    unless(None, name, run)
}

/// The same, or not: then it says why.
fn unless(
    reason: Option<&'static str>,
    name: &str,
    run: impl Fn() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    let shown = name.to_owned();
    Trial::ignorable_test(name, move || {
        if let Some(reason) = reason {
            return Ok(Completion::ignored_with(reason));
        }
        let ran = parts::is_ours(&shown).and_then(|ours| {
            if !ours {
                return Ok(Completion::ignored_with("the other host runs it"));
            }
            let start = Instant::now();
            at_most_twice(&shown, &run)?;
            eprintln!("{shown}: {:.1} s", start.elapsed().as_secs_f64());
            Ok(Completion::Completed)
        });
        // The chain of causes, without the backtrace that RUST_BACKTRACE adds to Debug.
        ran.map_err(|error| format!("{error:#}").into())
    })
}

/// In the nested host a scenario that fails is tried once more: the CPU that QEMU emulates there mixes up
/// guest and host now and then (docs/dev/emulated-host.md). It is said, and `ci/test` counts it.
fn at_most_twice(name: &str, run: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    run().or_else(|error| {
        // Wrong data is never the CPU's fault, and bounds of time reckon with an emulated one.
        let said = format!("{error:#}");
        if kvm_host::kind() != "nested" || [WRONG_DATA, OVERDUE].iter().any(|what| said.contains(what)) {
            return Err(error);
        }
        eprintln!("{name}: tried once more, because it failed in an emulated host: {error:#}");
        run()
    })
}

/// A scenario about what only Aerostat has.
fn ours(name: &str, run: impl Fn() -> anyhow::Result<()> + Send + 'static) -> Option<Trial> {
    (Subject::from_environment() == Subject::Aerostat).then(|| scenario(name, run))
}

/// One that changes the whole host it runs on: that has to be made for it.
fn in_a_host_of_its_own(name: &str, run: impl Fn() -> anyhow::Result<()> + Send + 'static) -> Option<Trial> {
    let reason = (kvm_host::kind() == "native")
        .then_some("it changes the whole host: AEROSTAT_KVM_HOST_FORCE=nested runs it in the nested one");
    (Subject::from_environment() == Subject::Aerostat).then(|| unless(reason, name, run))
}

/// A counter of each device that has it, from `GET /metrics`.
fn of_devices(vm: &TestVm, counter: &str) -> anyhow::Result<Vec<u64>> {
    http::of_devices(vm.control.socket()?, counter)
}

/// A guest with the oldest kernel.
fn guest() -> anyhow::Result<Spec> {
    let subject = Subject::from_environment();
    Ok(Spec::new(subject, Kernel::any()?).memory_mib(RAM_MIB).append(READAHEAD))
}
