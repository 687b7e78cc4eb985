//! Refusals of slabs.

use super::handle::Handle;
use crate::core::page_type::PageType;
use crate::core::request::{AllocError, FreeError};
use crate::core::units::{FrameId, OwnerId};

/// A refusal. The slabs are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlabError {
    /// Objects are of 1 to 4096 bytes.
    #[error("an object of {0} bytes does not go into a slab: 1 to 4096 bytes do")]
    Size(usize),
    /// A slab had to be made and there were no frames for it.
    #[error("no frames for a slab of objects of {size} bytes")]
    NoFrames {
        /// Bytes of its places.
        size: u16,
        /// Why.
        #[source]
        cause: AllocError,
    },
    /// The table of slabs or handles had to grow and the process got no memory for it.
    #[error("no memory for the table of slabs")]
    NoTable,
    /// It does not lie in any of these slabs.
    #[error("frame {} ({tag:?} of owner {}) is not of these slabs", frame.0, owner.0)]
    NotOurs {
        /// The frame in which it starts.
        frame: FrameId,
        /// What that is for.
        tag: PageType,
        /// Whose it is, or was.
        owner: OwnerId,
    },
    /// There is no such frame.
    #[error("frame {} is not of this arena", .0.0)]
    OutOfRange(FrameId),
    /// It lies in a slab, but no place starts there.
    #[error("byte {offset} of frame {} (slab of {size} bytes, owner {}) is not the start of an object", frame.0, owner.0)]
    NotAnObject {
        /// The frame in which it starts.
        frame: FrameId,
        /// Where in the frame.
        offset: u16,
        /// Bytes of a place there.
        size: u16,
        /// Whose it is.
        owner: OwnerId,
    },
    /// The slab is of another size class.
    #[error("frame {} (slab of {is} bytes, owner {}) holds no objects of {given} bytes", frame.0, owner.0)]
    WrongClass {
        /// The frame in which it starts.
        frame: FrameId,
        /// Bytes of a place there.
        is: u16,
        /// Bytes of the place of such an object.
        given: u16,
        /// Whose it is.
        owner: OwnerId,
    },
    /// It is free: freed twice, or never handed out.
    #[error("place {place} of the slab with frame {} ({size} bytes, owner {}) is free: freed twice, or never handed out", frame.0, owner.0)]
    NotHandedOut {
        /// The frame in which it starts.
        frame: FrameId,
        /// Which place of the slab.
        place: u8,
        /// Bytes of a place.
        size: u16,
        /// Whose the slab is.
        owner: OwnerId,
    },
    /// No object has this handle: freed twice, or never handed out.
    #[error("handle {} has no object: freed twice, or never handed out", .0.0)]
    NoObject(Handle),
    /// The object is in use by as many as can be counted, or is to be freed while it is in use.
    #[error("the object of handle {} is in use", .0.0)]
    Pinned(Handle),
    /// The frame allocator refused what is a slab's: one of its frames was freed by another.
    #[error("the frames of a slab are not as they were handed out")]
    Frames(#[source] FreeError),
}
