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

fn find(page: &str, name: &str) -> anyhow::Result<String> {
    let (_, after) =
        page.split_once(&format!("\n<!-- run: {name} -->\n")).context("there is no such mark")?;
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
}
