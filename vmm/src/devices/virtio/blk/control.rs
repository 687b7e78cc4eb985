//! The operator's side of a disk: another file behind it, and its limits. No call waits for the device: the file is opened
//! where the operator asks, and the device finds it at its next event.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use super::{BlockBackend, FileId, OpenError};
use crate::devices::virtio::face::Face;
use crate::devices::virtio::rate::Limits;

/// The face of one disk.
#[derive(Debug)]
pub struct BlockControl(Face<State>);

#[derive(Debug)]
struct State {
    /// The file behind the disk. The device has the same.
    current: BlockBackend,
    /// The file that is to be there, until it is.
    asked: Option<BlockBackend>,
    /// New limits that the device has not seen.
    limits: Limits,
}

impl BlockControl {
    pub(super) fn new(current: BlockBackend) -> io::Result<Self> {
        Face::new(State { current, asked: None, limits: Limits::default() }).map(Self)
    }

    /// Puts the file at `path`, if one is named, behind the disk, and sets new limits: what they leave out stays, and
    /// buckets begin full. Requests under way end on the old file.
    ///
    /// # Errors
    /// The file cannot be used; then nothing has changed.
    pub fn update(&self, path: Option<&Path>, limits: Limits) -> Result<(), OpenError> {
        // Opening may take its time, so not while the device wants to look. These keep their locks meanwhile.
        let open = {
            let state = self.0.lock();
            [Some(state.current.clone()), state.asked.clone()]
        };
        let open = open.iter().flatten();
        let backend = path.map(|path| BlockBackend::open_beside(path, open)).transpose()?;
        self.ask(backend, limits);
        Ok(())
    }

    /// Whether the guest may only read.
    pub(super) fn is_read_only(&self) -> bool {
        self.0.lock().current.is_read_only()
    }

    /// Whether this disk has the file, or is about to, so that another disk cannot have it. Two that only read can.
    pub(super) fn excludes(&self, file: FileId, is_read_only: bool) -> bool {
        let state = self.0.lock();
        let mut open = [Some(&state.current), state.asked.as_ref()].into_iter().flatten();
        open.any(|image| image.is(file) && !(is_read_only && image.is_read_only()))
    }

    /// As [`Self::update`], with a file that is open.
    pub(super) fn ask(&self, backend: Option<BlockBackend>, limits: Limits) {
        self.0.change(|state| {
            state.asked = backend.or(state.asked.take());
            state.limits = state.limits.changed_by(limits);
        });
    }

    /// For the device: limits that are new, which are its own then.
    pub(super) fn take_limits(&self) -> Limits {
        std::mem::take(&mut self.0.lock().limits)
    }

    /// For the device: whether there is to be another file.
    pub(super) fn asks_for_file(&self) -> bool {
        self.0.lock().asked.is_some()
    }

    /// For the device: exchanges its file for the one that is asked for. The old one is closed under the lock, so that
    /// it is either found here or free to be opened.
    pub(super) fn exchange(&self, backend: &mut BlockBackend) {
        let mut state = self.0.lock();
        if let Some(asked) = state.asked.take() {
            backend.clone_from(&asked);
            state.current = asked;
        }
    }

    /// For the device: something is asked.
    pub(super) fn event(&self) -> RawFd {
        self.0.event()
    }
}
