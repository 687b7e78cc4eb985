//! Hosts of all kinds, as their files show them, and what is said of each.

use super::*;

const FAULTY: &str = "6.12.19";
const FIXED: &str = "6.12.117+deb12-amd64";
const UBUNTU: &str = "6.8.0-45-generic";

/// The headline of `/proc/swaps`.
const SWAPS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
const ZRAM: &str = "/dev/zram0                              partition\t1048572\t\t0\t\t100\n";
/// Where cgroups are mounted on a host with systemd.
const MOUNTS: &str = "\
22 27 0:21 / /proc rw,nosuid - proc proc rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
";

/// A host made of files.
struct Sample {
    _directory: tempfile::TempDir,
    host: Host,
}

impl Sample {
    fn new(release: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = directory.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().expect("a file")).expect("directories");
            std::fs::write(path, text).expect("a file");
        }
        let root = directory.path().to_owned();
        Self {
            _directory: directory,
            host: Host { root, kernel: Kernel::new(release, "#1 SMP"), swap_bytes: 0 },
        }
    }

    /// In the cgroup `/a/b` of version 2, with these files below `/sys/fs/cgroup`.
    fn grouped(release: &str, files: &[(&str, &str)]) -> Self {
        let swaps = format!("{SWAPS}{ZRAM}");
        let files =
            files.iter().map(|(path, text)| (format!("/sys/fs/cgroup/{path}"), *text)).collect::<Vec<_>>();
        let mut all = vec![
            ("/proc/swaps", swaps.as_str()),
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/proc/self/mountinfo", MOUNTS),
        ];
        all.extend(files.iter().map(|(path, text)| (path.as_str(), *text)));
        Self::new(release, &all)
    }

    /// In one of version 1.
    fn of_version_1(limit: &str) -> Self {
        let mounts = "\
31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
32 30 0:28 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
41 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        Self::new(
            FAULTY,
            &[
                ("/proc/swaps", &format!("{SWAPS}{ZRAM}")),
                ("/proc/self/cgroup", "9:cpu:/docker/x\n4:memory:/docker/x/guest\n0::/y\n"),
                ("/proc/self/mountinfo", mounts),
                ("/sys/fs/cgroup/memory/guest/memory.limit_in_bytes", "9223372036854771712\n"),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", limit),
                ("/sys/fs/cgroup/unified/y/memory.swap.max", "0\n"),
            ],
        )
    }

    fn found(&self, name: &str) -> Finding {
        let found = self.host.findings().into_iter().find(|(known, _)| *known == name);
        found.expect("a finding of this name").1
    }

    fn refused(&self, allowed: bool) -> Option<String> {
        self.host.admit_swap(allowed).err().map(|error| error.to_string())
    }
}

fn sentence(verdict: Finding) -> String {
    match verdict {
        Finding::Good(note) => note,
        Finding::Poor(advice) | Finding::Bad(advice) => advice.to_string(),
    }
}

#[test]
fn without_swap_any_kernel_will_do() {
    for files in [&[("/proc/swaps", SWAPS)][..], &[]] {
        let sample = Sample::new(FAULTY, files);
        assert_eq!(sample.found("host_swap"), Finding::Good("the host has no swap".to_owned()));
        assert_eq!(sample.refused(false), None);
    }
}

#[test]
fn with_swap_and_a_kernel_without_the_fixes_no_guest_starts_unless_the_operator_says_so() {
    let sample = Sample::grouped(FAULTY, &[]);
    let refused = sample.refused(false).expect("refused");
    assert_eq!(
        refused,
        "the host may swap guests to /dev/zram0, and Linux 6.12.19 lacks by its version the fixes c50f8e60 and \
         0ea148a7, without which a guest can get a wrong page: turn swap off (swapoff -a), or start in a control group \
         with memory.swap.max=0 (systemd: MemorySwapMax=0), or boot one of Linux 6.12.37, 6.15.5, 6.16 or newer, or \
         start with --allow-host-swap (allow_host_swap in the section memory) if you know that this kernel is fixed"
    );
    assert!(matches!(sample.found("host_swap"), Finding::Bad(advice) if advice.to_string() == refused));
    assert_eq!(sample.refused(true), None);
}

#[test]
fn a_kernel_of_which_nobody_knows_is_not_trusted() {
    let sample = Sample::grouped(UBUNTU, &[]);
    let refused = sample.refused(false).expect("refused");
    assert!(
        refused.contains("the version of Linux 6.8.0-45-generic does not tell whether it has"),
        "{refused}"
    );
    assert_eq!(sample.refused(true), None);
}

#[test]
fn a_fixed_kernel_may_swap_guests() {
    let sample = Sample::grouped(FIXED, &[]);
    assert_eq!(sample.refused(false), None);
    let Finding::Good(note) = sample.found("host_swap") else { panic!("not good") };
    assert!(note.contains("/dev/zram0") && note.contains(FIXED), "{note}");
}

#[test]
fn a_service_that_does_not_see_proc_swaps_is_told_of_swap_by_the_kernel() {
    let mut sample = Sample::new(FAULTY, &[]);
    sample.host.swap_bytes = 4096;
    assert!(
        sample.refused(false).is_some_and(|refused| refused.starts_with("the host may swap guests, and"))
    );
}

#[test]
fn a_group_above_that_forbids_swap_is_as_good_as_the_own() {
    for file in ["a/b/memory.swap.max", "a/memory.swap.max"] {
        let sample = Sample::grouped(FAULTY, &[(file, "0\n")]);
        assert_eq!(sample.refused(false), None, "{file}");
        let expected = format!("/sys/fs/cgroup/{file} keeps the host from swapping guests");
        assert_eq!(sample.found("host_swap"), Finding::Good(expected));
    }
    for (file, text) in
        [("a/b/memory.swap.max", "max\n"), ("a/b/memory.swap.max", "4096\n"), ("a/c/memory.swap.max", "0\n")]
    {
        assert!(Sample::grouped(FAULTY, &[(file, text)]).refused(false).is_some(), "{file} {text}");
    }
}

#[test]
fn version_1_of_cgroups_limits_memory_but_not_swap() {
    let sample = Sample::of_version_1("536870912\n");
    assert!(sample.refused(false).is_some(), "the group of version 2 has no say there");
    let said = sentence(sample.found("memory_max"));
    assert!(
        said.starts_with("/sys/fs/cgroup/memory/memory.limit_in_bytes is 512 MiB, and the kernel kills"),
        "{said}"
    );
    assert!(matches!(Sample::of_version_1("9223372036854771712\n").found("memory_max"), Finding::Good(_)));
}

#[test]
fn a_limit_on_memory_is_shown_and_a_guest_that_does_not_fit_is_warned_of() {
    let limits =
        [("a/b/memory.max", "1073741824\n"), ("a/memory.max", "536870912\n"), ("a/b/memory.high", "max\n")];
    let sample = Sample::grouped(FIXED, &limits);
    assert_eq!(
        sentence(sample.found("memory_max")),
        "/sys/fs/cgroup/a/memory.max is 512 MiB, and the kernel kills what needs more: give guests here 491 MiB at most, \
         swap in memory included, or raise it"
    );
    assert!(matches!(sample.found("memory_high"), Finding::Good(_)));
    assert_eq!(sample.host.tight_limits(490 << 20), []);
    let warnings = sample.host.tight_limits(512 << 20);
    let [killed] = &warnings[..] else { panic!("{warnings:?}") };
    let expected = "/sys/fs/cgroup/a/memory.max is 512 MiB, and this guest can come to 533 MiB: the kernel may kill it then";
    assert_eq!(killed.what, expected);
}

#[test]
fn a_group_that_slows_down_is_shown_and_warned_of() {
    let sample = Sample::grouped(FIXED, &[("a/b/memory.max", "max\n"), ("a/b/memory.high", "536870912\n")]);
    let said = sentence(sample.found("memory_high"));
    assert!(
        said.starts_with("/sys/fs/cgroup/a/b/memory.high is 512 MiB, and the kernel slows down"),
        "{said}"
    );
    assert!(matches!(sample.found("memory_max"), Finding::Good(_)));
    let warnings = sample.host.tight_limits(512 << 20);
    assert!(matches!(&warnings[..], [slowed] if slowed.what.ends_with("slows it down then")), "{warnings:?}");
}

#[test]
fn groups_whose_guests_die_together_are_shown() {
    let alone = Sample::grouped(FIXED, &[("a/b/memory.oom.group", "1\n"), ("a/b/cgroup.procs", "77\n")]);
    assert!(matches!(alone.found("oom_group"), Finding::Good(_)));
    let shared = Sample::grouped(FIXED, &[("a/b/memory.oom.group", "1\n"), ("a/b/cgroup.procs", "77\n78\n")]);
    let above = Sample::grouped(FIXED, &[("a/memory.oom.group", "1\n"), ("a/cgroup.procs", "")]);
    for (sample, file) in [(shared, "a/b"), (above, "a")] {
        let said = sentence(sample.found("oom_group"));
        let start =
            format!("/sys/fs/cgroup/{file}/memory.oom.group is 1, and the kernel kills all guests there");
        assert!(said.starts_with(&start), "{said}");
    }
}

#[test]
fn where_the_kernel_counts_what_is_mapped_twice_the_memory_must_fit() {
    let counting = |mode: &str| {
        let info = "MemTotal:       24684096 kB\nCommitLimit:     1048576 kB\nCommitted_AS:     524288 kB\n";
        Sample::new(FIXED, &[("/proc/sys/vm/overcommit_memory", mode), ("/proc/meminfo", info)])
    };
    for mode in ["0\n", "1\n"] {
        let sample = counting(mode);
        assert!(matches!(sample.found("overcommit"), Finding::Good(_)));
        assert_eq!(sample.host.admit_mapping(1 << 40).expect("admitted"), None);
        let error = sample.host.no_address_space(1 << 40, io::Error::from_raw_os_error(12));
        assert!(matches!(error, StartError::NoAddressSpace { .. }), "{error}");
    }
    let sample = counting("2\n");
    let said = sentence(sample.found("overcommit"));
    assert!(said.starts_with("vm.overcommit_memory is 2, which lets 512 MiB more be mapped"), "{said}");
    assert!(sample.host.admit_mapping(448 << 20).expect("admitted").is_some(), "warned of");
    let refused = sample.host.admit_mapping(449 << 20).expect_err("too much").to_string();
    let start = "vm.overcommit_memory is 2, which lets 512 MiB more be mapped, and this guest takes 513 MiB";
    assert!(refused.starts_with(start), "{refused}");
    // As mmap may refuse less than that.
    let error = sample.host.no_address_space(448 << 20, io::Error::from_raw_os_error(12)).to_string();
    assert!(error.starts_with("vm.overcommit_memory is 2"), "{error}");
}

#[test]
fn no_guest_runs_where_nothing_can_be_mapped() {
    let info = "CommitLimit:     1048576 kB\nCommitted_AS:     1048600 kB\n";
    let sample = Sample::new(FIXED, &[("/proc/sys/vm/overcommit_memory", "2"), ("/proc/meminfo", info)]);
    assert!(matches!(sample.found("overcommit"), Finding::Bad(_)));
}

#[test]
fn samepage_merging_is_shown() {
    let sample = Sample::new(FIXED, &[("/sys/kernel/mm/ksm/run", "1\n")]);
    assert!(sentence(sample.found("ksm")).contains("but none of Aerostat's"));
    let sample = Sample::new(FIXED, &[("/sys/kernel/mm/ksm/run", "0\n")]);
    assert_eq!(sample.found("ksm"), Finding::Good("the kernel merges no pages".to_owned()));
}

#[test]
fn this_host_can_be_looked_at() {
    let findings = Host::here().findings();
    let names: Vec<_> = findings.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["host_swap", "ksm", "memory_max", "memory_high", "oom_group", "overcommit"]);
}
