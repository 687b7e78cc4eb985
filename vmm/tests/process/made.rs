//! Parts of pages in `docs/` that tests make, between a line before them and one after.

use std::path::Path;

/// Checks that the part between these lines of a page is this text; or writes the text there, if `AEROSTAT_WRITE_PAGES` is set.
/// `test` is how cargo runs the test that asks.
pub(crate) fn check(page: &str, [begin, end]: [&str; 2], part: &str, test: &str) {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).join(page);
    let old = std::fs::read_to_string(&path).expect("the page");
    let (before, rest) = old.split_once(begin).expect("where the part begins");
    let (_, after) = rest.split_once(end).expect("where the part ends");
    let new = format!("{before}{begin}{part}{end}{after}");
    if std::env::var_os("AEROSTAT_WRITE_PAGES").is_some() {
        std::fs::write(&path, new).expect("written");
    } else {
        assert!(new == old, "docs/{page} is old: run `AEROSTAT_WRITE_PAGES=1 cargo test -p vmm {test}`");
    }
}
