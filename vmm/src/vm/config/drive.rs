//! `drives`: raw disk images and block devices.

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ConfigError, RateLimiter, absent::null_is_default, image};
use crate::devices::virtio::blk::{FileId, check_ring};

/// One disk of the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drive {
    /// Name by which the API knows the disk: in its calls letters, digits, underscores.
    pub drive_id: String,
    /// Whether the kernel is told to mount it as its root.
    pub is_root_device: bool,
    /// A raw image or a block device. Required: Firecracker's other kind, vhost-user, is not there.
    #[serde(default, deserialize_with = "null_is_default")]
    #[schema(value_type = String, required)]
    pub path_on_host: PathBuf,
    /// Whether the guest may only read.
    #[serde(default, deserialize_with = "null_is_default")]
    pub is_read_only: bool,
    /// Partition that holds the root file system; only on the root device it matters.
    #[serde(default)]
    pub partuuid: Option<String>,
    /// Whether the guest is offered a flush command.
    #[serde(default)]
    pub cache_type: CacheType,
    /// How requests are carried out.
    #[serde(default, deserialize_with = "null_is_default")]
    pub io_engine: IoEngine,
    /// Limits on requests and what they move; none if left out.
    #[serde(default)]
    pub rate_limiter: Option<RateLimiter>,
    /// Socket of a vhost-user disk: only `null`.
    #[serde(default)]
    pub socket: Option<String>,
}

/// What a guest's flush does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum CacheType {
    /// The guest is offered no flush; the host writes back when it likes.
    #[default]
    Unsafe,
    /// The guest's flush reaches the disk.
    Writeback,
}

/// How requests are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum IoEngine {
    /// By plain reads and writes, one after another.
    #[default]
    Sync,
    /// By io_uring: many at a time, if the host's kernel lets the monitor have it.
    Async,
}

impl Drive {
    /// What the kernel is told about its root.
    pub(super) fn root_args(&self) -> String {
        let mode = if self.is_read_only { "ro" } else { "rw" };
        match &self.partuuid {
            Some(uuid) => format!("root=PARTUUID={uuid} {mode}"),
            None => format!("root=/dev/vda {mode}"),
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if self.drive_id.is_empty() {
            return Err(ConfigError::NoId("drive"));
        }
        if self.socket.is_some() {
            return Err(ConfigError::VhostUser(self.drive_id.clone()));
        }
        if self.path_on_host.as_os_str().is_empty() {
            return Err(ConfigError::NoPath(self.drive_id.clone()));
        }
        if self.partuuid.as_deref().is_some_and(|uuid| uuid.contains(char::is_whitespace)) {
            return Err(ConfigError::Partuuid(self.drive_id.clone()));
        }
        Ok(())
    }

    /// Checks that the disk is there, is raw and may be opened as it will be, and that the kernel has what its engine needs.
    pub fn check_file(&self) -> Result<(), ConfigError> {
        if self.io_engine == IoEngine::Async {
            check_ring()?;
        }
        const WHAT: &str = "disk";
        let path = &self.path_on_host;
        let failed = |source| ConfigError::File { what: WHAT, path: path.clone(), source };
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let wanted = "regular file or block device";
            return Err(ConfigError::NotAFile { what: WHAT, path: path.clone(), wanted });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(!self.is_read_only)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if !self.is_read_only => {
                    ConfigError::NotWritable(path.clone(), source)
                }
                _ => failed(source),
            })?;
        let form = if kind.is_file() { image::form(&file).map_err(failed)? } else { None };
        match form {
            Some(form) => Err(ConfigError::NotRaw { path: path.clone(), form }),
            None => Ok(()),
        }
    }
}

/// Checks that no two have one file, unless both only read it.
pub(super) fn check_shared(drives: &[Drive]) -> Result<(), ConfigError> {
    let mut held: Vec<(FileId, &Drive)> = Vec::new();
    for drive in drives {
        let path = &drive.path_on_host;
        // One that is missing is somebody else's to tell.
        let Ok(file) = FileId::at(path) else { continue };
        let is_written = |other: &Drive| !(drive.is_read_only && other.is_read_only);
        if let Some((_, other)) = held.iter().find(|(known, other)| *known == file && is_written(other)) {
            let drives = [other, drive].map(|drive| drive.drive_id.clone());
            return Err(ConfigError::SharedDisk { path: path.clone(), drives });
        }
        held.push((file, drive));
    }
    Ok(())
}

pub(super) fn validate_all(drives: &[Drive]) -> Result<(), ConfigError> {
    let mut seen = HashSet::new();
    let mut root: Option<&Drive> = None;
    for drive in drives {
        drive.validate()?;
        if !seen.insert(&drive.drive_id) {
            return Err(ConfigError::DuplicateDrive(drive.drive_id.clone()));
        }
        if let (true, Some(first)) = (drive.is_root_device, root) {
            return Err(ConfigError::TwoRoots(first.drive_id.clone(), drive.drive_id.clone()));
        }
        if drive.is_root_device {
            root = Some(drive);
        }
    }
    Ok(())
}
