//! Commands of the manual, as they stand there.
//!
//! ```text
//!   <!-- run: NAME -->      in the page's source; nobody who reads the page sees it
//!   ```
//!   the commands
//!   ```
//! ```

use anyhow::{Context, ensure};

use crate::paths;

/// The block of commands of this name on a page of the repository.
///
/// # Errors
/// There is no such page, or no such block on it.
pub fn block(page: &str, name: &str) -> anyhow::Result<String> {
    let path = paths::repository().join(page);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    find(&text, name).with_context(|| format!("{page} has no commands marked \"run: {name}\""))
}

/// All blocks of this name in README and the manual, with their pages.
///
/// # Errors
/// A page cannot be read, or no block follows a mark.
pub fn blocks(name: &str) -> anyhow::Result<Vec<(String, String)>> {
    let manual = std::fs::read_dir(paths::repository().join("docs"))?;
    let names = manual.map(|entry| anyhow::Ok(format!("docs/{}", entry?.file_name().display())));
    let mut pages = names.collect::<anyhow::Result<Vec<_>>>()?;
    pages.retain(|page| page.ends_with(".md"));
    pages.push("README.md".to_owned());
    pages.sort();
    let mut blocks = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(paths::repository().join(&page))?;
        let mut rest = text.as_str();
        while let Some((_, after)) = rest.split_once(&mark(name)) {
            blocks.push((page.clone(), find(rest, name).with_context(|| page.clone())?));
            rest = after;
        }
    }
    Ok(blocks)
}

fn mark(name: &str) -> String {
    format!("\n<!-- run: {name} -->\n")
}

fn find(page: &str, name: &str) -> anyhow::Result<String> {
    let (_, after) = page.split_once(&mark(name)).context("there is no such mark")?;
    let (before, after) = after.split_once("```\n").context("no block follows")?;
    ensure!(before.is_empty(), "no block follows the mark");
    let (block, _) = after.split_once("```\n").context("the block has no end")?;
    Ok(block.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_by_its_mark() {
        let page =
            "text\n<!-- run: a -->\n```\nls\ncat\n```\n\n```\nrm\n```\n<!-- run: b -->\ntext\n```\nls\n```\n";
        assert_eq!(find(page, "a").unwrap(), "ls\ncat\n");
        assert!(find(page, "b").is_err() && find(page, "c").is_err());
    }

    #[test]
    fn the_manual_has_commands_of_a_client_on_several_pages() {
        let blocks = blocks("client").unwrap();
        let pages: std::collections::BTreeSet<_> = blocks.iter().map(|(page, _)| page.as_str()).collect();
        assert!(
            pages.len() < blocks.len() && pages.contains("README.md") && pages.contains("docs/balloon.md")
        );
        assert!(blocks.iter().all(|(_, block)| !block.contains("```")));
    }
}
