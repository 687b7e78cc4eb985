//! `boot-source`: the kernel, its initrd and its command line.

use std::{fs::File, path::Path, path::PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ConfigError;

/// The command line of a guest whose operator gives none: console on the first serial port, reset
/// through the keyboard controller, and a reset at once after a panic, which ends the process.
pub const DEFAULT_BOOT_ARGS: &str = "console=ttyS0 reboot=k panic=-1 pci=off";

/// What the guest boots.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// A bzImage, or an ELF kernel with a PVH note.
    #[schema(value_type = String)]
    pub kernel_image_path: PathBuf,
    /// An initial RAM disk, if the kernel needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub initrd_path: Option<PathBuf>,
    /// The kernel command line; `console=ttyS0 reboot=k panic=-1 pci=off` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_args: Option<String>,
}

impl BootSource {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let args = self.boot_args.as_deref().unwrap_or_default();
        if args.contains(['\0', '\n', '\r']) {
            return Err(ConfigError::BootArgs);
        }
        Ok(())
    }

    /// Checks that kernel and initrd are there.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        readable_file("kernel image", &self.kernel_image_path)?;
        match &self.initrd_path {
            Some(path) => readable_file("initrd", path),
            None => Ok(()),
        }
    }
}

/// Checks that a regular, non-empty file is there and may be read. What is in it shows when it is loaded.
fn readable_file(what: &'static str, path: &Path) -> Result<(), ConfigError> {
    let failed = |source| ConfigError::File { what, path: path.to_owned(), source };
    // Look before opening: opening a FIFO would wait for its writer.
    let meta = std::fs::metadata(path).map_err(failed)?;
    if !meta.is_file() {
        return Err(ConfigError::NotAFile { what, path: path.to_owned(), wanted: "regular file" });
    }
    if meta.len() == 0 {
        return Err(ConfigError::EmptyFile { what, path: path.to_owned() });
    }
    File::open(path).map_err(failed)?;
    Ok(())
}
