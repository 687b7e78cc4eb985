//! Sentences: how long they are, and how they begin.

use crate::page::Page;

/// Words of a sentence. A code span is one word.
const MOST: usize = 25;
/// Words that make a sentence of what is no sentence: its noun stands elsewhere, or nowhere.
const RELATIVES: [&str; 6] = ["what", "who", "whose", "whom", "whatever", "whoever"];
const PRONOUNS: [&str; 7] = ["it", "its", "they", "their", "them", "he", "she"];
/// Words that end with a dot, and do not end a sentence.
const ABBREVIATIONS: [&str; 4] = ["e.g.", "i.e.", "etc.", "vs."];

/// What is wrong with the sentences of a page.
pub(crate) fn findings(page: &Page) -> Vec<String> {
    let mut findings = Vec::new();
    for block in &page.blocks {
        for sentence in sentences(&block.text) {
            let (count, start) = (words(&sentence).count(), opening(&sentence));
            let mut find = |what: String| {
                findings.push(format!("{}:{}: {what}: {start}", page.name.display(), block.line))
            };
            if count > MOST {
                find(format!("a sentence of {count} words, and {MOST} are the most"));
            }
            let Some(first) = words(&sentence).next() else { continue };
            let first = first.trim_matches(|c: char| !c.is_alphanumeric());
            // A cell or an item that begins with a small letter is no sentence.
            if !first.starts_with(char::is_uppercase) {
                continue;
            }
            let first = first.to_lowercase();
            if RELATIVES.contains(&first.as_str()) && !sentence.ends_with('?') {
                find("a sentence that begins with a relative".to_owned());
            }
            if PRONOUNS.contains(&first.as_str()) {
                find("a sentence that begins with a pronoun, whose noun is elsewhere".to_owned());
            }
        }
    }
    findings
}

/// Words: tokens with a letter or a digit.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().filter(|token| token.contains(char::is_alphanumeric))
}

/// The sentences of a block. A dot, question or exclamation mark ends one, with brackets and quotes after it.
fn sentences(text: &str) -> Vec<String> {
    let mut sentences = vec![Vec::new()];
    for token in text.split_whitespace() {
        sentences.last_mut().expect("one").push(token);
        let bare = token.trim_end_matches([')', '"', '*', '”']);
        if bare.ends_with(['.', '?', '!']) && !ABBREVIATIONS.contains(&bare) {
            sentences.push(Vec::new());
        }
    }
    let joined = sentences.iter().map(|tokens| tokens.join(" "));
    joined.filter(|sentence| !sentence.is_empty()).collect()
}

/// Enough of a sentence to find it by.
fn opening(sentence: &str) -> String {
    let few: Vec<_> = sentence.split_whitespace().take(8).collect();
    few.join(" ")
}

mod broken {
    use std::path::Path;

    use super::*;

    fn of(text: &str) -> Vec<String> {
        findings(&Page::parse(Path::new("a.md"), text))
    }

    #[test]
    fn a_sentence_that_is_too_long() {
        let words = |count: usize| vec!["word"; count].join(" ");
        assert_eq!(of(&format!("{}.", words(25))), [""; 0]);
        let long = "a sentence of 26 words, and 25 are the most: word word word word word word word word";
        assert_eq!(of(&format!("# H\n\nShort. {}.\n", words(26))), [format!("a.md:3: {long}")]);
        assert_eq!(of(&format!("- {}\n- {}\n", words(20), words(26))), [format!("a.md:2: {long}")]);
        assert_eq!(
            of(&format!("| a | b |\n| - | - |\n| c | {} |\n", words(26))),
            [format!("a.md:3: {long}")]
        );
        // Code, links' addresses and what has no letters are not words.
        assert_eq!(of(&format!("{} `a b c. d` [e](https://f.g/h i) – → 12.5.", words(21))), [""; 0]);
        assert_eq!(of(&format!("```\n{}\n```\n\n<!-- {} -->\n", words(30), words(30))), [""; 0]);
        assert_eq!(
            of(&format!("{} e.g. {}.", words(12), words(13))).len(),
            1,
            "an abbreviation ends no sentence"
        );
    }

    #[test]
    fn a_sentence_that_begins_with_no_subject() {
        assert_eq!(
            of("What is free goes back."),
            ["a.md:1: a sentence that begins with a relative: What is free goes back."]
        );
        assert_eq!(of("Good. (Whose lists it uses.)").len(), 1);
        assert_eq!(of("*Who* waits is woken.").len(), 1);
        assert_eq!(of("What is a guest?\n\n- what the guest said\n"), [""; 0]);
        let pronoun = "a sentence that begins with a pronoun, whose noun is elsewhere";
        assert_eq!(of("A page moves. It is busy."), [format!("a.md:1: {pronoun}: It is busy.")]);
    }
}
