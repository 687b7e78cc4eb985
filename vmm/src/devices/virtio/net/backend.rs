//! The other side of the network card: where frames go, and where they come from.

use std::io;
use std::os::fd::RawFd;

use super::{Inbox, Outgoing};

/// What became of a frame from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmitted {
    /// It was taken.
    Sent,
    /// It is dropped: there was no room for it.
    Full,
    /// It is dropped: nobody wants it.
    Refused,
    /// It waits in the guest's queue, with all behind it. Only after the [`Inbox`] said
    /// [`Wait`](super::Room::Wait): the frame is shown again when the inbox may have room.
    Later,
}

/// Where frames go and come from. Called from the event loop, one call at a time; calls do not wait for
/// anybody outside this process.
pub trait NetBackend: Send {
    /// Offloads (of [`feature::OFFLOADS`](super::feature::OFFLOADS)) that it can do.
    fn features(&self) -> u64;

    /// A driver is there, and agreed to these offloads: none but [`Self::features`], and none
    /// without what it needs.
    fn set_offloads(&mut self, features: u64) -> io::Result<()>;

    /// Takes a frame from the guest. What it answers can go to `inbox` at once.
    fn transmit(&mut self, frame: &Outgoing<'_>, inbox: &mut Inbox<'_>) -> Transmitted;

    /// Puts frames into `inbox`, until there are no more or the inbox says [`Wait`](super::Room::Wait). Called
    /// after an event, when the inbox may have room again, and when a driver has come.
    fn receive(&mut self, inbox: &mut Inbox<'_>);

    /// What to poll for input, from start to end; an edge on any of them leads to [`Self::receive`].
    fn events(&self) -> Vec<RawFd>;

    /// The driver is gone: what was on its way to it is dropped, and no offload is agreed upon.
    fn reset(&mut self);
}
