//! `ci/install` puts the monitor, its manual, its completions and its units where hosts look for them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::{aerostat, said};

/// A repository that has what `ci/install` needs of it, and nothing built.
fn repository() -> TempDir {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let theirs = tempfile::tempdir().expect("a directory");
    for folder in ["ci", "configs/systemd"] {
        fs::create_dir_all(theirs.path().join(folder)).expect("a folder");
        for entry in fs::read_dir(ours.join(folder)).expect("a folder") {
            let entry = entry.expect("entry");
            fs::copy(entry.path(), theirs.path().join(folder).join(entry.file_name())).expect("copied");
        }
    }
    theirs
}

fn install(repository: &TempDir, arguments: &[&str]) -> Output {
    Command::new(repository.path().join("ci/install")).args(arguments).output().expect("ci/install")
}

/// The words of a program about a file; nothing where the program is not there.
fn complaints(program: &str, arguments: &[&str], file: &Path) -> Option<String> {
    let mut command = Command::new(program);
    // Pages are UTF-8.
    let output = command.args(arguments).arg(file).env("LC_ALL", "C.UTF-8").output().ok()?;
    assert!(output.status.success() || !output.stderr.is_empty(), "{program} {file:?}");
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn everything_is_installed_under_the_prefix() {
    let repository = repository();
    let folder = repository.path().join("target/release");
    fs::create_dir_all(&folder).expect("a folder");
    symlink(env!("CARGO_BIN_EXE_aerostat"), folder.join("aerostat")).expect("a link");
    let prefix = repository.path().join("a-prefix");
    let output = install(&repository, &["--prefix", &prefix.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(
        said.lines().all(|file| Path::new(file).starts_with(&prefix) && Path::new(file).is_file()),
        "{said}"
    );

    // systemd would take such names for something else.
    for odd in ["a prefix", "a%prefix", "a&prefix"] {
        let output = install(&repository, &["--prefix", odd]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("letters, digits"), "{said}");
    }

    let version = Command::new(prefix.join("bin/aerostat")).arg("--version").output().expect("aerostat");
    assert!(version.status.success(), "{version:?}");
    let unit = prefix.join("lib/systemd/system/aerostat@.service");
    assert_eq!(complaints("systemd-analyze", &["verify"], &unit).unwrap_or_default(), "");
    let unit = fs::read_to_string(unit).expect("the unit");
    let start = format!("ExecStart={} ", prefix.join("bin/aerostat").display());
    assert!(unit.contains(&start) && !unit.contains("/usr/local"), "{unit}");

    let bash = prefix.join("share/bash-completion/completions/aerostat");
    assert_eq!(complaints("bash", &["-n"], &bash).as_deref(), Some(""));
    for (file, shell) in [
        ("bash-completion/completions/aerostat", "bash"),
        ("zsh/site-functions/_aerostat", "zsh"),
        ("fish/vendor_completions.d/aerostat.fish", "fish"),
    ] {
        let script = fs::read_to_string(prefix.join("share").join(file)).expect(file);
        assert_eq!(script, aerostat(["completions", shell]).out);
        assert!(script.contains("reclaim") && script.contains("balloon-deflate-on-oom"), "{shell}: {script}");
        if let Some(complaints) = complaints(shell, &["-n"], &prefix.join("share").join(file)) {
            assert_eq!(complaints, "", "{shell}");
        }
    }

    let pages: Vec<_> = fs::read_dir(prefix.join("share/man/man1")).expect("pages").collect();
    assert!(pages.len() > 15, "{pages:?}");
    for page in pages {
        let page = page.expect("a page").path();
        let text = fs::read_to_string(&page).expect("a page");
        assert!(
            [".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"].iter().all(|part| text.contains(part)),
            "{page:?}: {text}"
        );
        let complaints = complaints("man", &["-l", "--warnings"], &page).unwrap_or_default();
        assert_eq!(complaints, "", "{page:?}");
    }
}

#[test]
fn what_cannot_be_installed_is_said() {
    let repository = repository();
    let output = install(&repository, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).ends_with("to install: run ci/build first.\n"),
        "{output:?}"
    );
    for arguments in [&["--prefix"][..], &["--prefix", "/p", "x"], &["/p"]] {
        let output = install(&repository, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, "install: Say where: ci/install, or ci/install --prefix DIR.\n", "{arguments:?}");
    }
}

#[test]
fn pages_that_cannot_be_written_are_said() {
    let output = aerostat(["man", "/nowhere/at/all"]);
    assert_eq!(output.code, Some(1));
    assert!(
        output.err.starts_with("aerostat: The manual pages cannot be written to /nowhere/at/all: name a"),
        "{}",
        output.err
    );
    assert_eq!(said("completions tcsh").code, Some(2));
}
