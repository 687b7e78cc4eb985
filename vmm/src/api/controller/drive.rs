//! The drive calls of the [`Controller`].

use super::{super::types::DriveUpdate, ControlError, Controller};
use crate::vm::config::{ConfigError, Drive, check_id};

impl Controller {
    /// `PUT /drives/{id}`.
    pub fn set_drive(&mut self, id: &str, drive: Drive) -> Result<(), ControlError> {
        check_id(id)?;
        same(id, &drive.drive_id)?;
        self.change(|config| {
            drive.check_file()?;
            config.set_drive(drive);
            config.check_shared_disks()
        })
    }

    /// `PATCH /drives/{id}`.
    pub fn update_drive(&mut self, id: &str, update: DriveUpdate) -> Result<(), ControlError> {
        same(id, &update.drive_id)?;
        let vm = self.vm.as_mut().ok_or(ControlError::BeforeStart)?;
        let mut drives = self.config.drives.iter_mut();
        let drive = drives.find(|drive| drive.drive_id == id);
        let drive = drive.ok_or_else(|| ControlError::NoDrive(id.to_owned()))?;
        let mut changed = drive.clone();
        if let Some(path) = &update.path_on_host {
            changed.path_on_host.clone_from(path);
            changed.check_file()?;
        }
        if let Some(limits) = update.rate_limiter {
            changed.rate_limiter = Some(drive.rate_limiter.unwrap_or_default().changed_by(limits));
        }
        vm.update_drive(id, update.path_on_host.as_deref(), update.rate_limiter.unwrap_or_default())?;
        *drive = changed;
        tracing::info!(id, path = ?update.path_on_host, limits = ?update.rate_limiter, "A drive is changed");
        Ok(())
    }
}

fn same(path: &str, body: &str) -> Result<(), ConfigError> {
    if path == body {
        return Ok(());
    }
    Err(ConfigError::DriveIdMismatch { path: path.to_owned(), body: body.to_owned() })
}
