//! Slabs: objects of 1 to 4096 bytes in frames of type [`Slab`](crate::core::page_type::PageType::Slab).
//!
//! ```text
//!   CPU 0 ── front of each class: one group ─┐        class: a lock, a table of slabs, lists
//!   CPU 1 ── front of each class: one group ─┼──▶  partial ⇄ full     normal slabs
//!   …                                        │     partial ⇄ full     reserve slabs: MEMALLOC only
//!                                            │        ⇅
//!                                            └──   empty ──────────▶ frame allocator
//!
//!   slab: 1 to 8 frames      ├─ place 0 ─┼─ place 1 ─┼ … ┼─ place 31 ─┼─ place 32 ─┼ …   ┤tail┤
//!                            └────────────── group 0 ────────────────┴── group 1 …
//! ```
//!
//! [`Slabs`] are those of one owner: sizes differ from request to request, the owner does not, and so
//! frames are charged exactly by being charged to the owner of the slabs. [`MovableSlabs`] hand out
//! handles, and their objects can be moved out of a block.
//!
//! Life of a place: *free* in the bitmap of its slab, or *ready* in the front of one CPU, or *handed out*.
//! A front holds one group of 32 places and no other front holds it meanwhile. Alloc takes the lowest
//! ready place; free into the group that the own front holds makes it ready again. Freeing elsewhere
//! takes the lock of the class, marks the place, and lets the front change over to that group, so that
//! whoever frees neighbours pays for the first only. There is no list of freed objects that waits to be drained: a
//! place that is freed twice must be found at the second free and not when the list is drained, and
//! that takes the bitmap.
//!
//! Life of a slab: made when nothing else has a free place; *full* (in no list), *partial*, *empty*. Empty
//! slabs stay while their class has few with free places, as Linux's `min_partial` has it; `shrink`
//! returns them. A slab of reserve frames is returned as soon as it is empty.
//!
//! Reserve: fast paths know nothing of it. The fronts that they use hold normal slabs only. A request that
//! finds nothing there takes a new normal slab if it can have one; and only then, when it is `MEMALLOC`, a
//! place of a reserve slab, or reserve frames. The front of a reserve slab lets go of it after each object, so
//! that nothing keeps it once it is empty.
//!
//! Locks, in this order: lists of a CPU, class, lists of a CPU of the frame allocator. So nobody may call
//! slabs while holding [`Local`](crate::core::alloc::Local) frame lists.

mod cache;
mod class;
mod error;
mod front;
mod grow;
mod handle;
mod local;
mod movable;
mod object;
mod pool;
mod relocate;
mod squeeze;

#[cfg(test)]
#[cfg(not(memsvc_loom))]
mod tests;

#[cfg(test)]
#[cfg(memsvc_loom)]
mod loom;

pub use class::most_stuck;
pub use error::SlabError;
pub use handle::{Handle, Pinned};
pub use local::SlabLocal;
pub use movable::MovableSlabs;
pub use object::Object;
pub use pool::{SlabRequest, Slabs};
pub use relocate::Relocated;
pub use squeeze::is_worth_squeezing;
