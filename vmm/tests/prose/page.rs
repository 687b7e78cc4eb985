//! A page of Markdown, as the rules look at it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// The place of a code span in a block's text: one word, without a sentence's end in it.
pub(crate) const CODE: &str = "`code`";

/// A paragraph, heading, list item or table cell.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// A table, with the line of its header.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) line: usize,
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// A page.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Path in the repository.
    pub(crate) name: PathBuf,
    pub(crate) blocks: Vec<Block>,
    pub(crate) tables: Vec<Table>,
    /// Headings as their anchors on the web.
    pub(crate) anchors: BTreeSet<String>,
    /// Destinations of links, with their lines.
    pub(crate) links: Vec<(usize, String)>,
    /// Code spans, with their lines.
    pub(crate) spans: Vec<(usize, String)>,
    /// Comments, with the lines of their ends.
    pub(crate) comments: Vec<(usize, String)>,
    /// Lines at which fenced blocks begin, and the word that says what is in them: none for commands.
    pub(crate) code: BTreeMap<usize, String>,
}

impl Page {
    /// The page of this name with this text.
    pub(crate) fn parse(name: &Path, markdown: &str) -> Self {
        let mut page = Self { name: name.to_owned(), ..Self::default() };
        // The block that is being read: with code spans as one word, and with their text, for anchors and cells.
        let (mut text, mut whole, mut start) = (String::new(), String::new(), 0);
        let mut is_code = false;
        let mut html = String::new();
        for (event, range) in Parser::new_ext(markdown, Options::ENABLE_TABLES).into_offset_iter() {
            let line_at = |offset: usize| markdown[..offset].matches('\n').count() + 1;
            let line = line_at(range.start);
            match event {
                Event::Text(_) if is_code => {}
                Event::Text(part) => add(&mut text, &mut whole, &mut start, line, &part, &part),
                Event::Code(part) => {
                    add(&mut text, &mut whole, &mut start, line, CODE, &part);
                    page.spans.push((line, part.into_string()));
                }
                Event::SoftBreak | Event::HardBreak => add(&mut text, &mut whole, &mut start, line, " ", " "),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push((line, dest_url.into_string()));
                }
                // Within a block.
                Event::Start(Tag::Emphasis | Tag::Strong | Tag::Strikethrough)
                | Event::End(
                    TagEnd::Link | TagEnd::Image | TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough,
                ) => {}
                Event::Html(part) | Event::InlineHtml(part) => html.push_str(&part),
                Event::End(TagEnd::HtmlBlock) => {
                    let comment = html.trim().strip_prefix("<!--").and_then(|html| html.strip_suffix("-->"));
                    if let Some(comment) = comment {
                        page.comments.push((line_at(range.end.saturating_sub(1)), comment.trim().to_owned()));
                    }
                    html.clear();
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    page.flush(&mut text, &mut whole, start);
                    is_code = true;
                    if let CodeBlockKind::Fenced(what) = kind {
                        page.code.insert(line, what.into_string());
                    }
                }
                Event::End(TagEnd::CodeBlock) => is_code = false,
                Event::End(TagEnd::Heading(_)) => {
                    page.add_anchor(&whole);
                    page.flush(&mut text, &mut whole, start);
                }
                Event::Start(Tag::Table(_)) => page.tables.push(Table { line, ..Table::default() }),
                Event::Start(Tag::TableRow) => {
                    page.tables.last_mut().expect("a table").rows.push(Vec::new());
                }
                Event::End(TagEnd::TableCell) => {
                    let table = page.tables.last_mut().expect("a table");
                    let row = table.rows.last_mut().unwrap_or(&mut table.header);
                    row.push(whole.trim().to_owned());
                    page.flush(&mut text, &mut whole, start);
                }
                _ => page.flush(&mut text, &mut whole, start),
            }
        }
        page
    }

    fn flush(&mut self, text: &mut String, whole: &mut String, line: usize) {
        whole.clear();
        let text = std::mem::take(text);
        if !text.trim().is_empty() {
            self.blocks.push(Block { line, text });
        }
    }

    fn add_anchor(&mut self, heading: &str) {
        let kept = heading.trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = (1..).map(|count| format!("{anchor}-{count}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|anchor| !self.anchors.contains(anchor));
        self.anchors.extend(free);
    }
}

fn add(text: &mut String, whole: &mut String, start: &mut usize, line: usize, part: &str, full: &str) {
    if text.is_empty() {
        *start = line;
    }
    text.push_str(part);
    whole.push_str(full);
}
