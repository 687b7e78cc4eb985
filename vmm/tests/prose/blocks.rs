//! Blocks of commands in README and `docs/`: a program runs each, or it says by a word that it is something else.
//!
//! ```text
//!   <!-- Tested: guest, client by PROGRAM; NAME by PROGRAM -->    the page's first comment
//!   <!-- run: guest -->                                           before a block that begins with ``` alone
//! ```
//! A test's source runs a block by `docs::block("PAGE", "NAME")` or `docs::blocks("NAME")`. A script runs it by
//! `run PAGE NAME`, `start PAGE NAME` (in the background) or `block PAGE NAME`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::page::Page;

/// Scripts that run all others.
const WHOLE: [&str; 2] = ["ci/test", "ci/soak"];
/// Sources that `ci/test` runs.
const SCENARIOS: &str = "guest-tests/tests/scenarios/";
/// Blocks that a program finds on all pages, wherever and however often they stand.
const EVERYWHERE: &str = "client";

#[test]
fn every_block_of_commands_is_run_by_a_program() {
    let repository = crate::repository();
    let source = |program: &str| fs::read_to_string(repository.join(program)).ok();
    let pages = crate::pages();
    let manual = pages
        .iter()
        .filter(|page| page.name == Path::new(crate::FIRST_PAGE) || page.name.starts_with("docs"));
    crate::none(&manual.flat_map(|page| findings(page, &source)).collect::<Vec<_>>());
}

/// Blocks that nobody runs, and marks that lead to none.
fn findings(page: &Page, source: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let name = page.name.display();
    let said = page.comments.first().map_or("", |(_, comment)| comment.as_str());
    let (mut findings, mut names, mut marked) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (line, comment) in &page.comments {
        let Some(block) = comment.strip_prefix("run: ") else { continue };
        marked.insert(line + 1);
        match program(said, block) {
            None => findings.push(format!(
                "{name}:{line}: the comment at the top does not say which program runs \"{block}\""
            )),
            Some(program) => {
                if !is_run(&page.name, block, source(program).as_deref().unwrap_or_default(), program) {
                    findings.push(format!("{name}:{line}: {program} does not run \"{block}\""));
                }
                let is_called = |script: &&str| source(script).is_some_and(|text| has_word(&text, program));
                if !program.starts_with(SCENARIOS) && !WHOLE.iter().any(is_called) {
                    findings.push(format!("{name}:{line}: nothing runs {program}"));
                }
            }
        }
        if block != EVERYWHERE && !names.insert(block) {
            findings.push(format!("{name}:{line}: there are two blocks \"{block}\""));
        }
        if page.code.get(&(line + 1)).is_none_or(|what| !what.is_empty()) {
            findings.push(format!("{name}:{line}: no block of commands follows"));
        }
    }
    let commands = page.code.iter().filter(|(_, what)| what.is_empty());
    let unmarked = commands.filter(|(line, _)| !marked.contains(line));
    findings
        .extend(unmarked.map(|(line, _)| format!("{name}:{line}: no program runs this block of commands")));
    findings
}

/// The program that a page says for a block: the word after the "by" that follows its name.
fn program<'a>(said: &'a str, block: &str) -> Option<&'a str> {
    let mut words = said.split_whitespace().map(|word| word.trim_matches([',', ';', '(', ')', '.']));
    words.find(|word| *word == block)?;
    words.find(|word| *word == "by")?;
    words.next()
}

/// Whether the text of a program runs this block of a page.
fn is_run(page: &Path, block: &str, text: &str, program: &str) -> bool {
    let page = page.display();
    if program.ends_with(".rs") {
        let one = format!("docs::block(\"{page}\", \"{block}\")");
        return text.contains(&one) || text.contains(&format!("docs::blocks(\"{block}\")"));
    }
    ["run", "start", "block"].iter().any(|verb| has_word(text, &format!("{verb} {page} {block}")))
}

/// Whether a text has these words, and not as a part of others.
fn has_word(text: &str, words: &str) -> bool {
    let is_end = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '-');
    text.match_indices(words).any(|(at, _)| is_end(text[at + words.len()..].chars().next()))
}

mod broken {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let source = |program: &str| {
            let text = match program {
                "ci/a" => "run docs/a.md boot-all\nrun docs/a.md boot\n",
                "ci/b" => "run docs/a.md off",
                "guest-tests/tests/scenarios/s.rs" => "docs::block(\"docs/a.md\", \"guest\")",
                "ci/test" => "step \"$repo/ci/a\"",
                _ => return None,
            };
            Some(text.to_owned())
        };
        findings(&Page::parse(Path::new("docs/a.md"), text), &source)
    }

    const TOP: &str = "<!-- Tested: boot, of by ci/a; off by ci/b; guest, client by guest-tests/tests/scenarios/s.rs -->\n\n";

    fn marked(block: &str) -> String {
        format!("<!-- run: {block} -->\n```\nls\n```\n")
    }

    #[test]
    fn a_block_that_nobody_runs() {
        assert_eq!(of(&format!("{TOP}{}\n{}", marked("boot"), marked("guest"))), [""; 0]);
        assert_eq!(of("Text.\n\n```text\nls\n```\n"), [""; 0]);
        assert_eq!(of("Text.\n\n```\nls\n```\n"), ["docs/a.md:3: no program runs this block of commands"]);
        assert_eq!(
            of(&format!("{TOP}{}\n{}", marked("of"), marked("client"))),
            [
                "docs/a.md:3: ci/a does not run \"of\"",
                "docs/a.md:8: guest-tests/tests/scenarios/s.rs does not run \"client\""
            ]
        );
        assert_eq!(of(&format!("{TOP}{}", marked("off"))), ["docs/a.md:3: nothing runs ci/b"]);
        let twice = format!("{TOP}{}\n{}", marked("boot"), marked("boot"));
        assert_eq!(of(&twice), ["docs/a.md:8: there are two blocks \"boot\""]);
    }

    #[test]
    fn a_mark_that_leads_to_no_block() {
        let top = "the comment at the top does not say which program runs";
        assert_eq!(of(&format!("{TOP}{}", marked("on"))), [format!("docs/a.md:3: {top} \"on\"")]);
        assert_eq!(
            of(&format!("{TOP}<!-- run: boot -->\n\nText\n")),
            ["docs/a.md:3: no block of commands follows"]
        );
        assert_eq!(
            of(&format!("{TOP}<!-- run: boot -->\n```text\nls\n```\n")),
            ["docs/a.md:3: no block of commands follows"]
        );
    }
}
