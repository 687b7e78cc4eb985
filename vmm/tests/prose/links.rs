//! Links, anchors, and names of files in code spans.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::page::Page;

/// Folders of the repository: a code span that begins with one names a file.
const FOLDERS: [&str; 7] = ["ci", "configs", "docs", "fuzz", "guest-tests", "memsvc", "vmm"];
/// Ends of names that are files of the repository, wherever they are.
const KINDS: [&str; 3] = [".rs", ".md", ".service"];
/// What leads nowhere on a page, in a repository with these files.
pub(crate) fn findings(page: &Page, repository: &Path, files: &[PathBuf]) -> Vec<String> {
    let name = page.name.display();
    let links = page.links.iter().filter_map(|(line, link)| {
        follow(page, link, repository)
            .map(|why| format!("{name}:{line}: the link {link} leads nowhere: {why}"))
    });
    let spans = page.spans.iter().filter(|(_, span)| !is_there(span, repository, files));
    links.chain(spans.map(|(line, span)| format!("{name}:{line}: there is no file {span}"))).collect()
}

/// Why a link leads nowhere, if it does.
fn follow(page: &Page, link: &str, repository: &Path) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    if path.is_empty() {
        let anchor = anchor?;
        return (!page.anchors.contains(anchor)).then(|| format!("no heading here is #{anchor}"));
    }
    let target = normal(&page.name.parent().unwrap_or(Path::new("")).join(path));
    let file = repository.join(&target);
    if !file.exists() {
        return Some(format!("there is no {}", target.display()));
    }
    let anchor = anchor?;
    let Ok(text) = std::fs::read_to_string(&file) else {
        return Some(format!("{} has no headings", target.display()));
    };
    let is_there = Page::parse(&target, &text).anchors.contains(anchor);
    (!is_there).then(|| format!("no heading of {} is #{anchor}", target.display()))
}

/// The path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// False for a code span that names a file of the repository which is not there. A command is its first word.
fn is_there(span: &str, repository: &Path, files: &[PathBuf]) -> bool {
    let Some(word) = span.split_whitespace().next() else { return true };
    // Patterns and placeholders name no file.
    if word.contains(['*', '{', '<', '…', '$', '[']) || word.starts_with('/') {
        return true;
    }
    match word.split_once('/') {
        Some((first, _)) if FOLDERS.contains(&first) => repository.join(word).exists(),
        Some(_) => true,
        None if KINDS.iter().any(|kind| word.ends_with(kind) && word.len() > kind.len()) => {
            files.iter().any(|file| file.file_name() == Some(OsStr::new(word)))
        }
        None => true,
    }
}

mod broken {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let repository = crate::repository();
        findings(&Page::parse(Path::new("docs/a.md"), text), &repository, &crate::files(&repository))
    }

    #[test]
    fn a_link_that_leads_nowhere() {
        assert_eq!(
            of("# One `two`\n\n[a](#one-two), [b](../README.md), [c](dev), [d](https://example.org/x)\n"),
            [""; 0]
        );
        assert_eq!(
            of("# One\n\n[a](#two)\n"),
            ["docs/a.md:3: the link #two leads nowhere: no heading here is #two"]
        );
        assert_eq!(
            of("[a](none.md)"),
            ["docs/a.md:1: the link none.md leads nowhere: there is no docs/none.md"]
        );
        let anchor = "the link ../README.md#no-such leads nowhere: no heading of README.md is #no-such";
        assert_eq!(of("[a](../README.md#no-such)"), [format!("docs/a.md:1: {anchor}")]);
        assert_eq!(of("# A\n\n# A\n\n[a](#a-1) [b](#a-2)\n").len(), 1, "a second heading has a number");
    }

    #[test]
    fn a_file_that_is_not_there() {
        assert_eq!(
            of(
                "`ci/test` `ci/bench boot` `main.rs` `vmm/src/main.rs` `mm/gup.c` `configs/*.json` `/etc/x.md`"
            ),
            [""; 0]
        );
        assert_eq!(
            of("`ci/none` and `vmm/src/none.rs`,\n`no_such_file.rs`"),
            [
                "docs/a.md:1: there is no file ci/none",
                "docs/a.md:1: there is no file vmm/src/none.rs",
                "docs/a.md:2: there is no file no_such_file.rs"
            ]
        );
    }
}
