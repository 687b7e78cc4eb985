//! Where things lie in the repository.

use std::path::{Path, PathBuf};

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target directory, where everything that is made goes.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// The monitor.
#[must_use]
pub fn aerostat() -> PathBuf {
    target().join("release/aerostat")
}

/// The monitor whose memory is used up as soon as somebody says so (`bin/aerostat-occupied.rs`).
#[must_use]
pub fn aerostat_occupied() -> PathBuf {
    target().join("release/aerostat-occupied")
}
