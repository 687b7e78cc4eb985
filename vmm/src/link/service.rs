//! The two neighbours of the peer: who answers connections, and who takes frames to the guest.

use super::Header;

/// Who answers on the port.
pub trait Service {
    /// One connection's end.
    type Stream: Stream;

    /// The guest has opened a connection. `None` resets it.
    fn connect(&mut self) -> Option<Self::Stream>;
}

/// One connection, from the side that answers. It is dropped when the guest resets the connection, when the
/// guest has sent its last byte and nothing is left to be said, or when it is over.
///
/// When a stream that took no bytes, or had none to send, can go on, [`super::Peer::poll`] is to be called.
pub trait Stream {
    /// Takes bytes that have come, as many as it can now; says how many.
    fn receive(&mut self, bytes: &[u8]) -> usize;

    /// Fills `out` from its start with what is to be sent; says how many bytes.
    fn send(&mut self, out: &mut [u8]) -> usize;

    /// The guest has said its last byte: what it waits for may be done elsewhere meanwhile. Told each time before what is
    /// left of it is offered.
    fn last_word(&mut self) {}

    /// True when it had nothing to send, but is at something and will have: the guest's last byte does not end it.
    fn is_waiting(&self) -> bool {
        false
    }

    /// All has been said and handed out: the connection is closed, after what is still under way.
    fn is_over(&self) -> bool;
}

/// Where frames to the guest go: its receive buffers.
pub trait Transmit {
    /// Whether a frame of `len` bytes, without the virtio-net header, can be taken now. Where it can, so can
    /// a shorter one.
    fn has_room(&mut self, len: usize) -> bool;

    /// Takes a frame for which there was room.
    fn transmit(&mut self, header: &Header, frame: &[u8]);
}
