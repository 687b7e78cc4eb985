//! The operator's side of a network card: its limits. No call waits for the device.

use std::io;
use std::os::fd::RawFd;

use crate::devices::virtio::face::Face;
use crate::devices::virtio::rate::Limits;

/// The face of one network card.
#[derive(Debug)]
pub struct NetControl(Face<Asked>);

/// Wishes for a card that are not done yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) rx: Limits,
    pub(super) tx: Limits,
}

impl NetControl {
    pub(super) fn new() -> io::Result<Self> {
        Face::new(Asked::default()).map(Self)
    }

    /// Sets new limits on what the guest receives and sends. What is left out stays; buckets begin full.
    pub fn set_limits(&self, rx: Limits, tx: Limits) {
        self.0.change(|asked| {
            asked.rx = asked.rx.changed_by(rx);
            asked.tx = asked.tx.changed_by(tx);
        });
    }

    /// For the device: what is asked, which is done then.
    pub(super) fn take(&self) -> Asked {
        std::mem::take(&mut self.0.lock())
    }

    /// For the device: something is asked.
    pub(super) fn event(&self) -> RawFd {
        self.0.event()
    }
}
