//! `boot-source`: the kernel, its initrd and its command line.

use std::{fs::File, path::Path, path::PathBuf};

use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::ConfigError;

/// The command line of a guest whose operator gives none, as in Firecracker: reset through the keyboard controller, a
/// reset a second after a panic, no modules, no serial port, no search for what is not there.
pub const DEFAULT_BOOT_ARGS: &str = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux \
                                     i8042.dumbkbd swiotlb=noforce";

/// What the guest boots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// A bzImage, or an ELF kernel with a PVH note.
    #[schema(value_type = String)]
    pub kernel_image_path: PathBuf,
    /// An initial RAM disk, if the kernel needs one.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub initrd_path: Option<PathBuf>,
    /// The kernel command line; Firecracker's `reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux
    /// i8042.dumbkbd swiotlb=noforce` if left out. Words for devices follow it, before ` -- ` and what is for init.
    #[serde(default)]
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

/// Shows a kernel that was not chosen yet as Firecracker does: without a name.
pub(super) fn or_none_yet<S: Serializer>(
    boot: &Option<BootSource>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    boot.as_ref().unwrap_or(&BootSource::default()).serialize(serializer)
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
