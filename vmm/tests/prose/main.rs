//! The rules of prose in README, ARCHITECTURE, CONTRIBUTING, SECURITY and `docs/`, as far as a program can check them.
//! Help of the command line and the first paragraph of each module are under the rules, too.
//!
//! ```text
//!   page ─▶ `page`: blocks of prose, tables, links, names ─▶ `sentences`: length, first words
//!                                                        ├─▶ `links`: links, anchors, file names
//!                                                        ├─▶ `blocks`: which program runs each block of commands
//!                                                        └─▶ here: word limits, figures
//! ```
//! A finding is a line `file:line: what is wrong`; all of them come at once.

mod blocks;
mod help;
mod links;
mod page;
mod sentences;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use page::Page;

/// The pages under the rules, beside those of `docs/`.
const TOP: [&str; 4] = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"];
/// Words that a page may have, tables and headings with them, code without.
const LIMITS: [(&str, usize); 2] = [("README.md", 900), ("ARCHITECTURE.md", 3500)];
/// The page of all figures, and the page that repeats one table of it.
const FIGURES: &str = "docs/performance.md";
const FIRST_PAGE: &str = "README.md";
/// The first column of a table of figures.
const METRIC: &str = "metric";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// All files that are kept: their paths in the repository, in order.
fn files(repository: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(repository.join(&folder)).expect("a folder") {
            let entry = entry.expect("entry");
            let name = entry.file_name();
            if !entry.file_type().expect("type").is_dir() {
                files.push(folder.join(name));
            } else if name != "target" && !name.to_string_lossy().starts_with('.') {
                folders.push(folder.join(name));
            }
        }
    }
    files.sort();
    files
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|its| its == extension)
}

/// The pages under the rules.
fn pages() -> Vec<Page> {
    let is_page = |file: &&PathBuf| {
        TOP.iter().any(|top| *file == Path::new(top)) || file.starts_with("docs") && has_extension(file, "md")
    };
    files(&repository()).iter().filter(is_page).map(|file| page(file)).collect()
}

fn page(name: &Path) -> Page {
    let text =
        fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name:?}: {error}"));
    Page::parse(name, &text)
}

fn none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn sentences_are_short_and_begin_with_their_subject() {
    none(&pages().iter().flat_map(sentences::findings).collect::<Vec<_>>());
}

#[test]
fn help_is_in_sentences() {
    let pages = help::pages();
    assert!(
        pages.iter().any(|page| page
            .blocks
            .iter()
            .any(|block| block.text == "Number of vCPUs, 1 to 32 [default: 1]"))
    );
    none(&pages.iter().flat_map(sentences::findings).collect::<Vec<_>>());
}

/// The paragraph that says what a file is for.
#[test]
fn modules_begin_as_pages_do() {
    let modules = files(&repository()).into_iter().filter(|file| has_extension(file, "rs"));
    let first = |file: PathBuf| {
        let text = fs::read_to_string(repository().join(&file)).expect("a module");
        let lines = text.lines().map_while(|line| line.strip_prefix("//! "));
        Page::parse(&file, &lines.collect::<Vec<_>>().join("\n"))
    };
    none(&modules.map(first).flat_map(|first| sentences::findings(&first)).collect::<Vec<_>>());
}

#[test]
fn links_anchors_and_file_names_lead_somewhere() {
    let files = files(&repository());
    none(&pages().iter().flat_map(|page| links::findings(page, &repository(), &files)).collect::<Vec<_>>());
}

#[test]
fn pages_are_no_longer_than_people_read() {
    for (name, most) in LIMITS {
        none(&too_long(&page(Path::new(name)), most));
    }
}

fn too_long(page: &Page, most: usize) -> Vec<String> {
    let words = page.blocks.iter().map(|block| sentences::words(&block.text).count()).sum::<usize>();
    (words > most)
        .then(|| format!("{}:1: {words} words, and {most} are the most", page.name.display()))
        .into_iter()
        .collect()
}

#[test]
fn a_figure_stands_in_one_place() {
    let figures = page(Path::new(FIGURES));
    none(&pages().iter().flat_map(|page| misplaced(page, &figures)).collect::<Vec<_>>());
}

/// Tables of figures on other pages; the first page may repeat rows, cell by cell, and shares.
fn misplaced(page: &Page, figures: &Page) -> Vec<String> {
    let name = page.name.display();
    let mut findings = Vec::new();
    if page.name == figures.name {
        return findings;
    }
    let is_first = page.name == Path::new(FIRST_PAGE);
    for table in page.tables.iter().filter(|table| table.header.first().is_some_and(|cell| cell == METRIC)) {
        if !is_first {
            findings.push(format!("{name}:{}: a table of figures belongs into {FIGURES}", table.line));
            continue;
        }
        for row in &table.rows {
            let metric = row.first().map_or("", String::as_str);
            let same = |of: &page::Table| {
                of.rows.iter().any(|there| {
                    table.header.iter().zip(row).all(|(column, cell)| {
                        of.header.iter().position(|header| header == column).and_then(|at| there.get(at))
                            == Some(cell)
                    })
                })
            };
            if !figures.tables.iter().any(same) {
                findings.push(format!("{name}:{}: {FIGURES} has no such row of \"{metric}\"", table.line));
            }
        }
    }
    if is_first {
        let known: BTreeSet<&str> = figures.blocks.iter().flat_map(|block| shares(&block.text)).collect();
        for block in &page.blocks {
            for share in shares(&block.text).filter(|share| !known.contains(share)) {
                findings.push(format!("{name}:{}: {FIGURES} does not have {share} %", block.line));
            }
        }
    }
    findings
}

/// The numbers that stand before a percent sign.
fn shares(text: &str) -> impl Iterator<Item = &str> {
    let tokens = text.split_whitespace();
    tokens.clone().zip(tokens.skip(1)).filter(|(_, next)| next.starts_with('%')).map(|(number, _)| number)
}

mod broken {
    //! Each rule finds what breaks it.

    use super::*;

    fn parse(name: &str, text: &str) -> Page {
        Page::parse(Path::new(name), text)
    }

    #[test]
    fn a_page_that_is_too_long() {
        let page = parse(
            "README.md",
            "# One\n\nTwo three, `four five`.\n\n```\nsix seven\n```\n\n| eight |\n| --- |\n| nine |\n",
        );
        assert_eq!(too_long(&page, 6), [""; 0]);
        assert_eq!(too_long(&page, 5), ["README.md:1: 6 words, and 5 are the most"]);
    }

    #[test]
    fn a_figure_that_differs() {
        const HEADER: &str = "| metric | Aerostat | date |\n| --- | --- | --- |\n";
        let figures = parse(FIGURES, &format!("{HEADER}| whole | 98 % | today |\n"));
        let first = |text: &str| misplaced(&parse(FIRST_PAGE, text), &figures);
        assert_eq!(
            first("| metric | Aerostat |\n| --- | --- |\n| whole | 98 % |\n\nSo 98 % are whole.\n"),
            [""; 0]
        );
        assert_eq!(
            first("| metric | Aerostat |\n| --- | --- |\n| whole | 99 % |\n"),
            [
                "README.md:1: docs/performance.md has no such row of \"whole\"",
                "README.md:3: docs/performance.md does not have 99 %"
            ]
        );
        assert_eq!(first("Nearly 100 % are.\n"), ["README.md:1: docs/performance.md does not have 100 %"]);
        let elsewhere =
            misplaced(&parse("docs/swap.md", &format!("\n{HEADER}| whole | 98 % | today |\n")), &figures);
        assert_eq!(elsewhere, ["docs/swap.md:2: a table of figures belongs into docs/performance.md"]);
    }
}
