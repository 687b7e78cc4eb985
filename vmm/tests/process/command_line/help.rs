//! Help and `check` fit the terminal: no line is wider, and none begins so far to the right that few words have room.

use super::{aerostat, pty::printed};

const WIDTHS: [usize; 3] = [60, 80, 120];
/// Columns that text has at least.
const NARROWEST: usize = 30;

/// All commands, found by their help.
fn commands() -> Vec<Vec<String>> {
    let (mut known, mut at) = (vec![Vec::new()], 0);
    while let Some(command) = known.get(at).cloned() {
        let help = aerostat(command.iter().map(String::as_str).chain(["-h"])).out;
        let names = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let names = names.take_while(|line| !line.is_empty()).filter_map(|line| {
            let name = line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split(' ').next()?;
            (name != "help").then(|| name.to_owned())
        });
        known.extend(names.map(|name| [command.clone(), vec![name]].concat()));
        at += 1;
    }
    known
}

/// Faults in the lines of a page on a terminal.
fn findings(page: &str, columns: usize) -> Vec<String> {
    let of_line = |line: &str| {
        let (width, text) = (line.chars().count(), line.trim_start().chars().count());
        match (width > columns, text > 0 && width - text + NARROWEST > columns) {
            (true, _) => Some(format!("too wide: {line}")),
            (false, true) => Some(format!("too far to the right: {line}")),
            (false, false) => None,
        }
    };
    page.lines().map(str::trim_end).filter_map(of_line).collect()
}

#[test]
fn help_fits_the_terminal() {
    let all = commands();
    assert!(all.len() > 15 && all.contains(&vec!["memory".to_owned(), "reclaim".to_owned()]), "{all:?}");
    for command in all {
        for flag in ["-h", "--help"] {
            let args: Vec<_> = command.iter().map(String::as_str).chain([flag]).collect();
            for columns in WIDTHS {
                let page = printed(columns, &args);
                let found = findings(&page, columns);
                assert!(
                    page.contains("Usage:") && found.is_empty(),
                    "{args:?} at {columns}: {found:#?}\n{page}"
                );
            }
        }
    }
}

#[test]
fn check_fits_the_terminal_and_is_not_wrapped_elsewhere() {
    for columns in WIDTHS {
        let page = printed(columns, &["check"]);
        assert_eq!(findings(&page, columns), [""; 0], "{columns}: {page}");
    }
    let page = aerostat(["check"]).out;
    let rows = page.lines().filter(|line| line.starts_with("  ")).count();
    let narrow = printed(60, &["check"]);
    assert!(rows < narrow.lines().filter(|line| line.starts_with("  ")).count(), "{page}\n{narrow}");
    assert!(
        page.lines().filter(|line| line.starts_with("  ")).all(|line| !line.starts_with("   ")),
        "{page}"
    );
    let kvm = page.lines().find(|line| line.split_whitespace().nth(1) == Some("kvm")).expect("of KVM");
    match std::path::Path::new("/dev/kvm").exists() {
        true => assert!(kvm.starts_with("  ok") || kvm.contains("not usable: "), "{kvm}"),
        false => assert!(kvm.contains("there is no /dev/kvm: "), "{kvm}"),
    }
    assert!(page.lines().last().is_some_and(|line| line.starts_with("Not tested: ")), "{page}");
}

#[test]
fn a_page_that_does_not_fit_is_found() {
    let narrow = "      --kernel <PATH>  Kernel: a\n                       bzImage\n";
    assert_eq!(findings(narrow, 80), [""; 0]);
    assert_eq!(findings(narrow, 50), ["too far to the right:                        bzImage"]);
    assert_eq!(findings("four words are here\n", 10), ["too wide: four words are here"]);
}
