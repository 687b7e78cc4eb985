//! The command line as operators meet it: sentences and exit codes, terminals, images that are not raw,
//! JSON, and how it is installed.

mod console;
mod help;
mod images;
mod install;
mod json;
mod pty;

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// The words of a command, and its exit code.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `aerostat` with these arguments, which end it at once.
fn aerostat<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aerostat"));
    let output = command.args(args).stdin(Stdio::null()).output().expect("aerostat");
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Said { code: output.status.code(), out, err }
}

fn said(line: &str) -> Said {
    aerostat(line.split_whitespace())
}

#[test]
fn wrong_usage_ends_with_2_and_in_firecrackers_form_with_153() {
    for (line, code) in [
        ("run --kernal k", 2),
        ("run --kernel k --memory 1.3G", 2),
        ("balloon", 2),
        ("memory", 2),
        ("swap", 2),
        ("bench", 2),
        ("balloon set", 2),
        ("baloon", 2),
        ("run --kernel k --memory-limit 5", 2),
        ("run --kernel k --memory 99999G", 2),
        ("run --kernel k --disk x,foo", 2),
        ("help bogus", 2),
        ("stop --timeout -1", 2),
        ("stop --id=", 2),
        ("list --kernel k", 2),
        ("--kernel k", 153),
        ("--no-api", 153),
    ] {
        let said = said(line);
        assert_eq!((said.code, said.out.as_str()), (Some(code), ""), "{line}: {}", said.err);
        let last = said.err.lines().last().unwrap_or_default();
        assert!(last.starts_with("aerostat: ") && last.ends_with('.'), "{line}: {}", said.err);
    }
}

#[test]
fn a_command_that_needs_another_prints_its_help_before_the_sentence() {
    for (group, one) in
        [("balloon", "stats"), ("memory", "reclaim"), ("swap", "serve"), ("bench", "hugepages")]
    {
        let (said, help) = (said(group), said(&format!("{group} -h")));
        assert_eq!((help.code, help.err.as_str()), (Some(0), ""), "{group}");
        assert!(help.out.contains(one), "{}", help.out);
        let sentence = said.err.strip_prefix(&help.out).unwrap_or_else(|| panic!("{group}: {}", said.err));
        assert!(sentence.starts_with("\naerostat: A command is missing after"), "{group}: {sentence}");
    }
}

#[test]
fn what_flags_say_is_called_by_the_flags() {
    for (flags, sentence) in [
        (
            "--memory-limit 5",
            "The memory limit (--memory-limit) of 5 MiB is too low for a guest of 512 MiB: it must be",
        ),
        ("--balloon 513", "The balloon (--balloon) of 513 MiB is larger than the guest's memory of 512 MiB"),
        ("--swap 1M,memory=2M", "The swap device (--swap) of 1 MiB is to have 2 MiB of memory, but"),
        ("--watermarks 3,2,4", "The watermarks (--watermarks) must rise"),
        ("--watermarks 1,2,300", "The watermark HIGH (--watermarks) of"),
        ("--net tap=a/b", "\"a/b\" (--net tap=) is no name of a network interface"),
        ("--net tap=t0,mtu=67", "mtu of --net is 67, but must be at least 68"),
        ("--min-free 5K", "--min-free is 5 KiB, but must be a multiple of 4 KiB"),
        (
            "--watermarks 4K,5K,8K",
            "The watermark LOW of --watermarks is 5 KiB, but must be a multiple of 4 KiB, the size of a frame.",
        ),
        (
            "--net tap=t0 --net tap=t0",
            "Two network interfaces have the --net tap=t0: give each a TAP interface of its own.",
        ),
        (
            "--net tap=t0,mac=02:00:00:00:00:01 --net tap=t1,mac=02:00:00:00:00:01",
            "Two network interfaces have the --net mac=02:00:00:00:00:01: give each its own.",
        ),
    ] {
        let said = said(&format!("run --kernel /k {flags}"));
        assert_eq!(said.code, Some(2), "{flags}: {}", said.err);
        assert!(said.err.contains(&format!("aerostat: {sentence}")), "{flags}: {}", said.err);
    }
    // The host lacks it.
    assert_eq!(said("run --kernel /nowhere --memory 1G").code, Some(1));
    // The file says it, so the field is named.
    let file = tempfile::NamedTempFile::new().expect("a file");
    let config = r#"{"boot-source": {"kernel_image_path": "/k"}, "memory": {"min_free_kib": 5}}"#;
    std::fs::write(file.path(), config).expect("written");
    let said = aerostat(["run".as_ref(), "--config-file".as_ref(), file.path().as_os_str()]);
    assert!(said.err.contains("aerostat: min_free_kib is 5 KiB"), "{}", said.err);
    assert_eq!(said.code, Some(1));
}
