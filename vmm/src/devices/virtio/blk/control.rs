//! The operator's side of a disk: another file behind it, and its limits. No call waits for the device: the file is opened
//! where the operator asks, and the device finds it at its next event.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use super::{BlockBackend, OpenError};
use crate::devices::virtio::face::Face;
use crate::devices::virtio::rate::Limits;

/// The face of one disk.
#[derive(Debug)]
pub struct BlockControl(Face<State>);

#[derive(Debug)]
struct State {
    /// The file behind the disk, or the one that will be.
    backend: BlockBackend,
    asked: Asked,
}

/// Wishes for a disk that are not done yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) backend: Option<BlockBackend>,
    pub(super) limits: Limits,
}

impl BlockControl {
    pub(super) fn new(backend: BlockBackend) -> io::Result<Self> {
        Face::new(State { backend, asked: Asked::default() }).map(Self)
    }

    /// Puts the file at `path`, if one is named, behind the disk, and sets new limits: what they leave out stays, and
    /// buckets begin full. Requests under way end on the old file.
    ///
    /// # Errors
    /// The file cannot be used; then nothing has changed.
    pub fn update(&self, path: Option<&Path>, limits: Limits) -> Result<(), OpenError> {
        // Opening may take its time, so not while the device wants to look.
        let current = self.0.lock().backend.clone();
        let backend = path.map(|path| current.exchanged(path)).transpose()?;
        self.0.change(|state| {
            if let Some(backend) = backend {
                state.backend = backend.clone();
                state.asked.backend = Some(backend);
            }
            state.asked.limits = state.asked.limits.changed_by(limits);
        });
        Ok(())
    }

    /// For the device: what is asked, which is done then.
    pub(super) fn take(&self) -> Asked {
        std::mem::take(&mut self.0.lock().asked)
    }

    /// For the device: something is asked.
    pub(super) fn event(&self) -> RawFd {
        self.0.event()
    }
}
