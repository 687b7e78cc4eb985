//! The help of the command line, as the manual pages have it: each text is one line there.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::page::Page;

/// Marks of fonts and signs in a line of a manual page, and what they stand for.
const MARKS: [(&str, &str); 5] = [("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\-", "-"), ("\\(aq", "'")];

/// A page for each command.
pub(crate) fn pages() -> Vec<Page> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_aerostat"));
    let status = command.arg("man").arg(folder.path()).status().expect("aerostat");
    assert!(status.success(), "{status}");
    let files = fs::read_dir(folder.path()).expect("pages").map(|file| file.expect("a page").path());
    files.map(|file| page(&file)).collect()
}

fn page(file: &Path) -> Page {
    let manual = fs::read_to_string(file).expect("a page");
    let texts = manual
        .lines()
        // A synopsis is no sentence.
        .filter(|line| !line.starts_with('.') && !line.starts_with("\\fBaerostat"))
        .map(|line| MARKS.iter().fold(line.trim().to_owned(), |line, (mark, sign)| line.replace(mark, sign)));
    Page::parse(Path::new(file.file_name().expect("a name")), &texts.collect::<Vec<_>>().join("\n\n"))
}
