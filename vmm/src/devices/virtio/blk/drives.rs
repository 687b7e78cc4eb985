//! The operator's side of all disks of a guest, by their ids. Two disks have one file only if both just read it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::{BlockControl, FileId, OpenError};
use crate::devices::virtio::rate::Limits;

/// The disks of a guest.
#[derive(Debug, Default)]
pub struct Drives(HashMap<String, Arc<BlockControl>>);

impl Drives {
    /// Adds one.
    pub fn insert(&mut self, drive_id: &str, control: &Arc<BlockControl>) {
        self.0.insert(drive_id.to_owned(), Arc::clone(control));
    }

    /// As [`BlockControl::update`]; `None` if there is no such disk.
    ///
    /// # Errors
    /// Another disk has the file, or is about to, or the file cannot be used.
    pub fn update(
        &self,
        drive_id: &str,
        path: Option<&Path>,
        limits: Limits,
    ) -> Option<Result<(), OpenError>> {
        let drive = self.0.get(drive_id)?;
        let holder = path.and_then(|path| {
            let file = FileId::at(path).ok()?;
            let mut others = self.0.iter().filter(|(id, _)| *id != drive_id);
            let (holder, _) = others.find(|(_, other)| other.excludes(file, drive.is_read_only()))?;
            Some(OpenError::InUseByDrive { path: path.to_owned(), drive_id: holder.clone() })
        });
        Some(holder.map_or_else(|| drive.update(path, limits), Err))
    }
}
